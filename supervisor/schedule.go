package supervisor

import (
	"context"
	"time"
)

// applyAt is when the next apply is due; zero when there is nothing to apply.
func (l *loop) applyAt() time.Time {
	startsFrozen := l.frozen != nil && l.accepted == nil // without waiting for what the sources list
	if l.dirtySince.IsZero() || l.changing() || !l.have && !startsFrozen || l.stopping || !l.running && !l.stopAt.IsZero() && l.accepted == nil {
		return time.Time{}
	}
	if !l.running && l.s.o.External {
		return time.Time{} // it comes by itself
	}
	if !l.running && l.accepted != nil {
		return l.restart.at // HAProxy died: first the text in force is started again
	}
	if l.running && (len(l.orders) > 0 || l.frozen != nil && !l.foreign) {
		return time.Time{} // a thaw
	}
	if l.running && l.waits {
		if l.haproxy.OldWorkers >= maxOldWorkers {
			return time.Time{} // the next observation looks again
		}
		return latest(l.dirtyLast, l.notBefore, l.retry.at)
	}
	if l.running && l.halted != 0 {
		return time.Time{} // the next observation lets it go on
	}
	at := l.dirtyLast.Add(l.s.o.WaitMin)
	if bound := l.dirtySince.Add(l.s.o.WaitMax); at.After(bound) {
		at = bound
	}
	if l.urgent {
		at = l.dirtyLast
	}
	if !l.namesBy.IsZero() && l.awaitsNames() {
		at = latest(at, l.namesBy)
	}
	if l.running && !l.silentSince.IsZero() {
		at = latest(at, l.silentSince.Add(silentMost))
	}
	return latest(at, l.retry.at)
}

// mayReload reports whether a reload is allowed now: not while many workers of earlier ones live, and not too soon after the last.
func (l *loop) mayReload(now time.Time) bool {
	return l.haproxy.OldWorkers < maxOldWorkers && !now.Before(l.notBefore)
}

// schedule starts what is due.
func (l *loop) schedule(now time.Time, hard context.Context) {
	l.hold()
	l.obey()
	if at := l.saveAt(); !at.IsZero() && !now.Before(at) {
		l.startSave()
	}
	if v := &l.save; !v.told && !v.since.IsZero() && now.Sub(v.since) >= saveLate {
		v.told, l.changed = true, true
	}
	if !l.stopAt.IsZero() && !l.stopping && !now.Before(l.stopAt) {
		switch {
		case !l.busy(), !l.applying && now.Sub(l.stopAt) > applyGrace: // who looks at files must not write them after the end
			l.stop(hard)
			return
		case now.Sub(l.stopAt) > applyGrace+abandonGrace:
			l.s.o.Log.Error("an apply hangs, as on a disk that does not answer: stopping without it")
			l.stop(hard)
			return
		case l.applying && (!l.running || now.Sub(l.stopAt) > applyGrace):
			l.cancelApply()
		}
	}
	l.unshelve(now)
	l.reviewBarred(now)
	if at := l.applyAt(); !at.IsZero() && !now.Before(at) {
		l.startApply(now)
	}
	if l.mends() && !now.Before(l.mendAt) {
		l.mend(now)
	}
	if l.observes() && !now.Before(l.observeAt) {
		l.observe()
		l.reap(now)
	}
	if !l.cutAt.IsZero() && !now.Before(l.cutAt) {
		l.cutAt = time.Time{}
		l.reap(now) // where it cannot be now, it is after the next observation
	}
}

// observes reports whether HAProxy is to be looked at: not while it goes, when workers leave in any order.
func (l *loop) observes() bool { return l.running && !l.observing && !l.stopping }

// next is when schedule must look again.
func (l *loop) next(now time.Time) time.Time {
	at := now.Add(time.Hour)
	sooner := func(t time.Time) {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	sooner(l.applyAt())
	sooner(l.saveAt())
	if l.observes() {
		sooner(l.observeAt)
	}
	sooner(l.cutAt)
	for _, b := range l.barred {
		sooner(b.again)
	}
	if l.mends() {
		sooner(latest(l.mendAt, now))
	}
	if !l.stopAt.IsZero() && !l.stopping {
		due := l.stopAt
		if l.busy() {
			due = l.stopAt.Add(applyGrace + time.Millisecond)
			if !now.Before(due) { // it was cancelled
				due = due.Add(abandonGrace)
			}
		}
		sooner(latest(now, due))
	}
	if !l.save.since.IsZero() && !l.save.told {
		sooner(l.save.since.Add(saveLate))
	}
	if l.save.running && len(l.orders) > 0 {
		sooner(l.save.began.Add(saveLate)) // they do not wait longer
	}
	if l.changed {
		sooner(latest(l.publishAt, now))
	}
	if l.s.o.Beat != nil && l.s.o.BeatEvery > 0 {
		sooner(now.Add(l.s.o.BeatEvery))
	}
	return at
}

// shelfTime is how long a template waits that could not be applied, while States go on with the one in force.
const shelfTime = 10 * time.Second

// shelved is a renderer that is to be tried again.
type shelved struct {
	renderer Renderer
	causes   causes
	at       time.Time
}

// unshelve makes a renderer wanted again whose time has come.
func (l *loop) unshelve(now time.Time) {
	if l.shelved.renderer == nil || l.applying || now.Before(l.shelved.at) {
		return
	}
	l.renderer = l.shelved.renderer
	l.dirty(now)
	l.causes = l.shelved.causes.join(l.causes)
	l.shelved = shelved{}
}
