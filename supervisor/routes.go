package supervisor

import (
	"slices"

	"github.com/fnlb/fnlb/model"
)

// ready leaves out routes to services of which no server has been admitted yet, where other routes serve these requests meanwhile: what is
// served does not become a 503 because somebody begins to offer it as well. A route that is in force stays.
func (l *loop) ready(st model.State) model.State {
	if !slices.ContainsFunc(st.Routes, func(r model.Route) bool { return r.Match != model.Rest }) {
		return st
	}
	servers := map[string]bool{} // services with servers, and whether one is admitted
	for i := range l.wanted.Servers {
		servers[l.wanted.Servers[i].Service] = false
	}
	for i := range st.Servers {
		servers[st.Servers[i].Service] = true
	}
	waits := func(r model.Route) bool {
		admitted, any := servers[r.Service]
		return any && !admitted && r.Match != model.Rest
	}
	waiting := map[model.RouteKey]model.Route{}
	for _, r := range st.Routes {
		if waits(r) {
			waiting[r.Key()] = r
		}
	}
	if len(waiting) == 0 {
		return st
	}
	if l.accepted != nil {
		for _, r := range l.accepted.state.Routes {
			if waiting[r.Key()] == r {
				delete(waiting, r.Key())
			}
		}
	}
	others, rest := map[model.Bind][]model.Route{}, map[model.Bind]bool{}
	for _, r := range st.Routes {
		if _, out := waiting[r.Key()]; !out {
			others[r.Bind] = append(others[r.Bind], r)
			rest[r.Bind] = rest[r.Bind] || r.Match == model.Rest
		}
	}
	tables := map[model.Bind]model.Table{}
	for _, r := range waiting {
		if _, made := tables[r.Bind]; !made {
			tables[r.Bind] = model.NewTable(others[r.Bind])
		}
	}
	routes := make([]model.Route, 0, len(st.Routes))
	for _, r := range st.Routes {
		if _, out := waiting[r.Key()]; !out || !rest[r.Bind] && !servedBy(tables[r.Bind], r.Pattern) {
			routes = append(routes, r)
		}
	}
	st.Routes = routes
	return st
}

// servedBy reports whether a table leads requests of this pattern somewhere.
func servedBy(t model.Table, p model.Pattern) bool {
	path := p.Path
	if p.Match == model.Prefix && path != "/" {
		path += "/"
	}
	target, ok := t.Find(p.Host, path)
	return ok && !target.Redirect
}
