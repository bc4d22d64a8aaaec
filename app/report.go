package app

import (
	"cmp"
	"slices"
	"strings"

	"github.com/fnlb/fnlb/api"
	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor"
)

// report composes what people see from what the supervisor and the Collector publish.
type report struct{ b *balancer }

var _ api.Reporter = (*report)(nil)

// Status joins both.
func (r *report) Status() model.Status {
	sup, col := r.b.supervisor.Status(), r.b.collector.Status()
	st := model.Status{
		Version: config.FullVersion(), Phase: sup.Phase, HAProxy: sup.HAProxy, Wanted: col.Wanted, Applied: sup.Applied,
		Frozen: sup.Frozen, Degraded: slices.Clone(sup.Degraded), Sources: col.Sources, Servers: sup.Servers,
		Problems: slices.Concat(col.Problems, sup.Problems), Found: found(col, sup.Problems),
	}
	if i := slices.IndexFunc(sup.Changes, func(a model.Apply) bool { return a.Method.Applies() }); i >= 0 {
		last := sup.Changes[i]
		st.LastApply = &last
	}
	for _, s := range col.Sources {
		if !s.Up {
			st.Degraded = append(st.Degraded, "source "+s.Name+": "+s.Reason)
		}
	}
	for _, p := range col.Problems {
		st.Degraded = append(st.Degraded, p.Owner.String()+": "+p.Reason)
	}
	slices.SortStableFunc(st.Problems, func(a, b model.Problem) int {
		return cmp.Or(strings.Compare(a.Owner.Source, b.Owner.Source), strings.Compare(a.Owner.Name, b.Owner.Name))
	})
	return st
}

// found joins what the sources made of their worlds with what became of it: what they offered may stand in somebody's way, or be refused by
// HAProxy.
func found(col discovery.Status, refused []model.Problem) []model.Found {
	if len(col.Found) == 0 {
		return nil
	}
	accepted := map[model.Owner]bool{}
	for i := range col.State.Offers {
		accepted[col.State.Offers[i].Owner] = true
	}
	out := slices.Clone(col.Found)
	for i := range out {
		f := &out[i]
		at := func(p model.Problem) bool { return p.Owner == f.Owner }
		if f.Verdict == model.Offered && !accepted[f.Owner] {
			if p := slices.IndexFunc(col.Problems, at); p >= 0 {
				f.Verdict, f.Reason, f.Mend = model.LeftOut, col.Problems[p].Reason, col.Problems[p].Mend
			}
		}
		if p := slices.IndexFunc(refused, at); p >= 0 && f.Verdict == model.Offered {
			f.Reason, f.Mend = refused[p].Reason, refused[p].Mend
		}
	}
	return out
}

// Changes gives the last applies, oldest first.
func (r *report) Changes() []model.Apply {
	changes := slices.Clone(r.b.supervisor.Status().Changes)
	slices.Reverse(changes)
	return changes
}

// Config gives the text in force without the passwords that a user's template may have; certificates are files of their own.
func (r *report) Config() []byte { return conf.Mask(r.b.supervisor.Status().Config) }

// Counters gives the supervisor's in the form of the metrics.
func (r *report) Counters() api.Counters {
	c := r.b.supervisor.Status().Counters
	out := api.Counters{Applies: map[api.ApplyKey]uint64{}, Reloads: c.Reasons, Seconds: histogram(c)}
	for k, n := range c.Applies {
		result := "error"
		if k.OK {
			result = "ok"
		}
		out.Applies[api.ApplyKey{Method: k.Method, Result: result}] += n
	}
	return out
}

func histogram(c supervisor.Counters) api.Histogram {
	h := api.Histogram{Sum: c.Sum, Buckets: map[float64]uint64{}}
	for i, n := range c.Buckets {
		h.Count += n
		if i < len(c.Seconds) {
			h.Buckets[c.Seconds[i]] = h.Count
		}
	}
	return h
}
