package supervisor

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

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

// member is one server of the wanted State on its way to clients, and what is known of its health. Of a name that stands for all of its
// addresses it is the name itself, and each address is a member of its own.
type member struct {
	server   model.Server
	rule     model.Check
	cancel   func() // ends its followers; what they still report is dropped
	gone     bool   // it was cancelled
	admitted bool
	addr     netip.AddrPort // where it is rendered, or was probed last
	by       string         // who asked for it, until it was told

	health    model.Health
	since     time.Time
	lastCheck string
	mend      string
	flaps     flaps
	stale     string // why a name is kept at its last addresses; "" it is not

	// Of a name that stands for all of its addresses.
	name     *member // of one address: the name
	ctx      context.Context
	each     []*member // of the name: one for each address, by address
	left     bool      // of one address: DNS does not list it any more, and nothing has taken its place yet
	refusals string    // of the name: addresses that may be no node, or are too many
}

// set notes what was found.
func (m *member) set(h model.Health, why, mend string) {
	m.lastCheck, m.mend = model.Printable(why), mend
	if h != m.health {
		m.health, m.since = h, time.Now()
	}
}

// serves reports whether clients are sent to it.
func (m *member) serves() bool {
	return m.admitted || slices.ContainsFunc(m.each, func(e *member) bool { return e.admitted })
}

// row is its server as it is rendered, when it is admitted; srv is what is wanted of it by now.
func (m *member) row(srv model.Server) model.Server { return srv.At(m.addr) }

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
		if m != nil && m.rule.Equal(rule) && sameMember(m.server, srv) {
			m.server = srv
			continue
		}
		next := &member{server: srv, rule: rule, since: time.Now()}
		switch {
		case m == nil:
		case (m.server.Admin == model.Maint) != (srv.Admin == model.Maint), // out, or back through its first check
			m.server.Instance != srv.Instance: // another one of the same name: the address may be somebody else's by now
			m.cancel()
		default: // same identity, other address or rule: what clients are sent to stays until the new one passes
			m.cancel()
			next.admitted, next.addr, next.health, next.since, next.lastCheck = m.admitted, m.addr, m.health, m.since, m.lastCheck
			next.each = m.each
		}
		next.by = by(st, srv.Owner)
		l.members[key] = next
		l.follow(next)
	}
	for key, m := range l.members {
		if !stay[key] {
			m.cancel()
			delete(l.members, key)
		}
	}
	l.wanted, l.named, l.disputed = st, nil, disputes(st.Servers)
}

// sameMember reports whether two rows of one key are followed the same way.
func sameMember(a, b model.Server) bool {
	return a.IP == b.IP && a.Host == b.Host && a.Many == b.Many && a.Port == b.Port && a.Instance == b.Instance && (a.Admin == model.Maint) == (b.Admin == model.Maint)
}

// leaves calls do for every wanted server that may stand in a text, each address of a name by itself, in the order of the State.
func (l *loop) leaves(do func(srv *model.Server, m *member)) {
	for i := range l.wanted.Servers {
		srv := &l.wanted.Servers[i]
		m := l.members[srv.Key()]
		switch {
		case m == nil:
		case srv.Many:
			for _, e := range m.each {
				do(srv, e)
			}
		default:
			do(srv, m)
		}
	}
}

// visible is the wanted State with its admitted servers only, each at the address that passed; what is in quarantine or in maintenance is
// left out, and so are listeners that are barred and routes that wait for a server. Names are rendered with their addresses, so that two names of one address may be one server.
func (l *loop) visible() model.State {
	st := l.unbarred(l.wanted)
	st.Servers = nil
	seen := map[model.ServerKey]bool{} // of names
	l.leaves(func(srv *model.Server, m *member) {
		if !m.admitted || srv.Admin == model.Maint {
			return
		}
		row := m.row(*srv)
		key := row.Key()
		if _, out := l.quarantined[key]; out || seen[key] {
			return
		}
		if srv.Host != "" {
			seen[key] = true
		}
		st.Servers = append(st.Servers, row)
	})
	if len(seen) > 0 {
		slices.SortFunc(st.Servers, func(a, b model.Server) int {
			return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.Name, b.Name))
		})
	}
	return l.ready(st)
}

// follow starts the goroutine that resolves and probes a member until it is admitted, and a name for as long as it is wanted. What is in
// maintenance is left alone.
func (l *loop) follow(m *member) {
	parent := l.ctx
	if m.name != nil {
		parent = m.name.ctx
	}
	ctx, cancel := context.WithCancel(parent)
	m.ctx = ctx
	m.cancel = func() {
		cancel()
		m.gone = true
		for _, e := range m.each {
			e.gone = true
		}
	}
	if m.server.Admin == model.Maint {
		cancel()
		m.health, m.lastCheck = model.Maintenance, "maintenance was asked for"
		return
	}
	if m.server.Many {
		l.followName(m)
		return
	}
	if at := l.served.at(m.server); at.IsValid() {
		m.admitted, m.addr, m.health = true, at, model.Up
	}
	if m.admitted && m.server.Host == "" && m.addr == m.server.Addr() {
		cancel()
		return
	}
	f := l.follower(m)
	l.tasks.Go(func() {
		defer cancel()
		f.run(ctx, func(found finding) { l.report(ctx, func() { l.found(m, found) }) })
	})
}

func (l *loop) follower(m *member) *follower {
	f := &follower{o: &l.s.o, server: m.server, rule: m.rule, probes: l.probes, lookups: l.lookups}
	if m.admitted {
		f.passed = m.addr
	}
	if l.served != nil {
		f.known = l.served.addrs // never changed
	}
	return f
}

// report hands what a follower found to the owner, unless nobody waits for it any more.
func (l *loop) report(ctx context.Context, do func()) {
	select {
	case l.reports <- do:
	case <-ctx.Done():
	}
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
func (l *loop) found(m *member, f finding) {
	if m.gone {
		return // superseded meanwhile
	}
	log := l.logOf(m)
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
	if m.name != nil {
		why = fmt.Sprintf("first check of %s at %s passed", m.server.Owner, f.addr)
	}
	if m.admitted {
		log.Info("moved", "from", m.addr, "to", f.addr)
		why = fmt.Sprintf("%s moved from %s to %s", m.server.Owner, m.addr, f.addr)
	}
	if m.by != "" {
		why += ", added by " + m.by
	}
	m.admitted, m.addr, m.by, l.named = true, f.addr, "", nil
	m.lastCheck, m.mend = model.PassedFirst, ""
	if m.name != nil { // those that only waited for it may go
		m.name.drop(func(e *member) bool { return e.left })
		m.name.settle()
	}
	l.dirty(time.Now(), why)
	l.urgent = l.urgent || !l.asking()
}

// asking reports whether the first check of a server runs, so that what has passed had better wait for more of its kind.
func (l *loop) asking() bool {
	for _, m := range l.members { // until the first one: which makes no difference
		if !m.admitted && m.lastCheck == "" && m.server.Admin != model.Maint {
			return true
		}
	}
	return false
}

// failed notes a look that did not pass. It is told when it is the first, and when it says for the first time which flag to change.
func (l *loop) failed(m *member, f finding, log *slog.Logger) {
	if m.admitted {
		if m.stale == "" {
			log.Warn("is kept at its last address", "address", m.addr, "reason", model.Printable(f.reason))
		}
		m.stale = model.Printable(f.reason)
		return
	}
	tell := m.lastCheck == "" || f.mend != "" && f.mend != m.mend
	if f.addr.IsValid() {
		m.addr = f.addr
	}
	m.set(model.Pending, f.reason, f.mend)
	if m.name != nil {
		m.name.settle()
	}
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
		addrs[i] = netip.AddrPortFrom(ip.Unmap().WithZone(""), f.server.Port)
	}
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	return slices.Compact(addrs), nil
}
