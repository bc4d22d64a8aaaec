package model

import (
	"cmp"
	"slices"
	"strings"
)

// Table is how the routes of one listener are looked up, but for the rest. HAProxy has the same two maps: what explains a choice and what
// makes it are one thing. Keys are HOST/PATH, with an empty HOST for any.
type Table struct {
	Exact  map[string]Target // by the whole path
	Prefix map[string]Target // by its beginning, with a slash at the end: the longest one counts
}

// Target is what a route gives.
type Target struct {
	Route    Route
	Redirect bool // to the same path with a slash at its end, in place of Route's service
}

// RedirectValue stands in a map for a redirect to the slash. It is no name of a service.
const RedirectValue = "/"

// Value is what stands in the map.
func (t Target) Value() string {
	if t.Redirect {
		return RedirectValue
	}
	return t.Route.Service
}

// NewTable makes the table of one listener's routes. As in Go's http.ServeMux, a redirect to the slash takes only what would not be taken
// exactly otherwise.
func NewTable(routes []Route) Table {
	t := Table{Exact: make(map[string]Target, len(routes)), Prefix: make(map[string]Target, len(routes))}
	var wholes, slashes []Route
	for _, r := range routes {
		switch {
		case r.Match == Exact:
			t.Exact[r.Host+r.Path] = Target{Route: r}
			if r.Slash {
				slashes = append(slashes, r)
			}
		case r.Match == Prefix && r.Path == "/":
			t.Prefix[r.Host+"/"] = Target{Route: r}
		case r.Match == Prefix:
			t.Prefix[r.Host+r.Path+"/"] = Target{Route: r}
			if r.Slash {
				slashes = append(slashes, r)
			} else {
				wholes = append(wholes, r)
			}
		}
	}
	for _, r := range wholes {
		if _, taken := t.Exact[r.Host+r.Path]; !taken {
			t.Exact[r.Host+r.Path] = Target{Route: r}
		}
	}
	slices.SortStableFunc(slashes, func(a, b Route) int { return cmp.Compare(b.Match, a.Match) }) // of /a/{$} and /a/ the first is closer
	for _, r := range slashes {
		path := strings.TrimSuffix(r.Path, "/")
		if _, taken := t.Exact[r.Host+path]; taken {
			continue
		}
		if any, ok := t.Exact[path]; ok && !any.Redirect && r.Host != "" {
			if _, within := t.longest(r.Host, path); !within {
				continue // a route of any host takes it exactly, and none of this one at all
			}
		}
		t.Exact[r.Host+path] = Target{Route: r, Redirect: true}
	}
	return t
}

// Find gives what takes a request; host is what HostOf gives, and path is as it was sent, without the query. Routes of the host come before
// those of any, then the exact one, then the longest.
func (t Table) Find(host, path string) (Target, bool) {
	if host != "" && !strings.Contains(host, "/") {
		if target, ok := t.within(host, path); ok {
			return target, true
		}
	}
	return t.within("", path)
}

func (t Table) within(host, path string) (Target, bool) {
	if target, ok := t.Exact[host+path]; ok {
		return target, true
	}
	return t.longest(host, path)
}

func (t Table) longest(host, path string) (Target, bool) {
	for i := strings.LastIndexByte(path, '/'); i >= 0; i = strings.LastIndexByte(path[:i], '/') {
		if target, ok := t.Prefix[host+path[:i+1]]; ok {
			return target, true
		}
	}
	return Target{}, false
}
