package supervisor

import (
	"errors"
	"fmt"

	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/supervisor/plan"
)

// changes puts the steps of a plan into commands, in their order. A server is added in maintenance, then its checks are switched on,
// then it takes requests: it counts as up until its first check says otherwise, as a server of a new text does.
func changes(steps []plan.Step) ([]runtime.Change, error) {
	var out []runtime.Change
	var errs []error
	add := func(c runtime.Change, err error) {
		out = append(out, c)
		errs = append(errs, err)
	}
	for _, s := range steps {
		switch s.Kind {
		case plan.Add:
			add(runtime.AddServer(s.Backend, s.Server, s.Address, s.Options...))
			if s.Checked {
				add(runtime.EnableHealth(s.Backend, s.Server))
			}
			add(runtime.Ready(s.Backend, s.Server))
		case plan.Remove:
			add(runtime.Maint(s.Backend, s.Server))
		case plan.Weight:
			add(runtime.SetWeight(s.Backend, s.Server, s.Value))
		case plan.MaxConn:
			add(runtime.SetMaxConn(s.Backend, s.Server, s.Value))
		default:
			errs = append(errs, fmt.Errorf("step %d is not known", s.Kind))
		}
	}
	return out, errors.Join(errs...)
}
