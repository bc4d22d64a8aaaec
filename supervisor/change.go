package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor/plan"
)

// changes puts steps that are about servers into commands, in their order. A server is added in maintenance, then its checks are switched
// on, then it takes requests: it counts as up until its first check says otherwise, as a server of a new text does, and one at another
// address likewise.
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
		case plan.Return:
			add(runtime.Ready(s.Backend, s.Server))
		case plan.Remove:
			add(runtime.Maint(s.Backend, s.Server))
		case plan.Move:
			to, err := netip.ParseAddrPort(s.Address)
			errs = append(errs, err)
			add(runtime.SetAddr(s.Backend, s.Server, to))
			if s.Checked {
				add(runtime.HealthUp(s.Backend, s.Server))
			}
		case plan.Weight:
			add(runtime.SetWeight(s.Backend, s.Server, s.Value))
		case plan.MaxConn:
			add(runtime.SetMaxConn(s.Backend, s.Server, s.Value))
		default:
			errs = append(errs, fmt.Errorf("step %d is about no server", s.Kind))
		}
	}
	return out, errors.Join(errs...)
}

// take makes the steps in the running worker, in their order.
func take(ctx context.Context, r Runtime, worker int, steps []plan.Step) error {
	aboutFile := func(s plan.Step) bool { return s.Kind == plan.Cert || s.Kind == plan.Map }
	for len(steps) > 0 {
		n := slices.IndexFunc(steps, aboutFile)
		if n < 0 {
			n = len(steps)
		}
		var err error
		switch first := steps[0]; {
		case n > 0:
			var cmds []runtime.Change
			if cmds, err = changes(steps[:n]); err == nil {
				err = r.Apply(ctx, worker, cmds)
			}
		case first.Kind == plan.Cert:
			n, err = 1, r.SetCert(ctx, worker, first.File, first.Data)
		default:
			n, err = 1, r.SetMap(ctx, worker, first.File, first.Was, first.Data)
		}
		if err != nil {
			return err
		}
		steps = steps[n:]
	}
	return nil
}

// leaving is a server that was taken out of a running worker and has to be deleted there. It is never changed.
type leaving struct {
	step  plan.Step // that took it out
	since time.Time
	limit time.Duration // of its own, after which its connections are cut; 0: the default one
	cut   bool          // they were cut, and that was told
}

// serverName names a server as HAProxy does.
type serverName struct{ backend, server string }

// change takes the steps of a plan in the running worker. On error some of them may have been taken.
func (s *Supervisor) change(ctx context.Context, out *outcome) error {
	steps, err := s.makeRoom(ctx, out)
	if err != nil {
		return err
	}
	return take(ctx, s.o.Runtime, out.job.worker, steps)
}

// makeRoom looks after servers that are to be added while one of their name or id is still leaving: the same server only has to be
// ready again, with its new weight; another one has to be gone first.
func (s *Supervisor) makeRoom(ctx context.Context, out *outcome) ([]plan.Step, error) {
	if len(out.leaving) == 0 {
		return out.plan.Steps, nil
	}
	if out.reaped != nil { // else a server could be deleted between two steps
		select {
		case <-out.reaped:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	ids := map[string]serverName{}
	for name, l := range out.leaving {
		if id := idOf(l.step); id != "" {
			ids[name.backend+" "+id] = name
		}
	}
	steps := make([]plan.Step, 0, len(out.plan.Steps))
	for _, step := range out.plan.Steps {
		if step.Kind != plan.Add {
			steps = append(steps, step)
			continue
		}
		name := serverName{step.Backend, step.Server}
		was, known := out.leaving[name]
		if known && was.step.Address == step.Address {
			had, before := apart(was.step.Options)
			has, now := apart(step.Options)
			if slices.Equal(had, has) {
				gone, err := s.o.Runtime.DelServer(ctx, out.job.worker, name.backend, name.server) // perhaps just now
				if err != nil {
					return nil, err
				}
				if !gone {
					if before != now {
						steps = append(steps, plan.Step{Kind: plan.Weight, Backend: step.Backend, Server: step.Server, Value: now})
					}
					step.Kind = plan.Return
				}
				steps = append(steps, step)
				continue
			}
		}
		steps = append(steps, step)
		if other, taken := ids[step.Backend+" "+idOf(step)]; taken {
			name, known = other, true
		}
		if !known {
			continue
		}
		switch gone, err := s.o.Runtime.DelServer(ctx, out.job.worker, name.backend, name.server); {
		case err != nil:
			return nil, err
		case !gone:
			return nil, fmt.Errorf("server %s/%s cannot be added while %s still has connections", step.Backend, step.Server, name.server)
		}
	}
	return steps, nil
}

// apart takes the weight out of the options of a server; it is 1 where none stands there.
func apart(options []string) (others []string, weight string) {
	i := slices.Index(options, "weight")
	if i < 0 || i+1 >= len(options) {
		return options, "1"
	}
	return slices.Concat(options[:i], options[i+2:]), options[i+1]
}

func idOf(s plan.Step) string {
	if i := slices.Index(s.Options, "id"); i >= 0 && i+1 < len(s.Options) {
		return s.Options[i+1]
	}
	return ""
}

// changedAtRuntime notes what a change of the running worker did.
func (l *loop) changedAtRuntime(out outcome, now time.Time) {
	if l.leaving == nil {
		l.leaving = map[serverName]leaving{}
	}
	l.forget(out.plan.Steps)
	limits := out.drainLimits()
	for _, s := range out.plan.Steps {
		name := serverName{s.Backend, s.Server}
		switch s.Kind {
		case plan.Remove:
			v := leaving{step: s, since: now, limit: limits[s.Address]}
			l.leaving[name] = v
			if at, limited := l.s.o.cutsAt(v); limited && (l.cutAt.IsZero() || at.Before(l.cutAt)) {
				l.cutAt = at
			}
		case plan.Add:
			delete(l.leaving, name)
		}
	}
}

// drainLimits are those that servers of the State in force have for themselves, by address: what a user's template calls them is its own.
func (out *outcome) drainLimits() map[string]time.Duration {
	limits := map[string]time.Duration{}
	if out.inForce == nil {
		return limits
	}
	for i := range out.inForce.state.Servers {
		if srv := &out.inForce.state.Servers[i]; srv.DrainFor > 0 {
			limits[srv.Addr().String()] = max(limits[srv.Addr().String()], srv.DrainFor) // several at one address: nobody is cut too soon
		}
	}
	return limits
}

// stateOf takes out of a reply to `show servers state` what must not outlive a change at run time: lines of servers that are leaving, or
// that the text in force does not have. They are in maintenance by our doing, and a server of the same name in the next text is not.
// Where it is not certain what is in force, every server in maintenance may be such a one.
func (out *outcome) stateOf(raw []byte, next conf.Text) []byte {
	known := map[serverName]bool{}
	if out.inForce != nil {
		for _, s := range out.inForce.text.Servers() {
			known[serverName{s.Backend, s.Name}] = true
		}
	}
	// HAProxy keeps a running weight where the text still gives the one that the file has as the initial weight: that of the text in
	// force. Where it is not certain what that is, none is kept.
	weights := map[string]int{}
	if out.inForce != nil {
		text := out.inForce.text
		if out.inForce.uncertain {
			text = next
		}
		for _, p := range text.Pools() {
			for _, m := range p.Members {
				w := m.Weight
				if out.inForce.uncertain {
					w = (w + 1) % (model.MaxWeight + 1)
				}
				weights[m.Backend+"/"+m.Name] = w
			}
		}
	}
	raw = conf.SetInitialWeights(raw, weights)
	return conf.FilterState(raw, func(backend, server string, maint bool) bool {
		name := serverName{backend, server}
		_, leaves := out.leaving[name]
		switch {
		case leaves:
			return false
		case out.inForce == nil:
			return true
		case out.inForce.uncertain:
			return !maint
		}
		return known[name]
	})
}

// leftBehind lists the servers of a worker that are in maintenance and that its text does not have: an earlier process took them out.
func leftBehind(text conf.Text, rows []runtime.ServerState, now time.Time) map[serverName]leaving {
	known := map[serverName]bool{}
	for _, s := range text.Servers() {
		known[serverName{s.Backend, s.Name}] = true
	}
	out := map[serverName]leaving{}
	for _, r := range rows {
		if name := (serverName{r.Backend, r.Server}); r.Maint && !known[name] {
			out[name] = leaving{step: plan.Step{Kind: plan.Remove, Backend: r.Backend, Server: r.Server}, since: now}
		}
	}
	return out
}

// disagreement names a server that a worker does not have as its text says, "" where there is none: who changed it at run time was killed
// before the files followed. Maintenance is none: it is a person's, or of a server that is wanted no more. Rows is nil where the worker did not answer, and then nothing is known.
func disagreement(text conf.Text, rows []runtime.ServerState) string {
	if rows == nil {
		return ""
	}
	has := make(map[serverName]runtime.ServerState, len(rows))
	for _, r := range rows {
		has[serverName{r.Backend, r.Server}] = r
	}
	for _, p := range text.Pools() {
		for _, m := range p.Members {
			name := serverName{m.Backend, m.Name}
			r, ok := has[name]
			delete(has, name)
			switch {
			case !m.Addr.IsValid(): // a name that HAProxy resolves, a socket
			case !ok:
				return fmt.Sprintf("%s/%s is not there", m.Backend, m.Name)
			case r.Addr.IsValid() && netip.AddrPortFrom(r.Addr.Addr().Unmap(), r.Addr.Port()) != netip.AddrPortFrom(m.Addr.Addr().Unmap(), m.Addr.Port()):
				return fmt.Sprintf("%s/%s is at %s", m.Backend, m.Name, r.Addr)
			case r.Weight != m.Weight && !slices.Contains(m.Options(), "agent-check"): // whose agent sets it
				return fmt.Sprintf("%s/%s has weight %d", m.Backend, m.Name, r.Weight)
			}
		}
	}
	for _, r := range rows { // in HAProxy's order
		if _, more := has[serverName{r.Backend, r.Server}]; more && !r.Maint {
			return fmt.Sprintf("%s/%s is not in the text", r.Backend, r.Server)
		}
	}
	return ""
}

// forget drops what was observed of the servers that steps are about: it is from before.
func (l *loop) forget(steps []plan.Step) {
	about := map[serverName]bool{}
	for _, s := range steps {
		about[serverName{s.Backend, s.Server}] = true
	}
	l.made++
	l.observed.raw = conf.FilterState(l.observed.raw, func(backend, server string, _ bool) bool { return !about[serverName{backend, server}] })
}

// reapMost is how many servers one round of deletions tries.
const reapMost = 50

// reap tries to delete servers that are leaving, in a task. One that still has connections, or idle ones in HAProxy's pool, is tried
// again after the next observation. After the drain timeout its connections are cut; without one after hard-stop-after, as those of an old
// worker would be.
func (l *loop) reap(now time.Time) {
	if len(l.leaving) == 0 || l.reaping || l.changing() || !l.running || l.foreign || l.halted != 0 || !l.silentSince.IsZero() {
		return
	}
	l.reaping = true
	worker := l.haproxy.Worker
	for _, v := range l.leaving {
		if at, limited := l.s.o.cutsAt(v); limited && at.After(now) && (l.cutAt.IsZero() || at.Before(l.cutAt)) {
			l.cutAt = at
		}
	}
	due := make(map[serverName]leaving, min(len(l.leaving), reapMost))
	for name, v := range l.leaving { // which ones first makes no difference: all come to their turn
		if due[name] = v; len(due) == reapMost {
			break
		}
	}
	reaped := make(chan struct{})
	round, cancel := context.WithCancel(l.ctx)
	l.reaped, l.cancelReap = reaped, cancel
	l.task(func(ctx context.Context) func() {
		defer close(reaped)
		defer cancel()
		var gone, overdue []serverName
		var failed error
		for name, v := range due {
			if round.Err() != nil { // an apply waits
				break
			}
			if at, limited := l.s.o.cutsAt(v); limited && !now.Before(at) {
				cut, err := runtime.ShutdownSessions(name.backend, name.server)
				if err == nil {
					err = l.s.o.Runtime.Apply(ctx, worker, []runtime.Change{cut})
				}
				failed = errors.Join(failed, err)
				if unanswered(err) {
					break
				}
				overdue = append(overdue, name)
			}
			ok, err := l.s.o.Runtime.DelServer(ctx, worker, name.backend, name.server)
			failed = errors.Join(failed, err)
			if unanswered(err) {
				break
			}
			if ok {
				gone = append(gone, name)
			}
		}
		return func() {
			l.reaping = false
			if worker != l.haproxy.Worker {
				return
			}
			for _, name := range overdue {
				if v, still := l.leaving[name]; still && !v.cut && v.since.Equal(due[name].since) {
					v.cut = true
					l.leaving[name] = v
					at, _ := l.s.o.cutsAt(v)
					l.s.o.Log.Warn("a server that left still had connections, they are cut", "server", name.backend+"/"+name.server, "after", at.Sub(v.since))
				}
			}
			for _, name := range gone {
				if l.leaving[name].since.Equal(due[name].since) {
					delete(l.leaving, name)
				}
			}
			if failed != nil {
				l.s.o.Log.Debug("servers that left are not deleted yet", "error", failed)
			}
		}
	})
}

// cutsAt is when the connections of a server that was removed are cut; limited is false when they never are.
func (o *Options) cutsAt(v leaving) (at time.Time, limited bool) {
	limit := cmp.Or(v.limit, o.DrainTimeout, o.HardStop)
	return v.since.Add(limit), limit > 0
}

// unanswered reports whether HAProxy has not answered: questions that nobody answers block its master socket, ten of them are enough.
func unanswered(err error) bool { return err != nil && !errors.As(err, new(*runtime.ChangeError)) }

// live says by what method a planned change reaches HAProxy.
func (out *outcome) live() model.Method {
	if out.method == model.Reload && !out.foreign && len(out.plan.Reload) == 0 {
		return model.Runtime
	}
	return out.method
}
