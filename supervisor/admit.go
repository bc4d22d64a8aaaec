package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/model"
)

// Times of admission that no rule gives.
const (
	resolveTimeout = 5 * time.Second
	resolveAgain   = 5 * time.Second // a name that was admitted is looked up again after this long
	retryAtMost    = 30 * time.Second
	maxLookups     = 32 // at a time; each takes two sockets
)

// member is one server of the wanted State on its way to clients, and what is known of its health.
type member struct {
	server   model.Server
	rule     model.Check
	cancel   context.CancelFunc // ends its follower
	admitted bool
	addr     netip.AddrPort // where it is rendered, or was probed last
	by       string         // who asked for it, until it was told

	health    model.Health
	since     time.Time
	lastCheck string
	mend      string
	stale     string // why a name is kept at its last address; "" it is not
}

// set notes what was found.
func (m *member) set(h model.Health, why, mend string) {
	m.lastCheck, m.mend = printable(why), mend
	if h != m.health {
		m.health, m.since = h, time.Now()
	}
}

// setWanted takes over a State: new servers are followed until they are admitted, those that left are forgotten.
func (l *loop) setWanted(st model.State) {
	rules := map[string]model.Check{}
	for _, svc := range st.Services {
		rules[svc.Name] = svc.Check
	}
	by := askers()
	stay := make(map[model.ServerKey]bool, len(st.Servers))
	for _, srv := range st.Servers {
		key := srv.Key()
		stay[key] = true
		m := l.members[key]
		rule := rules[srv.Service]
		if m != nil && m.rule == rule && m.server.IP == srv.IP && m.server.Host == srv.Host && m.server.Port == srv.Port {
			m.server.Owner = srv.Owner
			continue
		}
		next := &member{server: srv, rule: rule, since: time.Now()}
		if m != nil { // same identity, other address or rule: what clients are sent to stays until the new one passes
			m.cancel()
			next.admitted, next.addr, next.health, next.since, next.lastCheck = m.admitted, m.addr, m.health, m.since, m.lastCheck
		}
		next.by = by(st, srv.Owner)
		l.members[key] = next
		l.follow(key, next)
	}
	for key, m := range l.members {
		if !stay[key] {
			m.cancel()
			delete(l.members, key)
		}
	}
	l.wanted = st
}

// visible is the wanted State with its admitted servers only, each at the address that passed.
func (l *loop) visible() model.State {
	st := l.wanted
	st.Servers = nil
	for _, srv := range l.wanted.Servers {
		if m := l.members[srv.Key()]; m != nil && m.admitted {
			srv.IP, srv.Port = m.addr.Addr(), m.addr.Port()
			st.Servers = append(st.Servers, srv)
		}
	}
	return st
}

// follow starts the goroutine that resolves and probes a member until it is admitted, and a name for as long as it is wanted.
func (l *loop) follow(key model.ServerKey, m *member) {
	ctx, cancel := context.WithCancel(l.ctx)
	m.cancel = cancel
	if at := l.served.at(m.server); at.IsValid() {
		m.admitted, m.addr, m.health = true, at, model.Up
	}
	if m.admitted && m.server.Host == "" && m.addr == m.server.Addr() {
		return
	}
	f := &follower{o: &l.s.o, server: m.server, rule: m.rule, probes: l.probes, lookups: l.lookups}
	if m.admitted {
		f.passed = m.addr
	}
	if l.served != nil {
		f.known = l.served.addrs // never changed
	}
	l.tasks.Go(func() {
		defer cancel()
		f.run(ctx, func(found finding) {
			select {
			case l.reports <- func() { l.found(key, m, found) }:
			case <-ctx.Done():
			}
		})
	})
}

// finding is what one look at a member gave.
type finding struct {
	addr   netip.AddrPort // invalid: there was none to probe
	passed bool
	reason string
	mend   string
	final  bool // it answers, and can never pass
}

// found takes over what a follower reports.
func (l *loop) found(key model.ServerKey, m *member, f finding) {
	if l.members[key] != m {
		return // superseded meanwhile
	}
	log := l.s.o.Log.With("node", key.Name, "service", key.Service)
	l.changed = true
	if !f.passed {
		l.failed(m, f, log)
		return
	}
	if m.stale != "" {
		m.stale = ""
		log.Info("is no longer kept at its last address", "address", f.addr)
	}
	if m.admitted && m.addr == f.addr {
		return
	}
	why := fmt.Sprintf("first check of %s passed", m.server.Owner)
	if m.admitted {
		log.Info("moved", "from", m.addr, "to", f.addr)
		why = fmt.Sprintf("%s moved from %s to %s", m.server.Owner, m.addr, f.addr)
	}
	if m.by != "" {
		why += ", added by " + m.by
	}
	m.admitted, m.addr, m.by = true, f.addr, ""
	m.lastCheck, m.mend = "passed the first check", ""
	l.dirty(time.Now(), why)
}

// failed notes a look that did not pass. It is told when it is the first, and when it says for the first time which flag to change.
func (l *loop) failed(m *member, f finding, log *slog.Logger) {
	if m.admitted {
		if m.stale == "" {
			log.Warn("is kept at its last address", "address", m.addr, "reason", printable(f.reason))
		}
		m.stale = printable(f.reason)
		return
	}
	tell := m.lastCheck == "" || f.mend != "" && f.mend != m.mend
	if f.addr.IsValid() {
		m.addr = f.addr
	}
	m.set(model.Pending, f.reason, f.mend)
	if !tell {
		return
	}
	attrs := []any{"reason", m.lastCheck}
	if m.mend != "" {
		attrs = append(attrs, "mend", m.mend)
	}
	log.Warn("is unhealthy", attrs...)
}

// follower looks after one member; it lives in a goroutine of its own.
type follower struct {
	o               *Options
	server          model.Server
	rule            model.Check
	probes, lookups chan struct{}           // one place for each at a time
	known           map[netip.AddrPort]bool // addresses that are admitted without a probe: an earlier HAProxy serves them
	passed          netip.AddrPort          // the last address that was admitted
}

func (f *follower) run(ctx context.Context, report func(finding)) {
	finals := 0
	for ctx.Err() == nil {
		found := f.look(ctx)
		if ctx.Err() != nil {
			return
		}
		report(found)
		wait := resolveAgain
		switch {
		case found.passed:
			f.passed, finals = found.addr, 0
			if f.server.Host == "" {
				return // an address: HAProxy's own checks take over
			}
		default:
			// A node that stays away is asked as often as HAProxy would ask it; one that cannot pass, more and more rarely.
			wait = f.rule.Interval
			if found.final {
				finals++
			}
			if finals > 10 {
				wait = min(wait<<min(finals-10, 5), max(retryAtMost, wait))
			}
		}
		if f.server.Host != "" {
			wait += rand.N(wait/4 + 1) // names must not be asked for in step
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// look resolves the server and probes what came out: the address that passed before first, then the others in their order.
func (f *follower) look(ctx context.Context) finding {
	addrs, err := f.resolve(ctx)
	if err != nil {
		return finding{reason: err.Error(), mend: "the name must resolve; fnlb goes on trying"}
	}
	if slices.Contains(addrs, f.passed) {
		return finding{addr: f.passed, passed: true}
	}
	var last finding
	for _, at := range addrs {
		if f.server.Host != "" {
			if err := f.o.Allowed(at); err != nil {
				last = finding{addr: at, reason: "refused: " + err.Error(), mend: "name another node, or change --node-allow or --node-deny"}
				continue
			}
		}
		if f.known[at] {
			return finding{addr: at, passed: true}
		}
		r := f.probe(ctx, at)
		if r.OK {
			return finding{addr: at, passed: true}
		}
		last = finding{addr: at, reason: r.Reason, mend: r.Mend, final: r.Final}
	}
	return last
}

func (f *follower) probe(ctx context.Context, at netip.AddrPort) check.Result {
	select {
	case f.probes <- struct{}{}:
		defer func() { <-f.probes }()
		return f.o.Prober.Probe(ctx, f.rule, at, f.server.Name)
	case <-ctx.Done():
		return check.Result{Reason: ctx.Err().Error()}
	}
}

// resolve gives the server's addresses in a fixed order; an address stands for itself.
func (f *follower) resolve(ctx context.Context) ([]netip.AddrPort, error) {
	if f.server.Host == "" {
		return []netip.AddrPort{f.server.Addr()}, nil
	}
	select {
	case f.lookups <- struct{}{}:
		defer func() { <-f.lookups }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ips, err := f.o.Resolver.LookupNetIP(ctx, "ip", f.server.Host)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", f.server.Host, err)
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("resolve %s: it has no address", f.server.Host)
	}
	addrs := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		addrs[i] = netip.AddrPortFrom(ip.Unmap(), f.server.Port)
	}
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	return slices.Compact(addrs), nil
}

// printable cuts what came from outside to what a line of log bears: 200 bytes of printable text.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:197], "") + "…"
	}
	return s
}
