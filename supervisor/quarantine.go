package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fnlb/fnlb/model"
)

// Bounds of a quarantine.
const (
	mostLeftOut     = 10               // owners
	mostTries       = 200              // texts that HAProxy is asked about
	quarantineLimit = 15 * time.Second // for all of them together; other changes wait meanwhile
)

// leftOut is an owner without whom the rest can be applied.
type leftOut struct {
	owner  model.Owner
	reason error // what was wrong with a text that had it
}

// errNoUse says that leaving out owners does not help.
var errNoUse = errors.New("no few owners are at fault")

// settle finds whom to leave out so that good accepts the others; why is what was wrong with all of them together. The owners come
// oldest first, and the shortest row of them that is refused ends with one that is left out: of two that only together do harm it is
// the younger. For d of n owners it asks about d·(log2(n)+1) questions. More than mostLeftOut, or a refusal without any of them, is
// errNoUse; an error of good that refused does not call a refusal ends it.
func settle(owners []model.Owner, why error, good func(with []model.Owner) error, refused func(error) bool) ([]leftOut, error) {
	s := &search{good: good, refused: refused}
	for {
		n, reason, err := s.shortest(owners, why)
		if err != nil {
			return nil, err
		}
		if s.left = append(s.left, leftOut{owners[n-1], reason}); len(s.left) > mostLeftOut {
			return nil, errNoUse
		}
		s.in, owners = append(s.in, owners[:n-1]...), owners[n:]
		if len(owners) == 0 { // what is in was found good just now
			return s.left, nil
		}
		if why, err = s.ask(owners); err != nil || why == nil {
			return s.left, err
		}
	}
}

type search struct {
	good    func([]model.Owner) error
	refused func(error) bool
	in      []model.Owner
	known   bool // that what is in, were it nothing, is good
	left    []leftOut
	tries   int
}

// ask gives why the row is refused beside what is in; nil: it is good.
func (s *search) ask(row []model.Owner) (why, err error) {
	if s.tries++; s.tries > mostTries {
		return nil, errNoUse
	}
	switch err := s.good(slices.Concat(s.in, row)); {
	case err == nil:
		s.known = true
		return nil, nil
	case s.refused(err):
		return err, nil
	default:
		return nil, err
	}
}

// shortest finds how long the shortest refused row is, and what was wrong with it.
func (s *search) shortest(owners []model.Owner, why error) (n int, reason, err error) {
	good, bad, reason := 0, len(owners), why
	for bad-good > 1 {
		middle := (good + bad) / 2
		no, err := s.ask(owners[:middle])
		switch {
		case err != nil:
			return 0, nil, err
		case no == nil:
			good = middle
		default:
			bad, reason = middle, no
		}
	}
	if !s.known { // perhaps nothing at all is refused as well
		switch no, err := s.ask(nil); {
		case err != nil:
			return 0, nil, err
		case no != nil:
			return 0, nil, errNoUse
		}
	}
	return bad, reason, nil
}

// suspects lists the owners whose servers are not those of the last good State, oldest first; before there is one, all.
func suspects(good *accepted, st model.State) []model.Owner {
	var was []model.Server
	if good != nil {
		was = good.state.Servers
	}
	changed := map[model.Owner]bool{}
	walk(was, st.Servers, func(_, after *model.Server) {
		if after != nil {
			changed[after.Owner] = true
		}
	})
	out := make([]model.Owner, 0, len(changed))
	for i := range st.Offers { // oldest first
		if owner := st.Offers[i].Owner; changed[owner] {
			out = append(out, owner)
		}
	}
	return out
}

// without is the State less the servers of these owners.
func without(st model.State, out map[model.Owner]bool) model.State {
	st.Servers = slices.DeleteFunc(slices.Clone(st.Servers), func(s model.Server) bool { return out[s.Owner] })
	return st
}

// quarantine applies a State that was refused without the owners that are at fault, when these are few and new. A text that is
// refused without any of the new ones is the template's fault, and nobody is left out.
func (s *Supervisor) quarantine(ctx context.Context, out *outcome) {
	s.writing.Lock()
	good := s.disk // what runs may be what is refused
	s.writing.Unlock()
	owners := suspects(good, out.state)
	if len(owners) == 0 {
		return
	}
	limit, cancel := context.WithTimeout(ctx, quarantineLimit)
	defer cancel()
	less := func(with []model.Owner) model.State {
		gone := make(map[model.Owner]bool, len(owners))
		for _, o := range owners {
			gone[o] = true
		}
		for _, o := range with {
			delete(gone, o)
		}
		return without(out.state, gone)
	}
	left, err := settle(owners, out.err, func(with []model.Owner) error {
		_, err := s.judge(limit, out, less(with))
		return err
	}, refusedText)
	if err != nil || len(left) == 0 {
		s.o.Log.Debug("nobody is left out", "changed", len(owners), "error", err)
		return
	}
	gone := map[model.Owner]bool{}
	for _, l := range left {
		gone[l.owner] = true
	}
	next, err := s.render(out.job, without(out.state, gone))
	if err != nil {
		return // it was good a moment ago; the first refusal stands
	}
	out.err, out.final, out.leftOut = nil, false, left
	s.put(ctx, out, next)
}

// textError is a State that does not become a text.
type textError struct{ err error }

func (e *textError) Error() string { return e.err.Error() }
func (e *textError) Unwrap() error { return e.err }

// refusedText reports whether the text is at fault: it does not render, or HAProxy refuses it.
func refusedText(err error) bool {
	var te *textError
	return errors.As(err, &te) || refusedByHAProxy(err)
}

// judge asks whether a State gives a text that HAProxy accepts. The one in force needs no answer.
func (s *Supervisor) judge(ctx context.Context, out *outcome, st model.State) (*accepted, error) {
	next, err := s.render(out.job, st)
	if err != nil {
		return nil, &textError{err}
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.disk != nil && s.disk.revision == next.revision {
		return next, nil
	}
	f := s.o.Files
	if err := f.draft(next.bundle, next.revision); err != nil {
		return nil, err
	}
	_, err = s.o.Checker.Check(ctx, f.candidates()...)
	return next, err
}

// quarantined is a server that is left out for its owner's sake.
type quarantined struct {
	row     model.Server // as it would be rendered
	problem model.Problem
}

// isolate notes whom an apply has left out, and tells it once.
func (l *loop) isolate(out outcome) {
	for _, q := range out.leftOut {
		p := model.Problem{
			Kind: model.Refused, Owner: q.owner, Reason: "left out: " + model.Printable(q.reason.Error()),
			Mend: "correct it at its source, or the template; it is tried again when one of them changes, and on SIGHUP",
		}
		l.s.o.Log.Warn("left out, so that the others can be applied", "owner", q.owner, "reason", q.reason, "mend", p.Mend)
		for _, srv := range out.state.Servers {
			if srv.Owner != q.owner {
				continue
			}
			l.quarantined[srv.Key()] = quarantined{row: srv, problem: p}
			for _, m := range l.membersOf(&srv) {
				m.set(model.Pending, p.Reason, "") // the mend stands in the problem
			}
		}
	}
}

// review lets those back in whose offer is another one by now, and forgets those that are wanted no more.
func (l *loop) review() {
	back := map[model.Owner]bool{}
	stay := make(map[model.ServerKey]bool, len(l.quarantined))
	l.leaves(func(wanted *model.Server, m *member) {
		srv := *wanted
		if m.admitted {
			srv = m.row(srv)
		}
		q, ok := l.quarantined[srv.Key()]
		if !ok {
			return
		}
		stay[srv.Key()] = true
		if srv != q.row {
			back[q.row.Owner] = true
		}
	})
	for key, q := range l.quarantined {
		if !stay[key] || back[q.row.Owner] {
			delete(l.quarantined, key)
			l.changed = true
		}
	}
}

// isolation lists the problems of those who are left out, each owner once, sorted by the key of its first server.
func (l *loop) isolation() (out []model.Problem, degraded []string) {
	seen := map[model.Owner]bool{}
	l.leaves(func(wanted *model.Server, m *member) {
		q, ok := l.quarantined[m.row(*wanted).Key()]
		if !ok || seen[q.problem.Owner] {
			return
		}
		seen[q.problem.Owner] = true
		out = append(out, q.problem)
		degraded = append(degraded, fmt.Sprintf("%s: %s", q.problem.Owner, q.problem.Reason))
	})
	return out, degraded
}
