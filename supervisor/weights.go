package supervisor

import (
	"fmt"
	"net/netip"

	"github.com/fnlb/fnlb/model"
)

// ignored is what is told of a text that gives servers other weights than were asked for. It is made once for each text.
type ignored struct {
	of       *accepted
	problems []model.Problem
	degraded []string
}

// ignoredWeights tells where the template in force does not write the weight that somebody asked for: a node that is to drain would go on
// getting requests.
func (l *loop) ignoredWeights() ([]model.Problem, []string) {
	if l.ignored.of != l.accepted {
		l.ignored = ignored{of: l.accepted}
		if l.accepted != nil {
			l.ignored.find(l.accepted)
		}
	}
	return l.ignored.problems, l.ignored.degraded
}

func (g *ignored) find(a *accepted) {
	var asked []*model.Server // usually nobody
	for i := range a.state.Servers {
		if srv := &a.state.Servers[i]; srv.Share() != (model.Server{}).Share() {
			asked = append(asked, srv)
		}
	}
	if len(asked) == 0 {
		return
	}
	byName, byAddr := map[model.ServerKey][]int{}, map[netip.AddrPort][]int{}
	for _, p := range a.text.Pools() {
		for _, m := range p.Members {
			key := model.ServerKey{Service: m.Backend, Name: m.Name}
			byName[key] = append(byName[key], m.Weight)
			byAddr[m.Addr] = append(byAddr[m.Addr], m.Weight)
		}
	}
	for _, srv := range asked {
		weights, ok := byName[srv.Key()]
		if !ok { // the names are the template's
			weights = byAddr[srv.Addr()]
		}
		for _, w := range weights {
			if w == srv.Share() {
				continue
			}
			reason := fmt.Sprintf("the template gives it the weight %d, and %d was asked for", w, srv.Share())
			if srv.Admin == model.Drain {
				reason = fmt.Sprintf("it was asked to drain and goes on getting requests: the template gives it the weight %d", w)
			}
			g.problems = append(g.problems, model.Problem{Kind: model.Unavailable, Owner: srv.Owner, Reason: reason, Mend: "write weight {{.Weight}} on its server line in the template"})
			g.degraded = append(g.degraded, srv.Owner.String()+": "+reason)
			break
		}
	}
}
