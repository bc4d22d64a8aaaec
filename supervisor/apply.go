package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor/plan"
)

// startLimit and reloadLimit bound how long HAProxy may take to load a text; both are verified, so they end much earlier.
const (
	startLimit  = 60 * time.Second
	reloadLimit = 60 * time.Second
)

// accepted is a configuration that a worker has confirmed. It is never changed.
type accepted struct {
	bundle   conf.Bundle
	revision string
	text     conf.Text
	state    model.State // what it shows
	renderer Renderer    // nil: it was adopted, and no State has been applied since

	loaded    string     // revision that the worker reports: that of the text it has read, before changes at run time
	names     plan.Names // how the worker calls files, where the text says otherwise; nil after a load
	uncertain bool       // it was adopted, and is what the files say; HAProxy may have loaded something else
}

// loadedAs is the same configuration in a worker that reports the revision, and calls files by these names.
func (a *accepted) loadedAs(revision string, names plan.Names) *accepted {
	b := *a
	b.loaded, b.names, b.uncertain = revision, names, false
	return &b
}

// planned is the configuration as the plan reads it.
func (a *accepted) planned() plan.Bundle {
	return plan.Bundle{Text: a.text, Main: a.bundle.Main, Files: a.bundle.Files}
}

// job is one apply: what a task needs, and nothing that the owner may change meanwhile.
type job struct {
	wanted      uint64 // revision of the State behind it
	state       model.State
	renderer    Renderer
	abilities   conf.Abilities
	inForce     *accepted // nil before the first
	method      model.Method
	worker      int
	foreign     bool      // HAProxy has loaded something else
	why         string    // and why that is so
	fixed       *accepted // what to apply, where that is not the State
	back        bool      // a rollback: fixed is what was in force before, nil when only the disk knows it
	lastState   []byte    // `show servers state` as it was last seen, for a start
	silentSince time.Time // HAProxy has not answered since; zero: it answers
	causes      causes    // who or what made it necessary
	mayReload   bool      // else a reload has to wait
	askFirst    bool      // haproxy -c is asked before anything is changed, also at run time
	leaving     map[serverName]leaving
	reaped      <-chan struct{} // closed when no deletion of servers that left is under way; nil: none is
}

// outcome is what became of a job.
type outcome struct {
	job
	next     *accepted // what is in force now, when err is nil
	plan     plan.Plan
	identity process.Identity // of what runs
	worker   int
	maxConn  int
	warnings string
	untried  []conf.Bind
	leftOut  []leftOut // owners that next does not show, because the text was refused with them
	err      error
	final    bool  // the text itself is at fault: trying again is of no use
	loading  bool  // HAProxy was told to take it
	held     bool  // it needs a reload, which has to wait
	again    bool  // the text in force was started again
	partly   bool  // a change at run time was begun and is not complete
	files    bool  // the files hold next
	noted    error // why it could not be noted for the next start
	began    time.Time
	took     time.Duration
}

// startApply begins the apply that is due.
func (l *loop) startApply(now time.Time) {
	j := job{
		wanted: l.wanted.Revision, renderer: l.renderer, abilities: l.abilities, inForce: l.accepted, method: model.Reload,
		worker: l.haproxy.Worker, lastState: l.observed.raw, foreign: l.foreign, why: l.foreignWhy, silentSince: l.silentSince,
		mayReload: l.mayReload(now), leaving: maps.Clone(l.leaving), askFirst: l.save.refused,
	}
	l.dirtySince, l.urgent = time.Time{}, false
	if !l.running {
		j.method = model.Start
	}
	work := (*Supervisor).apply
	switch {
	case l.frozen != nil && l.accepted == nil:
		j.wanted, j.renderer, j.fixed = 0, nil, l.pinned
		j.causes = l.causes.take(causeFrozen)
	case !l.running && l.accepted != nil && (l.frozen != nil || l.restart.count%4 != 0):
		// After a death the text in force is started again; if that fails and fails, perhaps what is wanted by now works.
		j.wanted, j.state, j.renderer = l.applied, l.accepted.state, l.accepted.renderer
		j.causes = l.causes.take(causeDied)
		work = (*Supervisor).startAgain
	case l.frozen != nil: // somebody else made HAProxy reload, or one was adopted that has loaded another text
		j.wanted, j.renderer, j.fixed = l.applied, l.accepted.renderer, l.accepted
		if l.pinned != nil {
			j.fixed = l.pinned
		}
		j.causes = l.causes.take(l.foreignWhy)
	case l.running && l.revert: // what the worker has of it is not certain, and it was refused
		l.revert = false
		j.wanted, j.renderer, j.fixed = l.applied, l.accepted.renderer, l.accepted
		j.causes = l.causes.take(whyPartly)
	default:
		l.review()
		j.state, j.causes, l.causes = l.visible(), l.causes, causes{}
		if l.running && !l.foreign && !j.askFirst && j.renderer == l.accepted.renderer && j.state.Equal(l.accepted.state) {
			l.done(outcome{job: j, next: l.accepted, began: now})
			return
		}
	}
	l.start(j, work, l.done)
}

// start runs an apply in a task.
func (l *loop) start(j job, work func(*Supervisor, context.Context, *outcome), report func(outcome)) {
	running := l.identity
	l.applying = true
	if l.reaping {
		l.cancelReap()
		j.reaped = l.reaped
	}
	ctx, cancel := context.WithCancel(l.ctx)
	l.cancelApply = cancel
	l.task(func(context.Context) func() {
		defer cancel()
		out := outcome{job: j, began: time.Now(), identity: running}
		work(l.s, ctx, &out)
		out.took = time.Since(out.began)
		return func() {
			l.applying = false
			report(out)
		}
	})
}

// apply renders, checks and applies. It runs in a task: everything that it needs stands in the job.
func (s *Supervisor) apply(ctx context.Context, out *outcome) {
	next, err := s.next(out)
	if err != nil {
		out.refuse(err, true)
	} else {
		s.put(ctx, out, next)
	}
	if out.final && out.fixed == nil && !out.back {
		s.quarantine(ctx, out)
	}
}

// put makes a configuration the one in force.
func (s *Supervisor) put(ctx context.Context, out *outcome, next *accepted) {
	if out.method == model.Runtime { // an earlier attempt of this apply was refused
		out.method = model.Reload
	}
	if out.partly { // and had begun to change the worker, so that what it has is no text of ours
		out.foreign, out.why = true, whyPartly
	}
	if out.method == model.Reload && !out.foreign && !out.askFirst && out.inForce.revision == next.revision {
		out.next = next.loadedAs(out.inForce.loaded, out.inForce.names)
		return
	}
	if out.inForce != nil {
		out.plan = plan.Make(out.inForce.planned(), next.planned(), out.inForce.names)
		if n := out.plan.Commands(); n > plan.MostCommands && out.mayReload {
			out.plan.Reload = append(out.plan.Reload, plan.Reason{Cause: plan.ManyChanges, About: []string{fmt.Sprintf("%d commands", n)}})
		}
	}
	if out.method = out.live(); out.method == model.Reload && !out.mayReload {
		out.held = true
		return
	}
	if out.err = s.awake(out); out.err != nil {
		return
	}
	if out.method == model.Runtime && !out.askFirst && s.atRuntime(ctx, out, next) {
		if out.partly {
			s.writing.Lock()
			defer s.writing.Unlock()
			s.noteDoubt(out)
		}
		return // the files follow
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	before := s.disk
	if err := s.prepare(ctx, out, next); err != nil {
		s.noteDoubt(out)
		return
	}
	out.loading = true
	if err := place(s.load(ctx, out, next), next.bundle, s.o.Files.Config+":"); err != nil {
		out.err = err
		s.noteDoubt(out) // before the text is put back
		out.err = errors.Join(out.err, s.restore(before))
		return
	}
	s.o.Files.at("loaded")
	if out.next == nil { // else it was changed at run time
		out.next = next.loadedAs(next.revision, nil)
	}
	out.files = true
	out.noted = s.note(out.next, out.running(), out.began)
	s.o.Files.at("noted")
}

// atRuntime takes the steps of the plan in the running worker. It reports false where a reload has to make good what it did.
func (s *Supervisor) atRuntime(ctx context.Context, out *outcome, next *accepted) bool {
	err := s.change(ctx, out)
	if err == nil {
		out.worker, out.next = out.job.worker, next.loadedAs(out.inForce.loaded, out.plan.Names)
		s.o.Files.at("changed")
		return true
	}
	out.partly = true
	if held := s.silence(ctx, out, err); held != nil {
		out.err = held
		return true
	}
	out.method = model.Reload
	out.plan.Reload = append(out.plan.Reload, plan.Reason{Cause: plan.RuntimeFailed, About: []string{model.Printable(err.Error())}})
	s.o.Log.Warn("not changed at run time, reloading", "error", err)
	return false
}

// noteDoubt notes for the next fnlb that what the worker has is not certain, where that is so.
func (s *Supervisor) noteDoubt(out *outcome) {
	if out.partly {
		out.err = errors.Join(out.err, s.o.Files.noteDoubt())
	}
}

// running is the HAProxy that has loaded what is next.
func (out *outcome) running() process.Identity {
	id := out.identity
	id.Worker = out.worker
	return id
}

// note writes down for the next fnlb what is in force, and deletes what earlier bundles left.
func (s *Supervisor) note(a *accepted, id process.Identity, at time.Time) error {
	n := Noted{
		Revision: a.revision, Loaded: a.loaded, Names: a.names, Files: slices.Sorted(maps.Keys(a.bundle.Files)), Launch: s.o.Launch,
		Master: id.Master, Ticks: id.Ticks, Worker: id.Worker, Started: id.Started, At: at,
	}
	return errors.Join(s.o.Files.writeNoted(n), s.o.Files.sweep(a.bundle), s.o.Process.TrimLog())
}

// prepare does everything that can fail before anything live is touched.
func (s *Supervisor) prepare(ctx context.Context, out *outcome, next *accepted) error {
	f := s.o.Files
	var err error
	if out.warnings, err = s.vet(ctx, next); err != nil {
		out.refuse(err, refusedByHAProxy(err))
		return err
	}
	if out.untried, err = s.checkBinds(ctx, out, next); err != nil {
		out.refuse(errors.Join(err, f.refuse()), false)
		return err
	}
	f.at("tried")
	if err := s.commit(next); err != nil {
		out.refuse(err, false)
		return err
	}
	return nil
}

// vet writes a configuration beside the files in force and asks haproxy -c about it. Its refusal is kept for reading.
func (s *Supervisor) vet(ctx context.Context, next *accepted) (warnings string, err error) {
	f := s.o.Files
	if err := f.stage(next.bundle, next.revision); err != nil {
		return "", err
	}
	f.at("staged")
	if warnings, err = s.o.Checker.Check(ctx, f.candidates()...); err != nil {
		final := refusedByHAProxy(err)
		err = place(err, next.bundle, f.candidate()+":")
		if final {
			err = errors.Join(err, f.refuse())
		}
	}
	return warnings, err
}

// checkBinds tries the addresses of a text whose listeners differ from those in force.
func (s *Supervisor) checkBinds(ctx context.Context, out *outcome, next *accepted) ([]conf.Bind, error) {
	var inForce []conf.Bind
	var pids []int
	wanted := next.text.Binds()
	if out.inForce != nil {
		inForce = out.inForce.text.Binds()
	}
	if out.inForce != nil && out.inForce.uncertain {
		inForce = wanted // which of them HAProxy has is not known: those that a stranger has are found
	} else if slices.EqualFunc(inForce, wanted, func(a, b conf.Bind) bool { return a.Raw == b.Raw && a.IP == b.IP && a.Port == b.Port }) {
		return nil, nil
	}
	if out.inForce != nil {
		procs, err := s.o.Runtime.Processes(ctx)
		if err != nil {
			return nil, fmt.Errorf("which processes are ours: %w", err)
		}
		pids = pidsOf(procs)
	}
	return s.o.Binds(inForce, wanted, pids)
}

func pidsOf(p runtime.Processes) []int {
	pids := []int{p.Master.PID}
	for _, w := range slices.Concat(p.Workers, p.Old) {
		pids = append(pids, w.PID)
	}
	return pids
}

// load makes HAProxy take the committed text: by a start, or by a verified reload that takes every server's health along.
func (s *Supervisor) load(ctx context.Context, out *outcome, next *accepted) error {
	if out.method == model.Start {
		return s.start(ctx, out, next)
	}
	ctx, cancel := context.WithTimeout(ctx, reloadLimit)
	defer cancel()
	if out.method == model.Runtime && s.atRuntime(ctx, out, next) {
		return out.err
	}
	raw, _, err := s.o.Runtime.ServersState(ctx, out.job.worker)
	if err != nil {
		if held := s.silence(ctx, out, err); held != nil {
			return held
		}
		s.o.Log.Warn("health is forgotten by this reload", "error", fmt.Errorf("ask worker %d for its servers: %w", out.job.worker, err))
		raw = out.lastState
	}
	s.keepState(out.stateOf(raw, next.text), next.text)
	s.o.Files.at("health")
	out.worker, err = s.o.Runtime.Reload(ctx, next.revision)
	return err
}

func (s *Supervisor) start(ctx context.Context, out *outcome, next *accepted) error {
	s.keepState(out.stateOf(out.lastState, next.text), next.text)
	s.o.Files.at("health")
	limit, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	id, err := s.o.Process.Start(limit, next.revision)
	if err != nil {
		return err
	}
	out.identity, out.worker = id, id.Worker
	info, err := s.o.Runtime.Info(limit, id.Worker)
	if err != nil {
		s.o.Log.Warn("maxconn is not known", "error", err)
	}
	out.maxConn = info.MaxConn
	return nil
}

// startAgain starts the text in force after HAProxy died: it was checked before, so nothing stands between death and service.
func (s *Supervisor) startAgain(ctx context.Context, out *outcome) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.o.Gone() != "" {
		out.err = s.o.Rebuild() // without its folders nothing starts
	}
	next, err := s.startable(ctx, out)
	if out.err = errors.Join(out.err, err); out.err != nil {
		return
	}
	if next != out.inForce {
		out.wanted = next.state.Revision
	}
	out.loading = true
	if out.err = s.start(ctx, out, next); out.err == nil {
		out.next, out.again, out.files = next.loadedAs(next.revision, nil), true, true
		out.noted = s.note(out.next, out.running(), out.began)
	}
}

// keepState writes the server-state file. Without it servers start as healthy until their first check, so a failure is told and
// stops nothing.
func (s *Supervisor) keepState(raw []byte, text conf.Text) {
	state := conf.RewriteState(raw, text)
	if state == nil {
		state = noState
	}
	if err := write(s.o.Files.State(), state, 0o640); err != nil {
		s.o.Log.Warn("health is forgotten by this reload", "error", err)
	}
}

func (out *outcome) refuse(err error, final bool) { out.err, out.final = err, final }
