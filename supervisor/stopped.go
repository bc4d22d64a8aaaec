package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fnlb/fnlb/model"
)

const (
	// silentMost is how long reloads wait for a worker that says nothing. After that a reload is tried: it may be the only mend.
	silentMost = 10 * time.Second
	// stoppedAgain is the time between the two looks that must find a process stopped before it is told to go on.
	stoppedAgain = time.Second
)

// heldError says that a reload has to wait: the new worker would take over the listening sockets from one that gives no answer, and
// those that it cannot take stay with the old one. Whoever connects there would hang.
type heldError struct{ why string }

func (e *heldError) Error() string { return e.why }

// stoppedOf gives the first of these processes that somebody has stopped, 0 when there is none.
func (s *Supervisor) stoppedOf(pids ...int) int {
	for _, pid := range pids {
		if s.o.Stopped(pid) {
			return pid
		}
	}
	return 0
}

// nudge looks whether a process of HAProxy is stopped. One that was found so before is told to go on.
func (s *Supervisor) nudge(worker, master, before int) observation {
	o := observation{worker: worker, stopped: s.stoppedOf(worker, master)}
	if o.stopped != 0 && o.stopped == before {
		o.err = s.o.Continue(o.stopped, master)
		o.continued = o.err == nil
	}
	return o
}

// awake says why a reload has to wait, nil when it has not.
func (s *Supervisor) awake(out *outcome) error {
	if out.method != model.Reload && out.method != model.Runtime {
		return nil
	}
	if pid := s.stoppedOf(out.job.worker, out.identity.Master); pid != 0 {
		return &heldError{fmt.Sprintf("process %d of haproxy is stopped", pid)}
	}
	return nil
}

// silence judges a question that the worker did not answer just before a reload.
func (s *Supervisor) silence(ctx context.Context, out *outcome, err error) error {
	if held := s.awake(out); held != nil {
		return held
	}
	if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return nil //nolint:nilerr // it says something, or it is gone: no reason to wait
	}
	if since := out.silentSince; since.IsZero() || time.Since(since) < silentMost {
		return &heldError{fmt.Sprintf("worker %d does not answer: %v", out.job.worker, err)}
	}
	return nil
}

// held puts an apply off until HAProxy answers again, or has been silent for too long.
func (l *loop) held(now time.Time, out outcome) {
	l.dirty(now)
	l.causes = out.causes.join(l.causes)
	if l.silentSince.IsZero() {
		l.silentSince = now
	}
	l.changed = true
	if l.halted == 0 { // else the second look is arranged
		l.lookNow()
	}
	if death := l.death; death != nil {
		l.death = nil
		l.lost(death)
	}
}

// sawStopped reacts to a process of HAProxy that somebody stopped. Seen a second time it is told to go on: a stopped worker serves
// nobody and answers nobody, and clients wait in its sockets for ever.
func (l *loop) sawStopped(o observation) {
	now := time.Now()
	who := fmt.Sprintf("worker %d", o.stopped)
	if o.stopped == l.haproxy.Master {
		who = fmt.Sprintf("master %d", o.stopped)
	}
	log := l.s.o.Log
	l.changed = true
	if l.silentSince.IsZero() {
		l.silentSince = now
	}
	l.unanswered = who + " is stopped (SIGSTOP), and reloads wait"
	switch {
	case o.continued:
		log.Warn("somebody stopped "+who+"; continued", "after", now.Sub(l.silentSince).Round(time.Millisecond))
		l.haproxy.Continued++
		l.halted, l.observeAt = 0, now.Add(10*time.Millisecond)
	case o.err != nil && l.halted == o.stopped: // it could not be told
		if !l.cannotContinue {
			log.Error("somebody stopped "+who+", and it cannot be told to go on", "error", o.err)
		}
		l.cannotContinue, l.observeAt = true, now.Add(observeMost)
	default:
		log.Warn(who + " is stopped (SIGSTOP): it serves nobody, reloads wait")
		l.halted, l.observeAt = o.stopped, now.Add(stoppedAgain)
	}
}

// answers notes that HAProxy answers, also because another worker has just said so.
func (l *loop) answers() {
	l.silences, l.garbled, l.halted, l.cannotContinue, l.silentSince = 0, 0, 0, false, time.Time{}
	if l.unanswered != "" {
		l.s.o.Log.Info("haproxy answers again", "worker", l.haproxy.Worker)
		l.unanswered, l.changed = "", true
	}
}
