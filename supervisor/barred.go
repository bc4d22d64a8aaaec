package supervisor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/model"
)

// A listener whose address HAProxy cannot have is barred: the text goes without it, so that whoever asked for it harms nobody else. It is
// tried again after barFirst, and then more and more rarely.
const (
	barFirst = 10 * time.Second
	barMost  = 5 * time.Minute
)

// barred is a listener that is left out.
type barred struct {
	reason string
	tries  int
	again  time.Time // when it is tried again; zero: it is being tried
}

// out reports whether the listener is left out of the text now.
func (b *barred) out() bool { return b != nil && !b.again.IsZero() }

// bar leaves out the listeners whose addresses HAProxy cannot have, where only sources offer them: what the flags ask for is refused as a
// whole, because the user has asked for nothing else. It reports whether the text is another one now.
func (l *loop) bar(now time.Time, err error) bool {
	any := false
	for _, e := range bindErrors(err) {
		for _, row := range l.wanted.Listeners {
			b := l.barred[row.Bind]
			if row.Bind.Port != e.Bind.Port || !listensAt(row.Bind, e) || b.out() || !l.offeredBySources(row.Bind) {
				continue
			}
			if b == nil {
				b = &barred{}
				l.barred[row.Bind] = b
				l.s.o.Log.Warn("a port is left out", "listen", row.Bind, "reason", e.Reason)
			}
			b.reason, b.again = e.Reason, now.Add(min(barFirst<<min(b.tries, 8), barMost))
			b.tries++
			any = true
		}
	}
	if any {
		l.dirty(now, "a port was left out")
	}
	return any
}

// bindErrors finds them in what was joined.
func bindErrors(err error) (out []*process.BindError) {
	switch e := err.(type) { //nolint:errorlint // the tree is walked
	case nil:
		return nil
	case *process.BindError:
		return []*process.BindError{e}
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			out = append(out, bindErrors(inner)...)
		}
		return out
	}
	return bindErrors(errors.Unwrap(err))
}

// listensAt reports whether the address that cannot be had is one of the listener's: without an IP it has one for each family.
func listensAt(b model.Bind, e *process.BindError) bool {
	ip := e.Bind.IP
	if !b.IP.IsValid() || b.IP.IsUnspecified() {
		return !ip.IsValid() || ip.IsUnspecified()
	}
	return ip.IsValid() && ip.Unmap() == b.IP.Unmap()
}

// offeredBySources reports whether none of the flags asks for the listener.
func (l *loop) offeredBySources(b model.Bind) bool {
	owners := l.ownersOf(b)
	return len(owners) > 0 && !slices.ContainsFunc(owners, func(o model.Owner) bool { return o.Source == flags })
}

// flags is the source of what the command line asks for.
const flags = "flags"

func (l *loop) ownersOf(b model.Bind) (owners []model.Owner) {
	for i := range l.wanted.Offers {
		o := &l.wanted.Offers[i]
		if slices.ContainsFunc(o.Listeners, func(r model.Listener) bool { return r.Bind == b }) {
			owners = append(owners, o.Owner)
		}
	}
	return owners
}

// reviewBarred drops what is not wanted any more, and tries again what is due.
func (l *loop) reviewBarred(now time.Time) {
	for bind, b := range l.barred {
		wanted := slices.ContainsFunc(l.wanted.Listeners, func(r model.Listener) bool { return r.Bind == bind })
		switch {
		case !wanted:
			delete(l.barred, bind)
		case b.out() && !now.Before(b.again):
			b.again = time.Time{}
			l.dirty(now, "a port is tried again")
		}
	}
}

// hadAll notes that an apply was made with all listeners that were in it: those that were tried again can be had.
func (l *loop) hadAll() {
	for bind, b := range l.barred {
		if !b.out() && slices.ContainsFunc(l.accepted.state.Listeners, func(r model.Listener) bool { return r.Bind == bind }) {
			delete(l.barred, bind)
			l.s.o.Log.Info("a port is there now", "listen", bind)
		}
	}
}

// unbarred is the State without the listeners that are left out, and their routes.
func (l *loop) unbarred(st model.State) model.State {
	if len(l.barred) == 0 {
		return st
	}
	st.Listeners = slices.DeleteFunc(slices.Clone(st.Listeners), func(r model.Listener) bool { return l.barred[r.Bind].out() })
	st.Routes = slices.DeleteFunc(slices.Clone(st.Routes), func(r model.Route) bool { return l.barred[r.Bind].out() })
	return st
}

// barredBinds are those that the text goes without.
func (l *loop) barredBinds() (out []model.Bind) {
	for bind, b := range l.barred {
		if b.out() {
			out = append(out, bind)
		}
	}
	slices.SortFunc(out, func(a, b model.Bind) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// barredProblems name each owner of a port that is left out.
func (l *loop) barredProblems() (out []model.Problem, degraded []string) {
	for bind, b := range l.barred {
		for _, o := range l.ownersOf(bind) {
			out = append(out, model.Problem{
				Kind: model.Refused, Owner: o, Reason: fmt.Sprintf("listen on %s: %s", bind, b.reason),
				Mend: "mend that, or publish another port; it is tried again by itself",
			})
		}
		degraded = append(degraded, fmt.Sprintf("listen on %s: %s", bind, b.reason))
	}
	slices.SortFunc(out, func(a, b model.Problem) int {
		return strings.Compare(a.Owner.String()+a.Reason, b.Owner.String()+b.Reason)
	})
	slices.Sort(degraded)
	return out, degraded
}
