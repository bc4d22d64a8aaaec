package model

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// PassedFirst is the LastCheck of a server that HAProxy has not told anything about yet.
const PassedFirst = "passed the first check"

// Why says why the server takes no new requests; "" where it does. These are the words wherever people are told: in a table, by a
// command, on a page.
func (s *ServerStatus) Why() string {
	with := func(text string) string {
		if s.LastCheck == "" {
			return text
		}
		return text + ": " + s.LastCheck
	}
	switch {
	case s.Health == Pending && s.LastCheck == "":
		return "its first check is under way"
	case s.Health == Pending && s.LastCheck == PassedFirst:
		return "HAProxy does not have it yet"
	case s.Health == Pending:
		return with("it has not passed its first check")
	case s.Health == Down:
		return with("its checks fail")
	case s.Health == Maintenance:
		return "it is taken out for maintenance"
	case s.Health == Draining:
		return "it drains: it takes no new requests"
	case s.Weight.Int() == 0:
		return "it takes no new requests: its weight is 0"
	}
	return ""
}

// UpOf says how many of a service's servers are up.
func UpOf(up, all int) string {
	if all == 0 {
		return "none yet"
	}
	return fmt.Sprintf("%d of %d up", up, all)
}

// Unserved is an owner that does not serve, or not all that it asked for: why, and what to change.
type Unserved struct {
	Owner     Owner
	Why, Mend string
}

// Unserved lists what does not serve: what cannot be first, then servers that are not up, then what will come by itself or does not want
// to; each by owner. What an earlier kind tells of an owner hides what later ones do.
func (s *Status) Unserved() []Unserved {
	var out []Unserved
	seen := map[Owner]bool{}
	add := func(rows []Unserved) {
		slices.SortStableFunc(rows, func(a, b Unserved) int {
			return cmp.Or(strings.Compare(a.Owner.Source, b.Owner.Source), strings.Compare(a.Owner.Name, b.Owner.Name))
		})
		rows = slices.Compact(slices.DeleteFunc(rows, func(r Unserved) bool { return seen[r.Owner] }))
		for _, r := range rows {
			seen[r.Owner] = true
		}
		out = append(out, rows...)
	}
	var rows []Unserved
	for _, p := range s.Problems {
		rows = append(rows, Unserved{p.Owner, p.Reason, p.Mend})
	}
	add(rows)
	for _, v := range []Verdict{LeftOut, Offered, Waiting, Ignored} {
		rows = nil
		if v == Offered {
			for i := range s.Servers {
				if why := s.Servers[i].Why(); why != "" {
					rows = append(rows, Unserved{s.Servers[i].Owner, why, s.Servers[i].Mend})
				}
			}
		}
		for i := range s.Found {
			if f := &s.Found[i]; f.Verdict == v && f.Reason != "" {
				rows = append(rows, Unserved{f.Owner, f.Reason, f.Mend})
			}
		}
		add(rows)
	}
	return out
}
