package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"time"

	"github.com/fnlb/fnlb/model"
)

// order is what a person asks of the loop: to freeze, to thaw, or to roll back. It is answered once.
type order struct {
	do     func(*loop, order)
	reason string
	by     string
	reply  chan<- answer // has room for the one answer
}

type answer struct {
	msg string // what was done, for people
	err error
}

func (o order) answer(msg string, err error) { o.reply <- answer{msg, err} }

// Freeze stops all applies until Thaw, also over a restart of fnlb; HAProxy that dies is still started again, with the text in
// force. It returns when the apply that may be running has ended and the freeze is noted on disk, or at once where the disk hangs. An error
// is a model.Problem, or ctx's.
func (s *Supervisor) Freeze(ctx context.Context, reason string) (string, error) {
	return s.order(ctx, order{do: (*loop).freeze, reason: reason})
}

// Thaw ends a freeze; what is wanted by now is applied at once. Without one there is nothing to do.
func (s *Supervisor) Thaw(ctx context.Context) (string, error) {
	return s.order(ctx, order{do: (*loop).thaw})
}

// Rollback makes HAProxy load the last good text before the one in force, and freezes it.
func (s *Supervisor) Rollback(ctx context.Context) (string, error) {
	return s.order(ctx, order{do: (*loop).rollback})
}

func (s *Supervisor) order(ctx context.Context, o order) (string, error) {
	reply := make(chan answer, 1)
	o.by, o.reply = model.Asker(ctx), reply
	if o.by == "" {
		o.by = "somebody"
	}
	o.by, o.reason = model.Printable(o.by), model.Printable(o.reason)
	select {
	case s.orders <- o:
	case <-s.ended:
		return "", notNow("the balancer is stopping", "")
	case <-ctx.Done():
		return "", notNow(ctx.Err().Error(), "")
	}
	select {
	case a := <-reply:
		return a.msg, a.err
	case <-ctx.Done():
		return "", notNow("it goes on, and nobody waits for its end: "+ctx.Err().Error(), "/1/lb/status says what became of it")
	}
}

// brakeOwner is whom the problems of these orders name.
var brakeOwner = model.Owner{Source: "brake", Name: "freeze, thaw, rollback"}

func notNow(reason, mend string) model.Problem {
	return model.Problem{Kind: model.Unavailable, Owner: brakeOwner, Reason: reason, Mend: mend}
}

func conflict(reason, mend string) model.Problem {
	return model.Problem{Kind: model.Conflict, Owner: brakeOwner, Reason: reason, Mend: mend}
}

// obey carries out the next order, when nothing else is under way that changes files. What the files do not hold yet is written first, and
// where the disk does not answer nobody waits for that.
func (l *loop) obey() {
	behind := l.save.running || !l.save.since.IsZero() && l.save.failed == "" && l.running && !l.foreign
	if len(l.orders) == 0 || l.changing() || behind && !l.diskHangs() {
		return
	}
	o := l.orders[0]
	l.orders = l.orders[1:]
	switch {
	case l.stopping || l.phase == model.Stopping:
		o.answer("", notNow("the balancer is stopping", ""))
	case l.accepted == nil:
		o.answer("", notNow("HAProxy runs no accepted configuration yet", ""))
	default:
		o.do(l, o)
	}
}

// diskHangs reports whether writing the files takes so long that the disk may never answer.
func (l *loop) diskHangs() bool { return l.save.running && time.Since(l.save.began) >= saveLate }

// noDisk is why an order cannot be carried out while the disk hangs.
const noDisk = "the disk does not answer: the files are being written"

// changing reports whether a task is under way beside which nothing is applied: applies, orders and mending exclude each other.
func (l *loop) changing() bool { return l.applying || l.ordering || l.mending }

// busy reports whether a task is under way that changes files.
func (l *loop) busy() bool { return l.changing() || l.save.running }

// refuseOrders answers those that nobody carries out any more.
func (l *loop) refuseOrders() {
	close(l.s.ended)
	for _, o := range l.orders {
		o.answer("", notNow("the balancer is stopping", ""))
	}
}

// reply answers an order that was carried out. Who asks for Status next sees what became of it.
func (l *loop) reply(o order, msg string, err error) {
	l.changed, l.publishAt = true, time.Time{}
	l.publish(time.Now())
	o.answer(msg, err)
}

// noteFreeze writes a freeze of what is in force, or removes it when fr is nil, in a task.
func (l *loop) noteFreeze(fr *model.Freeze, done func(error)) {
	l.ordering = true
	s := l.s
	l.task(func(context.Context) func() {
		s.writing.Lock()
		defer s.writing.Unlock()
		var err error
		if fr == nil {
			err = s.o.Files.removeFrozen()
		} else {
			err = s.o.Files.writeFrozen(*fr, s.disk)
		}
		return func() {
			l.ordering, l.changed = false, true
			done(err)
		}
	})
}

// freeze holds from now on, whether or not it can be noted on disk: who pulls the brake in an emergency shall not fail for a full disk.
func (l *loop) freeze(o order) {
	if l.accepted.uncertain {
		l.reply(o, "", notNow("what HAProxy has loaded is not known yet", "fnlb makes it load ours first; then try again"))
		return
	}
	fr := model.Freeze{Reason: o.reason, Since: time.Now(), By: o.by, Revision: l.accepted.revision}
	if fr.Reason == "" {
		fr.Reason = "no reason given"
	}
	if l.frozen != nil { // another reason for the same freeze
		fr.Since, fr.RolledBack = l.frozen.Since, l.frozen.RolledBack
	}
	l.pin(fr, o, "frozen: nothing is applied until `fnlb thaw`")
}

// pin freezes and answers the order.
func (l *loop) pin(fr model.Freeze, o order, msg string) {
	l.frozen, l.pinned, l.changed = &fr, nil, true
	l.s.o.Log.Warn("frozen: nothing is applied until fnlb thaw", "reason", fr.Reason, "by", fr.By, "text", fr.Revision)
	l.keep(model.Apply{Revision: l.applied, At: time.Now(), Method: model.Froze, Reasons: []string{fr.Reason}, Causes: []string{"freeze by " + fr.By}})
	if l.diskHangs() { // the note follows the files
		l.unnoted = noDisk
		l.reply(o, "", notNow("frozen, but a restart of fnlb would forget it: "+noDisk, "it is noted as soon as the disk answers"))
		return
	}
	l.noteFreeze(&fr, func(err error) {
		if l.notedFreeze(err); err != nil {
			l.reply(o, "", notNow("frozen, but a restart of fnlb would forget it: "+l.unnoted, "freeze again once the run directory can be written"))
			return
		}
		l.reply(o, msg, nil)
	})
}

// thaw ends the freeze when its note is gone: otherwise the next start would be frozen again.
func (l *loop) thaw(o order) {
	if l.frozen == nil {
		l.reply(o, "it was not frozen", nil)
		return
	}
	if l.diskHangs() {
		l.reply(o, "", notNow("still frozen: "+noDisk, "thaw again when the disk answers"))
		return
	}
	l.noteFreeze(nil, func(err error) {
		if err != nil {
			l.reply(o, "", notNow("still frozen: "+model.Printable(err.Error()), "the run directory must be writable"))
			return
		}
		since := l.frozen.Since
		l.frozen, l.pinned, l.unnoted = nil, nil, ""
		cause := "thaw by " + o.by
		now := time.Now()
		l.s.o.Log.Info("thawed", "by", o.by, "frozen_for", now.Sub(since).Round(time.Second))
		l.keep(model.Apply{Revision: l.applied, At: now, Method: model.Thawed, Reasons: []string{}, Causes: []string{cause}})
		l.dirty(now, cause)
		l.urgent = true
		l.reply(o, "thawed: what is wanted is applied now", nil)
	})
}

// rollback goes back by one text. A second one is refused: it would go forward, which is what a thaw does.
func (l *loop) rollback(o order) {
	switch {
	case l.frozen != nil && l.frozen.RolledBack:
		l.reply(o, "", conflict(l.frozen.Reason+" already", "fnlb thaw goes forward again; only one text is kept to go back to"))
		return
	case !l.running:
		l.reply(o, "", notNow("HAProxy does not run", "fnlb is starting it again"))
		return
	case l.halted != 0:
		l.reply(o, "", notNow(l.unanswered, "fnlb lets it go on; then try again"))
		return
	case l.diskHangs():
		l.reply(o, "", notNow(noDisk, "fnlb freeze holds what is in force; roll back when the disk answers"))
		return
	}
	j := job{
		renderer: l.accepted.renderer, inForce: l.accepted, method: model.Reload, worker: l.haproxy.Worker, lastState: l.observed.raw,
		foreign: l.foreign, back: true, askFirst: true, fixed: l.previous, silentSince: l.silentSince, mayReload: true, leaving: maps.Clone(l.leaving),
	}
	if l.previous != nil {
		j.wanted = l.previous.state.Revision
	}
	j.causes.add("rollback by " + o.by)
	from := l.accepted.revision
	l.start(j, (*Supervisor).apply, func(out outcome) {
		var p model.Problem
		if errors.As(out.err, &p) && l.death == nil { // there is nothing to go back to: nothing was tried
			l.reply(o, "", p)
			return
		}
		var held *heldError
		if errors.As(out.err, &held) && l.death == nil {
			if l.doubt(out) {
				l.dirty(time.Now())
			}
			l.lookNow()
			l.reply(o, "", notNow(held.why, "fnlb sees to it; then try again"))
			return
		}
		l.done(out)
		if out.err != nil {
			l.reply(o, "", model.Problem{Kind: model.Refused, Owner: brakeOwner, Reason: model.Printable(out.err.Error()), Mend: "what ran goes on"})
			return
		}
		l.refused, l.lastRefusal = nil, ""
		l.pin(model.Freeze{
			Reason: "rolled back from revision " + from, Since: time.Now(), By: o.by, Revision: l.accepted.revision, RolledBack: true,
		}, o, fmt.Sprintf("rolled back from revision %s to %s, and frozen: `fnlb thaw` goes forward again", from, l.accepted.revision))
	})
}

// lastGood finds what a rollback goes to: what was in force before, else what an earlier fnlb left.
func (s *Supervisor) lastGood(out *outcome) (*accepted, error) {
	last := out.fixed
	if last == nil {
		var err error
		last, err = s.o.Files.readLast()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, conflict("there is no earlier text to go back to", "")
		}
		if err != nil {
			return nil, fmt.Errorf("read the last good text: %w", err)
		}
	}
	switch {
	case last.revision == out.inForce.revision:
		return nil, conflict("the last good text is the one in force", "")
	case len(last.text.Servers()) == 0 && len(out.inForce.text.Servers()) > 0:
		return nil, conflict("the last good text has no servers: every client would get an error", "fnlb freeze keeps what is in force")
	}
	back := *last
	back.renderer = nil // whatever made it, what comes next is not to be compared with that
	return &back, nil
}

// resume takes over a freeze that an earlier fnlb noted: HAProxy is started on the text that it pins, as it lies on disk, because
// to render one would be an apply. What it cannot trust it does not start.
func (l *loop) resume() {
	fr, text, err := l.s.o.Files.readFrozen()
	switch {
	case err != nil:
		l.failure = err
		l.frozen = &model.Freeze{} // what lies there stays
		l.left = l.s.o.Found != nil
	case fr != nil:
		l.frozen, l.pinned = fr, text
		l.s.o.Log.Warn("still frozen: haproxy is started on the text as it was", "reason", fr.Reason, "since", fr.Since, "by", fr.By, "text", fr.Revision)
		l.dirty(time.Now())
		l.urgent = true
	}
}
