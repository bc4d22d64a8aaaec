package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fnlb/fnlb/model"
)

const mendRefusals = "correct what DNS says of it, or change --node-allow or --node-deny"

// MostAddresses is how many addresses of one name are used.
const MostAddresses = 256

// lookup is what one look-up of a name gave.
type lookup struct {
	addrs    []netip.AddrPort // that may be nodes, sorted, at most MostAddresses
	refusals string           // which others there are, and why they are left out
	err      error
	mend     string // of err
}

// followName looks a name up for as long as it is wanted. What an adopted HAProxy serves of it, and what was served until now, goes on
// being served until DNS says otherwise.
func (l *loop) followName(m *member) {
	known := l.served.every(m.server)
	for _, e := range m.each {
		if e.admitted {
			known = append(known, e.addr)
		}
	}
	before := m.each
	m.each = nil
	for _, at := range known {
		if m.at(at) == nil {
			e := l.address(m, at)
			e.admitted, e.health = true, model.Up
			l.follow(e)
			if i := slices.IndexFunc(before, func(e *member) bool { return e.addr == at }); i >= 0 {
				e.health, e.since, e.lastCheck = before[i].health, before[i].since, before[i].lastCheck
			}
		}
	}
	f, ctx := l.follower(m), m.ctx
	l.tasks.Go(func() {
		f.runName(ctx, func(a lookup) { l.report(ctx, func() { l.resolved(m, a) }) })
	})
}

// address makes the member of one address of a name.
func (l *loop) address(m *member, at netip.AddrPort) *member {
	srv := m.server
	srv.Name, srv.Host, srv.Many = strings.TrimPrefix(srv.Name, "*"), "", false
	srv.IP, srv.Port = at.Addr(), at.Port()
	e := &member{server: srv, rule: m.rule, since: time.Now(), addr: at, by: m.by, name: m}
	i, _ := slices.BinarySearchFunc(m.each, at, func(e *member, at netip.AddrPort) int { return e.addr.Compare(at) })
	m.each = slices.Insert(m.each, i, e)
	return e
}

// at is the member of an address, nil where there is none.
func (m *member) at(at netip.AddrPort) *member {
	i, found := slices.BinarySearchFunc(m.each, at, func(e *member, at netip.AddrPort) int { return e.addr.Compare(at) })
	if !found {
		return nil
	}
	return m.each[i]
}

// resolved takes over what DNS says of a name. An address that it does not list any more leaves at once, a new one comes with its first
// check. Where none that serves would be left, those that do stay until one of the new has passed.
func (l *loop) resolved(m *member, a lookup) {
	if m.gone {
		return
	}
	l.changed = true
	log := l.logOf(m)
	if a.err != nil {
		l.unresolved(m, a, log)
		return
	}
	if m.stale != "" {
		m.stale = ""
		log.Info("is no longer kept at its last addresses")
	}
	if a.refusals != m.refusals {
		if m.refusals = a.refusals; a.refusals != "" {
			log.Warn("addresses of the name are left out", "reason", a.refusals)
		}
	}
	m.mend = ""
	for _, e := range m.each {
		_, listed := slices.BinarySearchFunc(a.addrs, e.addr, netip.AddrPort.Compare)
		e.left = !listed
	}
	for _, at := range a.addrs {
		if m.at(at) == nil {
			l.follow(l.address(m, at))
		}
	}
	l.named = nil
	serves := slices.ContainsFunc(m.each, func(e *member) bool { return e.admitted && !e.left })
	for _, at := range m.drop(func(e *member) bool { return e.left && (serves || !e.admitted) }) {
		l.dirty(time.Now(), fmt.Sprintf("DNS lists %s no more at %s", m.server.Owner, at))
		l.urgent = true
	}
	m.settle()
}

// unresolved notes that DNS has no answer of use: what is served stays.
func (l *loop) unresolved(m *member, a lookup, log *slog.Logger) {
	why := model.Printable(a.err.Error())
	switch {
	case m.serves():
		if m.stale == "" {
			log.Warn("is kept at its last addresses", "reason", why)
		}
		m.stale = why
	case m.lastCheck == "" || m.mend == "":
		log.Warn("is unhealthy", "reason", why, "mend", a.mend)
	}
	m.set(model.Pending, why, a.mend)
}

// drop forgets addresses of a name, and gives those that were served.
func (m *member) drop(which func(*member) bool) (served []netip.AddrPort) {
	m.each = slices.DeleteFunc(m.each, func(e *member) bool {
		if !which(e) {
			return false
		}
		e.cancel()
		if e.admitted {
			served = append(served, e.addr)
		}
		return true
	})
	return served
}

// settle notes that it is known of every address whether it passes: an adopted HAProxy waits for that.
func (m *member) settle() {
	if m.lastCheck == "" && !slices.ContainsFunc(m.each, func(e *member) bool { return !e.admitted && e.lastCheck == "" }) {
		m.lastCheck = "resolved"
	}
}

// runName looks the name up until ctx ends.
func (f *follower) runName(ctx context.Context, report func(lookup)) {
	for ctx.Err() == nil {
		a := f.ask(ctx)
		if ctx.Err() != nil {
			return
		}
		report(a)
		wait := resolveAgain
		if a.err != nil {
			wait = f.rule.Interval
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait + rand.N(wait/4+1)): // names must not be asked for in step
		}
	}
}

// ask looks the name up once, and leaves out what may be no node. An answer of which nothing is left is none.
func (f *follower) ask(ctx context.Context) lookup {
	all, err := f.resolve(ctx)
	if err != nil {
		return lookup{err: err, mend: "the name must resolve; fnlb goes on trying"}
	}
	var a lookup
	refused := 0
	for _, at := range all {
		if err := f.o.Allowed(at); err != nil {
			if refused++; refused == 1 {
				a.refusals = "refused: " + model.Printable(err.Error())
			}
			continue
		}
		a.addrs = append(a.addrs, at)
	}
	if refused > 1 {
		a.refusals += fmt.Sprintf(", and %d more", refused-1)
	}
	if len(a.addrs) == 0 {
		return lookup{err: errors.New(a.refusals), mend: mendRefusals}
	}
	if more := len(a.addrs) - MostAddresses; more > 0 {
		a.addrs = a.addrs[:MostAddresses]
		a.refusals = strings.TrimPrefix(a.refusals+"; ", "; ") + fmt.Sprintf("%d addresses, of which the first %d are used", more+MostAddresses, MostAddresses)
	}
	return a
}

// every lists the addresses of a name that the adopted HAProxy serves, sorted.
func (v *served) every(s model.Server) []netip.AddrPort {
	if v == nil {
		return nil
	}
	out := slices.Clone(v.each[model.ServerKey{Service: s.Service, Name: strings.TrimPrefix(s.Name, "*")}])
	out = slices.DeleteFunc(out, func(at netip.AddrPort) bool { return at.Port() != s.Port })
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out)
}

// byRow finds the members behind the servers of a text that come from names: more than one, where names share an address.
func (l *loop) byRow() map[model.ServerKey][]*member {
	if l.named == nil {
		l.named = map[model.ServerKey][]*member{}
		l.leaves(func(srv *model.Server, m *member) {
			if srv.Host != "" && m.addr.IsValid() {
				key := m.row(*srv).Key()
				l.named[key] = append(l.named[key], m)
			}
		})
	}
	return l.named
}

// membersOf gives the members behind a server of a text.
func (l *loop) membersOf(row *model.Server) []*member {
	if row.Host != "" {
		return l.byRow()[row.Key()]
	}
	if m := l.members[row.Key()]; m != nil {
		return []*member{m}
	}
	return nil
}

// node is the node's name as people wrote it.
func (m *member) node() string {
	if m.name != nil {
		return m.name.server.Name
	}
	return m.server.Name
}

// disputes tells of names with and without a star that were asked for different things: where both lead to one address they are one server,
// and of the two what the first asks for is rendered (see visible), unless that is maintenance.
func disputes(servers []model.Server) (out []model.Problem) {
	stars := map[model.ServerKey]*model.Server{}
	for i := range servers {
		if s := &servers[i]; s.Many {
			stars[model.ServerKey{Service: s.Service, Name: strings.TrimPrefix(s.Name, "*")}] = s
		}
	}
	for i := range servers {
		s := &servers[i]
		star := stars[s.Key()]
		if star == nil || s.Many || s.Host == "" || star.Share() == s.Share() && star.Admin == s.Admin {
			continue
		}
		counts, other := star, s
		if counts.Admin == model.Maint {
			counts, other = s, star
		}
		out = append(out, model.Problem{
			Kind: model.Conflict, Owner: other.Owner,
			Reason: fmt.Sprintf("%s (%s) and %s (%s) are one server where both lead to one address, and %s counts there", counts.Name, wish(counts), other.Name, wish(other), counts.Name),
			Mend:   "ask for the same weight and state for both, or take one of them away",
		})
	}
	return out
}

// wish is what was asked for a server, for people.
func wish(s *model.Server) string {
	switch s.Admin {
	case model.Drain:
		return "to drain"
	case model.Maint:
		return "in maintenance"
	}
	return fmt.Sprintf("weight %d", s.Share())
}
