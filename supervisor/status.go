package supervisor

import (
	"fmt"
	"slices"
	"time"

	"github.com/fnlb/fnlb/model"
)

// keptChanges is how many applies /1/lb/changes shows.
const keptChanges = 200

// Status is the supervisor's part of what people see.
type Status struct {
	Phase    model.Phase
	HAProxy  model.HAProxyStatus
	Applied  uint64 // revision of the State in force
	Servers  []model.ServerStatus
	Barred   []model.Bind // listeners that are left out, because HAProxy cannot have them
	Problems []model.Problem
	Degraded []string
	Frozen   *model.Freeze
	Changes  []model.Apply // newest first, at most 200; Noop is not listed
	Counters Counters
	Config   []byte     // the text in force
	Rows     model.Rows // what it shows; nothing before the first apply of an adopted HAProxy
}

// ApplyKey counts applies by how they went.
type ApplyKey struct {
	Method model.Method
	OK     bool
}

// Counters only grow. The maps are never changed after they were published.
type Counters struct {
	Applies  map[ApplyKey]uint64
	Reasons  map[string]uint64 // reloads by cause
	Seconds  []float64         // upper bounds of the buckets below, in seconds
	Buckets  []uint64          // applies that took at most as long, not cumulated; one more for the rest
	Sum      float64           // seconds of all applies
	Restarts uint64
}

var applyBuckets = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// record counts an apply, and keeps it for people unless nothing was done.
func (l *loop) record(a model.Apply, causes []string, took time.Duration) {
	c := &l.counters
	c.Applies[ApplyKey{a.Method, a.Error == ""}]++
	i, _ := slices.BinarySearch(applyBuckets, took.Seconds())
	c.Buckets[i]++
	c.Sum += took.Seconds()
	for _, cause := range causes {
		c.Reasons[cause]++
	}
	if a.Method == model.Noop && a.Error == "" || a.Error != "" && a.Error == l.lastRefusal {
		return
	}
	l.keep(a)
}

// keep adds a row to the list of changes.
func (l *loop) keep(a model.Apply) {
	l.changes = append([]model.Apply{a}, l.changes[:min(len(l.changes), keptChanges-1)]...)
	l.changed = true
}

// publish replaces the Status when something changed. With many servers it is bounded to a twentieth of the time, so that a
// storm of changes does not turn into a storm of copies.
func (l *loop) publish(now time.Time) {
	if !l.changed || now.Before(l.publishAt) {
		return
	}
	st := &Status{
		Phase:    l.phase,
		HAProxy:  l.haproxyStatus(),
		Applied:  l.applied,
		Servers:  l.serverStatus(),
		Barred:   l.barredBinds(),
		Changes:  l.changes,
		Frozen:   l.frozen,
		Counters: l.counters.clone(),
	}
	if l.accepted != nil {
		st.Config, st.Rows = l.accepted.bundle.Main, l.accepted.state.Rows
	}
	st.Problems, st.Degraded = l.problems()
	l.s.status.Store(st)
	l.s.published.Add(1)
	close(*l.s.renewed.Swap(new(make(chan struct{}))))
	l.changed = false
	l.publishAt = now.Add(20 * time.Since(now))
}

func (l *loop) haproxyStatus() model.HAProxyStatus {
	st := l.haproxy
	st.Silent, st.Behind = l.unanswered != "", !l.save.since.IsZero()
	return st
}

func (l *loop) serverStatus() []model.ServerStatus {
	out := make([]model.ServerStatus, 0, len(l.wanted.Servers))
	for i := range l.wanted.Servers {
		srv := &l.wanted.Servers[i]
		m := l.members[srv.Key()]
		if m == nil || len(m.each) == 0 {
			out = append(out, statusOf(srv, m))
			continue
		}
		for _, e := range m.each { // one row for each address of a name
			out = append(out, statusOf(srv, e))
		}
	}
	return out
}

func statusOf(srv *model.Server, m *member) model.ServerStatus {
	st := model.ServerStatus{Service: srv.Service, Name: srv.Name, Owner: srv.Owner, Weight: srv.Weight, Admin: srv.Admin}
	if m != nil {
		st.Health, st.Since, st.LastCheck, st.Mend = m.health, m.since, m.lastCheck, m.mend
		if m.addr.IsValid() {
			st.Address = m.addr.String()
		}
	}
	return st
}

// problems lists what a person should mend, and in short what readiness calls degraded.
func (l *loop) problems() (out []model.Problem, degraded []string) {
	for _, p := range []*model.Problem{l.refused, l.badRenderer} {
		if p != nil {
			out = append(out, *p)
			degraded = append(degraded, "refused: "+p.Reason)
		}
	}
	left, words := l.isolation()
	out, degraded = append(out, left...), append(degraded, words...)
	left, words = l.barredProblems()
	out, degraded = append(out, left...), append(degraded, words...)
	if l.frozen != nil {
		degraded = append(degraded, fmt.Sprintf("frozen since %s by %s: %s", l.frozen.Since.UTC().Format(time.RFC3339), l.frozen.By, l.frozen.Reason))
	}
	if l.unnoted != "" {
		out = append(out, model.Problem{Kind: model.Unavailable, Owner: brakeOwner, Reason: "a restart of fnlb would forget the freeze: " + l.unnoted, Mend: "freeze again once the run directory can be written"})
	}
	if p, behind := l.saveProblem(); behind {
		out = append(out, p)
		degraded = append(degraded, "files: "+p.Reason)
	}
	if l.unmended != "" {
		out = append(out, model.Problem{Kind: model.Unavailable, Owner: model.Owner{Source: "configuration", Name: l.s.o.Files.Config}, Reason: l.unmended, Mend: "fnlb goes on trying; until then HAProxy could not be started again"})
		degraded = append(degraded, "files: "+l.unmended)
	}
	if l.unanswered != "" {
		out = append(out, model.Problem{Kind: model.Unavailable, Owner: model.Owner{Source: "haproxy", Name: "worker"}, Reason: l.unanswered, Mend: "look at its process; fnlb goes on asking"})
		degraded = append(degraded, "haproxy: "+l.unanswered)
	}
	if l.s.o.External && !l.running {
		degraded = append(degraded, "haproxy: none answers on the socket of --haproxy-master")
	} else if l.phase == model.Broken {
		degraded = append(degraded, "haproxy: it died and is being started again")
	}
	if l.foreign {
		degraded = append(degraded, "haproxy: "+l.foreignWhy+"; ours is not in force again yet")
	}
	if l.holding {
		degraded = append(degraded, fmt.Sprintf("haproxy: changes wait while %d workers of earlier configurations have connections", l.haproxy.OldWorkers))
	}
	if l.accepted != nil {
		out = append(out, Notes(l.accepted.bundle)...)
	}
	if l.s.o.Unchecked != nil && l.running {
		if why := l.s.o.Unchecked(); why != "" {
			out = append(out, model.Problem{Kind: model.Unavailable, Owner: model.Owner{Source: "configuration", Name: "check"}, Reason: "texts are not checked before a reload: " + why, Mend: "name a HAProxy of the version that runs with --haproxy"})
		}
	}
	for _, who := range l.shared {
		out = append(out, model.Problem{Kind: model.Conflict, Owner: model.Owner{Source: "listener", Name: who}, Reason: "another process listens on this port too, and the kernel gives it a part of the clients", Mend: "end that process"})
		degraded = append(degraded, "a port is shared with another process: "+who)
	}
	for _, b := range l.untried {
		out = append(out, model.Problem{Kind: model.Unavailable, Owner: model.Owner{Source: "listener", Name: b}, Reason: "whether this address is free cannot be tried before a reload"})
	}
	out = append(out, l.disputed...)
	ignored, words := l.ignoredWeights()
	out, degraded = append(out, ignored...), append(degraded, words...)
	for i := range l.wanted.Servers {
		if m := l.members[l.wanted.Servers[i].Key()]; m != nil {
			out = append(out, m.problems()...)
		}
	}
	return out, degraded
}

// problems lists what is wrong with a member that a person can mend.
func (m *member) problems() (out []model.Problem) {
	owner := m.server.Owner
	switch {
	case m.stale != "" && m.server.Many:
		out = append(out, model.Problem{Kind: model.Unavailable, Owner: owner, Reason: "kept at its last addresses: " + m.stale})
	case m.stale != "":
		out = append(out, model.Problem{Kind: model.Unavailable, Owner: owner, Reason: "kept at " + m.addr.String() + ": " + m.stale})
	case m.mend != "":
		out = append(out, model.Problem{Kind: model.Refused, Owner: owner, Reason: m.lastCheck, Mend: m.mend})
	}
	if m.refusals != "" {
		out = append(out, model.Problem{Kind: model.Refused, Owner: owner, Reason: "addresses of the name are left out: " + m.refusals, Mend: mendRefusals})
	}
	for _, e := range m.each {
		switch {
		case e.left:
			out = append(out, model.Problem{Kind: model.Unavailable, Owner: owner, Reason: "kept at " + e.addr.String() + ": of the addresses that DNS lists now none has passed its first check"})
		case e.mend != "":
			out = append(out, model.Problem{Kind: model.Refused, Owner: owner, Reason: e.addr.String() + ": " + e.lastCheck, Mend: e.mend})
		}
	}
	return out
}

func newCounters() Counters {
	return Counters{
		Applies: map[ApplyKey]uint64{}, Reasons: map[string]uint64{},
		Seconds: applyBuckets, Buckets: make([]uint64, len(applyBuckets)+1),
	}
}

func (c Counters) clone() Counters {
	d := c
	d.Applies, d.Reasons, d.Buckets = map[ApplyKey]uint64{}, map[string]uint64{}, slices.Clone(c.Buckets)
	for k, v := range c.Applies {
		d.Applies[k] = v
	}
	for k, v := range c.Reasons {
		d.Reasons[k] = v
	}
	return d
}
