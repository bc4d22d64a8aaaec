package supervisor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/fnlb/fnlb/model"
)

// keptCauses is how many causes an apply names; of further ones the number is told.
const keptCauses = 6

// What makes an apply necessary beside the States; the owner notes it with dirty.
const (
	causeStart   = "start of fnlb"
	causeFrozen  = "start of fnlb, frozen"
	causeDied    = "haproxy died"
	causeRebuilt = "the run directory was made again"
	causeForeign = "somebody else made HAProxy reload"
)

// causes collects who or what made an apply necessary, each once, in the order in which they came. Its size does not grow with the
// number of causes.
type causes struct {
	named []string
	more  int
}

// add notes causes. What is beyond the handful is counted, also when it comes twice: to know it would cost memory.
func (c *causes) add(list ...string) {
	for _, s := range list {
		switch {
		case s == "" || slices.Contains(c.named, s):
		case len(c.named) < keptCauses:
			c.named = append(c.named, model.Printable(s))
		default:
			c.more++
		}
	}
}

// take gives this one cause alone; the others wait for the apply that they are about.
func (c *causes) take(cause string) causes {
	c.named = slices.DeleteFunc(slices.Clone(c.named), func(s string) bool { return s == cause })
	return causes{named: []string{cause}}
}

// join puts the causes of an earlier attempt before those that came since.
func (c causes) join(since causes) causes {
	out := causes{named: slices.Clone(c.named), more: c.more}
	out.add(since.named...)
	out.more += since.more
	return out
}

// strings gives them as people read them; never nil.
func (c causes) strings() []string {
	out := slices.Clone(c.named)
	if c.more > 0 {
		out = append(out, fmt.Sprintf("and %d more", c.more))
	}
	if out == nil {
		out = []string{}
	}
	return out
}

// differences says what one wanted State has that the other has not and that concerns clients, in words that name the owners. Servers
// that are not admitted do not count: they are told when their first check passes. Its cost is that of one walk through both.
func (l *loop) differences(was, now model.State) (out causes) {
	asked := map[model.Owner]string{}
	for _, a := range now.Asked {
		asked[a.Owner] = a.By
	}
	by := askers()
	walk(was.Servers, now.Servers, func(before, after *model.Server) {
		switch {
		case before != nil && after != nil:
			if m := l.members[before.Key()]; m != nil && m.serves() {
				out.add(wishes(before, after) + byWhom(by(now, after.Owner)))
			}
		case before == nil && l.served.at(*after).IsValid():
			out.add(after.Owner.String() + " added")
		case after == nil:
			if m := l.members[before.Key()]; m != nil && m.serves() {
				out.add(before.Owner.String() + " removed" + byWhom(asked[before.Owner]))
			}
		}
	})
	if was.Revision > 0 && !(model.State{Rows: withoutServers(was.Rows)}).Equal(model.State{Rows: withoutServers(now.Rows)}) {
		out.add("listeners, routes or services changed")
	}
	return out
}

// wishes says what somebody asked for about a server that stays.
func wishes(before, after *model.Server) string {
	switch {
	case before.Admin != after.Admin:
		return fmt.Sprintf("%s set to %s", after.Owner, after.Admin)
	case before.Weight != after.Weight:
		return fmt.Sprintf("%s set to weight %s", after.Owner, after.Weight)
	}
	return after.Owner.String() + " changed"
}

func withoutServers(r model.Rows) model.Rows {
	r.Servers = nil
	return r
}

func byWhom(by string) string {
	if by == "" {
		return ""
	}
	return " by " + by
}

// walk calls differ for each server that only one of the sorted lists has (the other is nil then), or that is another one in each.
func walk(was, now []model.Server, differ func(before, after *model.Server)) {
	i, j := 0, 0
	for i < len(was) || j < len(now) {
		var order int
		switch {
		case i == len(was):
			order = 1
		case j == len(now):
			order = -1
		default:
			a, b := was[i].Key(), now[j].Key()
			order = cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.Name, b.Name))
		}
		switch {
		case order < 0:
			differ(&was[i], nil)
			i++
		case order > 0:
			differ(nil, &now[j])
			j++
		default:
			if was[i] != now[j] {
				differ(&was[i], &now[j])
			}
			i, j = i+1, j+1
		}
	}
}

// askers gives a look-up of who asked for an owner. The table is made when it is needed first, because most States add nobody.
func askers() func(model.State, model.Owner) string {
	var table map[model.Owner]string
	return func(st model.State, owner model.Owner) string {
		if table == nil {
			table = map[model.Owner]string{}
			for i := range st.Offers {
				if by := st.Offers[i].By; by != "" {
					table[st.Offers[i].Owner] = by
				}
			}
		}
		return table[owner]
	}
}
