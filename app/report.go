package app

import (
	"cmp"
	"slices"
	"strings"

	"github.com/fnlb/fnlb/api"
	"github.com/fnlb/fnlb/config"
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
		Problems: slices.Concat(col.Problems, sup.Problems), Found: col.Found,
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
