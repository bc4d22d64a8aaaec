package supervisor

import (
	"errors"
	"strings"
	"time"

	"github.com/fnlb/fnlb/model"
)

// done takes over what became of an apply.
func (l *loop) done(out outcome) {
	now := time.Now()
	if out.held {
		l.doubt(out)
		l.again(now, out)
		l.waits = true
		if death := l.death; death != nil {
			l.death = nil
			l.lost(death)
		}
		return
	}
	l.changed = true
	if errors.As(out.err, new(*heldError)) {
		l.doubt(out)
		l.held(now, out)
		return
	}
	a := model.Apply{
		Revision: out.wanted, At: out.began, Method: out.method, Millis: float64(out.took.Microseconds()) / 1000,
		Worker: out.worker, Reasons: l.reasons(out), Causes: out.causes.strings(),
	}
	for _, q := range out.leftOut {
		a.Reasons = append(a.Reasons, "left out "+q.owner.String())
	}
	if out.err != nil {
		a.Error, a.Places = out.err.Error(), placesOf(out.err)
	} else if out.method == model.Reload && !out.foreign && out.next.revision == out.inForce.revision {
		a.Method = model.Noop
	}
	var causes []string
	if out.method == model.Reload && a.Method != model.Noop {
		for _, r := range out.plan.Reload {
			causes = append(causes, string(r.Cause))
		}
	}
	l.record(a, causes, out.took)
	l.tell(a, out)
	death := l.death
	l.death = nil
	if out.err != nil {
		l.rejected(now, out, death)
		return
	}
	defer func() {
		if death != nil {
			l.running = false
			l.lost(death)
		}
	}()
	l.retry.reset()
	l.isolate(out)
	first := l.accepted == nil
	if out.fixed == nil && !out.again { // those say nothing about what is wanted
		l.refused, l.lastRefusal = nil, ""
	}
	if !first && !l.unreadable && out.renderer != l.accepted.renderer {
		l.badRenderer = nil
	}
	before := l.accepted
	l.accepted = out.next
	l.namesBy = time.Time{}
	l.hadAll()
	if out.files {
		l.save.done()
	}
	if a.Method == model.Noop {
		l.applied = out.wanted
		return
	}
	if before != nil && before.revision != out.next.revision && !before.uncertain {
		l.previous = before
	}
	l.inForce(now, out, first)
}

// inForce notes what a start or a reload changed.
func (l *loop) inForce(now time.Time, out outcome, first bool) {
	l.foreign, l.foreignWhy = false, ""
	l.identity = out.identity
	l.identity.Worker = out.worker
	if out.method == model.Reload {
		l.loadFailures.reset()
		l.notBefore = now.Add(min(out.took, time.Second)) // at most half of the time goes into reloads
		l.haproxy.OldWorkers++                            // until the next observation says that it has ended
	}
	l.haproxy.Worker = out.worker
	l.lookNow()
	l.answers()
	if out.method == model.Runtime {
		if !out.files {
			l.save.behind(now)
		}
		l.changedAtRuntime(out, now)
		l.applied = out.wanted
		l.unnotable(out)
		return
	}
	l.leaving = nil
	l.untried = nil
	for _, b := range out.untried {
		if !isPath(b.Raw) { // nobody else's connections could arrive at a file
			l.untried = append(l.untried, b.Raw)
		}
	}
	if out.method == model.Start {
		l.running = true
		l.haproxy.Master, l.haproxy.Started, l.haproxy.MaxConn, l.haproxy.OldWorkers = out.identity.Master, out.identity.Started, out.maxConn, 0
		l.setPhase(model.Serving)
		if !first || out.fixed != nil {
			l.dirty(now) // what changed meanwhile
		}
	}
	if first || out.method == model.Reload {
		l.applied = out.wanted
	}
	l.unnotable(out)
}

// unnotable tells that the next fnlb will not know what is in force.
func (l *loop) unnotable(out outcome) {
	if out.noted != nil {
		l.s.o.Log.Warn("applied, but not noted for the next start", "error", out.noted)
	}
}

// rejected keeps what is in force, and arranges another attempt where one may help.
func (l *loop) rejected(now time.Time, out outcome, death error) {
	if out.method == model.Start {
		switch {
		case !l.stopAt.IsZero(): // it was cut short on purpose
		case l.accepted == nil && out.fixed == nil && l.bar(now, out.err):
		case l.accepted == nil:
			l.failure = out.err
		default:
			l.lost(out.err)
		}
		return
	}
	doubtful := l.doubt(out)
	if !l.running {
		l.lost(death)
		return
	}
	if doubtful {
		l.dirty(now)
	}
	if out.fixed == nil && !out.back && !out.loading && l.bar(now, out.err) {
		l.causes = out.causes.join(l.causes)
		return
	}
	if out.back {
		if out.loading {
			l.pause(now)
		}
		return // who asked for it is told
	}
	l.lastRefusal = out.err.Error()
	problem := &model.Problem{
		Kind: model.Refused, Owner: model.Owner{Source: "configuration", Name: l.s.o.Files.Config}, Reason: l.lastRefusal,
		Mend:  "what ran goes on; a text that HAProxy refused is kept in " + l.s.o.Files.Refused(),
		Place: firstPlace(out.err),
	}
	if out.loading {
		l.pause(now)
	}
	if l.accepted.renderer != nil && out.renderer != l.accepted.renderer {
		problem.Mend += "; mend the template or the certificate; it is read again by itself"
		if !l.unreadable {
			l.badRenderer = problem
		}
		if out.renderer == l.renderer {
			l.renderer = l.accepted.renderer // what is in force stays; a changed State goes with it
			if !out.final && !out.loading {  // a full disk, a taken port: it may be good later
				l.shelved = shelved{out.renderer, out.causes, now.Add(shelfTime)}
			}
		}
		l.dirty(now)
		if l.shelved.renderer == nil {
			l.causes = out.causes.join(l.causes)
		}
		return
	}
	l.refused = problem
	if l.foreign && out.final && out.fixed == nil {
		l.revert = true
		l.dirty(now)
		return
	}
	switch {
	case !l.dirtySince.IsZero(): // something newer has come, and is tried at its own time
	case !out.final:
		l.retry.at = now.Add(max(l.retry.next(now, time.Hour), time.Second))
		l.again(now, out)
	}
}

// whyPartly is why the worker's servers are not those of a text.
const whyPartly = "a change at run time is not complete"

// doubt notes that what the worker has is no text of ours, because a change at run time was begun and did not end well.
func (l *loop) doubt(out outcome) bool {
	if out.partly {
		l.foreign, l.foreignWhy = true, whyPartly
		l.changedAtRuntime(out, time.Now()) // what was to go may be in maintenance
	}
	return out.partly
}

// pause follows a reload that failed: it pauses all ports for seconds, so the next one, of whatever text, had better wait.
func (l *loop) pause(now time.Time) {
	l.notBefore = now.Add(max(l.loadFailures.next(now, time.Hour), 100*time.Millisecond) * 100)
}

// again arranges another attempt, for the same causes and those that came since.
func (l *loop) again(now time.Time, out outcome) {
	l.dirty(now)
	l.causes = out.causes.join(l.causes)
}

// reasons says why, for people.
func (l *loop) reasons(out outcome) []string {
	switch {
	case out.method == model.Start && out.inForce != nil:
		return []string{causeDied}
	case out.method == model.Start && out.fixed != nil:
		return []string{"first start, frozen"}
	case out.method == model.Start:
		return []string{"first start"}
	}
	reasons := out.plan.Reasons()
	if out.foreign && out.why != "" {
		reasons = append(reasons, out.why)
	}
	return reasons
}

// tell writes the one line of an apply.
func (l *loop) tell(a model.Apply, out outcome) {
	log := l.s.o.Log.With("revision", a.Revision, "ms", a.Millis)
	if a.Error == "" && (out.files || a.Method == model.Noop) { // else it is told when the files hold it
		l.advice.tell(out.next.bundle, out.warnings, l.s.o.Log)
	}
	switch {
	case a.Error != "" && l.accepted == nil: // Run ends with it
	case a.Error != "" && (a.Error == l.lastRefusal || l.badRenderer != nil && a.Error == l.badRenderer.Reason): // told before
	case a.Error != "":
		log.Error("refused, what ran goes on", "method", a.Method, "reasons", a.Reasons, "error", a.Error)
	case a.Method == model.Noop:
		log.Debug("nothing to change")
	case a.Method == model.Start:
		log.Info("haproxy started", "reasons", a.Reasons, "master", out.identity.Master, "worker", a.Worker, "maxconn", out.maxConn, "servers", len(out.next.state.Servers))
	case a.Method == model.Runtime:
		log.Info("changed at run time", "reasons", a.Reasons, "worker", a.Worker, "servers", len(out.next.state.Servers))
	default:
		log.Info("reloaded", "reasons", a.Reasons, "worker", a.Worker, "servers", len(out.next.state.Servers))
	}
}

// isPath reports whether an address is a Unix socket with a name in the file system.
func isPath(raw string) bool { return strings.HasPrefix(raw, "/") || strings.HasPrefix(raw, "unix@") }
