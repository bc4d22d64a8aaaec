package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/model"
)

// How long the files may lag behind what HAProxy was told at run time. Each writing of them costs a run of haproxy -c, so that a row
// of changes shares one.
const (
	saveQuiet = 50 * time.Millisecond
	saveMost  = 500 * time.Millisecond
	saveLate  = 10 * time.Second // from then on it is told
)

// saving is how the files follow a change at run time. HAProxy checks each step of such a change itself and says so; what haproxy -c
// adds can wait, and with it the disk, because HAProxy reads the files at its next start or reload alone.
type saving struct {
	since, last time.Time // the first and the last change that they do not hold; zero: they are right
	running     bool
	began       time.Time // when the task that runs did
	cancel      context.CancelFunc
	number      int // a report about an older one is dropped
	retry       backoff
	failed      string // why they are not right, for people; "" they are, or will be in a moment
	refused     bool   // haproxy -c refused the text in force: the next apply asks first
	told        bool   // that it takes long
}

// behind notes that the files do not hold what is in force.
func (v *saving) behind(now time.Time) {
	if v.since.IsZero() {
		v.since = now
	}
	v.last = now
}

// done notes that the files hold what is in force. What a task that still runs reports is about something older.
func (v *saving) done() {
	v.stop()
	*v = saving{number: v.number + 1, running: v.running, began: v.began}
}

// stop ends a task that runs, because somebody else writes the files.
func (v *saving) stop() {
	if v.cancel != nil {
		v.cancel()
	}
}

// saveAt is when the files are to be written; zero: they are right, or something else that writes them is under way.
func (l *loop) saveAt() time.Time {
	v := &l.save
	if v.since.IsZero() || v.refused || l.busy() || !l.running || l.stopping || l.foreign {
		return time.Time{}
	}
	if !l.stopAt.IsZero() && !l.s.o.External { // HAProxy ends with us, and the files go
		return time.Time{}
	}
	at := v.last.Add(saveQuiet)
	if most := v.since.Add(saveMost); at.After(most) {
		at = most
	}
	if len(l.orders) > 0 || !l.stopAt.IsZero() { // somebody waits for it
		at = v.since
	}
	return latest(at, v.retry.at)
}

// startSave writes the files in a task.
func (l *loop) startSave() {
	s, a, id, written := l.s, l.accepted, l.identity, l.s.written.Load()
	ctx, cancel := context.WithCancel(l.ctx)
	l.save.running, l.save.began, l.save.cancel = true, time.Now(), cancel
	l.save.number++
	number := l.save.number
	l.task(func(context.Context) func() {
		defer cancel()
		began := time.Now()
		warnings, err := s.saveFiles(ctx, a, id, began, written)
		return func() {
			l.save.running = false
			if l.save.number == number {
				l.wroteFiles(a, warnings, err, began)
			}
		}
	})
}

// saveFiles makes the files those of what is in force, unless somebody else has replaced them since; then it is canceled.
func (s *Supervisor) saveFiles(ctx context.Context, a *accepted, id process.Identity, at time.Time, written uint64) (warnings string, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if ctx.Err() != nil || s.written.Load() != written {
		return "", context.Canceled
	}
	if warnings, err = s.vet(ctx, a); err != nil {
		return warnings, err
	}
	if err := s.commit(a); err != nil {
		return warnings, err
	}
	err = s.note(a, id, at)
	s.o.Files.at("noted")
	return warnings, err
}

// commit puts what was staged into place; s.writing is held. On error the files are what they were.
func (s *Supervisor) commit(next *accepted) error {
	var before []byte
	if s.disk != nil {
		before = s.disk.bundle.Main
	}
	if err := s.o.Files.commit(before); err != nil {
		return errors.Join(err, s.restore(s.disk))
	}
	s.disk = next
	s.written.Add(1)
	s.o.Files.at("committed")
	s.o.Log.Info(fmt.Sprintf("Wrote %d bytes to %s", len(next.bundle.Main), s.o.Files.Config)) // docker-loadbalancer's users look for it
	return nil
}

// startable makes the files those of what was in force when HAProxy died, and gives what they hold then: where they lagged behind and
// haproxy -c does not accept what it has taken at run time, that is what it had accepted before. s.writing is held.
func (s *Supervisor) startable(ctx context.Context, out *outcome) (*accepted, error) {
	a := out.inForce
	if s.disk == nil || s.disk.revision == a.revision || len(a.bundle.Main) == 0 {
		return a, s.restore(a)
	}
	err := errors.New("haproxy -c refused it")
	if !out.askFirst {
		if out.warnings, err = s.vet(ctx, a); err == nil {
			err = s.commit(a)
		}
	}
	if err == nil {
		return a, nil
	}
	s.o.Log.Warn("haproxy is started on the text before its last changes at run time", "error", err)
	return s.disk, s.restore(s.disk)
}

// restore makes the files hold this configuration again, or nothing else where it is nil; s.writing is held.
func (s *Supervisor) restore(a *accepted) error {
	if a == nil {
		return nil
	}
	s.disk = a
	s.written.Add(1)
	return s.o.Files.restore(a.bundle, a.revision)
}

// wroteFiles takes over what became of the files.
func (l *loop) wroteFiles(a *accepted, warnings string, err error, began time.Time) {
	v, log := &l.save, l.s.o.Log
	if err == nil {
		l.changed = true
		l.advice.tell(a.bundle, warnings, log)
		if v.failed != "" {
			log.Info("the files are what runs again")
		}
		since := v.since
		v.done()
		if a != l.accepted && a.revision != l.accepted.revision { // it has changed again meanwhile
			v.since, v.last = latest(since, began), time.Now()
		} else if l.frozen != nil && l.frozen.Revision == a.revision && len(l.orders) == 0 {
			l.noteFreeze(l.frozen, l.notedFreeze)
		}
		return
	}
	if errors.Is(err, context.Canceled) {
		return // who cancelled it writes them
	}
	now := time.Now()
	first := v.failed == ""
	v.failed, l.changed = model.Printable(err.Error()), true
	v.retry.at = now.Add(max(v.retry.next(now, time.Hour), time.Second))
	if first {
		log.Error("changed at run time, and the files do not hold it yet: HAProxy would start with what was before", "error", err)
	}
	if refusedByHAProxy(err) {
		v.refused = true
		l.dirty(now, "haproxy -c refused what runs")
	}
}

// notedFreeze takes over whether a freeze could be noted.
func (l *loop) notedFreeze(err error) {
	l.unnoted = ""
	if err != nil {
		l.unnoted = model.Printable(err.Error())
		l.s.o.Log.Error("frozen, and a restart of fnlb would forget it", "error", err)
	}
}

// saveProblem is what people are told while the files lag behind.
func (l *loop) saveProblem() (model.Problem, bool) {
	why := l.save.failed
	if why == "" && !l.save.since.IsZero() && time.Since(l.save.since) >= saveLate {
		why = "the disk does not answer"
	}
	if why == "" {
		return model.Problem{}, false
	}
	return model.Problem{
		Kind: model.Unavailable, Owner: model.Owner{Source: "configuration", Name: l.s.o.Files.Config},
		Reason: fmt.Sprintf("changed at run time, and the files do not hold it: %s", why),
		Mend:   "fnlb goes on trying; until then HAProxy would start with what was before",
	}, true
}
