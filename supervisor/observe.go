package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/model"
)

const (
	observeLimit = 5 * time.Second
	quietest     = 2 * time.Minute // between two questions to a worker that is silent
	garbledMost  = 3               // questions that are asked again at once, because the reply was damaged or cut
)

// observation is what one look at HAProxy gave. It is never changed.
type observation struct {
	worker int
	asked  []model.Server // whose health was looked for
	moved  int            // the worker that serves in its place: somebody else made HAProxy reload
	old    int            // workers of earlier configurations
	raw    []byte         // `show servers state`
	health map[model.ServerKey]model.Health
	news   bool                       // a server's health is new
	why    map[model.ServerKey]string // of those whose health is new
	err    error
	made   int // as of loop when it began
	ports  sharing

	stopped   int  // a process of HAProxy that somebody stopped: nothing was asked
	continued bool // and that was told to go on; err says why it could not be
}

// observe looks at HAProxy in a task.
func (l *loop) observe() {
	l.observing = true
	l.pace.begin(time.Now())
	made := l.made
	worker, master, stopped, prev, servers := l.haproxy.Worker, l.haproxy.Master, l.halted, l.observed, l.shown()
	var binds []conf.Bind
	if !time.Now().Add(observeLeast).Before(l.sharingAt) && !l.applying && !l.accepted.uncertain {
		binds = l.accepted.text.Binds()
	}
	l.task(func(ctx context.Context) func() {
		ctx, cancel := context.WithTimeout(ctx, observeLimit)
		defer cancel()
		begin := time.Now()
		next := l.s.nudge(worker, master, stopped)
		if next.stopped == 0 {
			next = l.s.look(ctx, worker, prev, servers, binds)
		}
		if next.err != nil && next.stopped == 0 { // perhaps since then
			next.stopped = l.s.stoppedOf(worker, master)
		}
		took := time.Since(begin) - next.ports.took // which has a pace of its own
		return func() {
			l.observing = false
			next.made = made
			l.observeAt = l.pace.end(time.Now(), took, next.news)
			l.saw(next)
		}
	})
}

// lookNow arranges an observation at once, and some more soon: something was done that changes what is found.
func (l *loop) lookNow() {
	l.observeAt = time.Now()
	l.pace.stir(l.observeAt, actStirs)
	l.mendSoon() // what is to be found undisturbed is another thing
}

// hear reacts to lines in HAProxy's log. To one that gives no answer they change nothing: it is asked seldom, with a reason.
func (l *loop) hear() {
	if at := l.pace.hear(time.Now()); l.silences == 0 && l.halted == 0 && at.Before(l.observeAt) {
		l.observeAt = at
	}
}

func (s *Supervisor) look(ctx context.Context, worker int, prev observation, servers []model.Server, binds []conf.Bind) observation {
	o := observation{worker: worker, asked: servers}
	procs, err := s.o.Runtime.Processes(ctx)
	if err != nil {
		o.err = fmt.Errorf("the master does not answer: %w", err)
		return o
	}
	isOurs := func(p runtime.Process) bool { return p.PID == worker }
	if len(procs.Workers) > 0 && !slices.ContainsFunc(procs.Workers, isOurs) {
		o.moved = procs.Workers[0].PID
		return o
	}
	for _, p := range pidsOf(procs)[1:] {
		if p != worker {
			o.old++
		}
	}
	raw, rows, err := s.o.Runtime.ServersState(ctx, worker)
	if err != nil {
		o.err = fmt.Errorf("worker %d does not answer: %w", worker, err)
		return o
	}
	o.raw = raw
	o.health = map[model.ServerKey]model.Health{}
	joined := join(servers, rows)
	for i := range servers {
		if row, ok := joined[servers[i].Key()]; ok {
			o.health[servers[i].Key()] = healthOf(&servers[i], row)
		}
	}
	for key, h := range o.health {
		if was, ok := prev.health[key]; !ok || was != h {
			o.news = true
			o.why = s.explain(ctx, worker, joined)
			break
		}
	}
	if len(binds) > 0 { // last: where the kernel is slow to tell, HAProxy is not taken for silent
		o.ports = s.lookAtPorts(binds, pidsOf(procs))
	}
	return o
}

// explain asks for what the checks found, in HAProxy's words. Without an answer the state alone is told.
func (s *Supervisor) explain(ctx context.Context, worker int, joined map[model.ServerKey]runtime.ServerState) map[model.ServerKey]string {
	stats, err := s.o.Runtime.Stats(ctx, worker)
	if err != nil {
		s.o.Log.Debug("the reason of a change is not known", "error", err)
		return nil
	}
	type name struct{ backend, server string }
	by := make(map[name]runtime.Stat, len(stats))
	for _, st := range stats {
		by[name{st.Backend, st.Server}] = st
	}
	why := make(map[model.ServerKey]string, len(joined))
	for key, row := range joined {
		if st, ok := by[name{row.Backend, row.Server}]; ok {
			why[key] = checkWords(st)
		}
	}
	return why
}

// checkWords puts HAProxy's check status into words (management manual, section 9.1, fields check_status and last_chk).
func checkWords(st runtime.Stat) string {
	words := map[string]string{
		"INI":  "", // not checked by HAProxy yet: our own check is the last
		"L4OK": "accepts connections", "L4TOUT": "connecting took too long",
		"L4CON": "connection failed", "L6TOUT": "the TLS handshake took too long", "L6RSP": "the TLS handshake failed",
		"L7OK": "check passed", "L7TOUT": "the check took too long", "L7RSP": badBody,
		"L7STS": badStatus, "SOCKERR": "socket error",
	}
	parts := []string{}
	status := strings.TrimSpace(strings.TrimPrefix(st.CheckStatus, "* "))
	if w, ok := words[status]; ok {
		parts = append(parts, w)
	} else if status != "" {
		parts = append(parts, status)
	}
	if st.CheckCode > 0 {
		parts = append(parts, fmt.Sprintf("status %d", st.CheckCode))
	}
	if st.LastCheck != "" {
		parts = append(parts, st.LastCheck)
	}
	return strings.Join(parts, ", ")
}

// The words of checks that a node answers and does not pass.
const (
	badStatus = "the status does not pass"
	badBody   = "the body does not pass"
)

// mendOf names the flag to change where a node answers and does not pass.
func mendOf(why string) string {
	switch {
	case strings.HasPrefix(why, badStatus):
		return "the node's fault, or --hc-path names another path"
	case strings.HasPrefix(why, badBody):
		return "update the node, or lower --min-api-version; empty, it accepts any 2xx or 3xx"
	}
	return ""
}

func healthOf(srv *model.Server, row runtime.ServerState) model.Health {
	switch {
	case row.Maint:
		return model.Maintenance
	case row.Up && row.Weight == 0 && srv.Share() == 0:
		return model.Draining
	case row.Up:
		return model.Up
	}
	return model.Down
}

// join finds each server's row: by service and name, as our template writes them, else by its address, because the names in a
// user's template are the user's.
func join(servers []model.Server, rows []runtime.ServerState) map[model.ServerKey]runtime.ServerState {
	byName := make(map[model.ServerKey]runtime.ServerState, len(rows))
	for _, r := range rows {
		byName[model.ServerKey{Service: r.Backend, Name: r.Server}] = r
	}
	var byAddr map[netip.AddrPort]runtime.ServerState // made where a name is not found
	out := make(map[model.ServerKey]runtime.ServerState, len(servers))
	for _, s := range servers {
		if r, ok := byName[s.Key()]; ok {
			out[s.Key()] = r
			continue
		}
		if byAddr == nil {
			byAddr = firstAt(rows)
		}
		if r, ok := byAddr[s.Addr()]; ok {
			out[s.Key()] = r
		}
	}
	return out
}

// firstAt gives the first row of each address.
func firstAt(rows []runtime.ServerState) map[netip.AddrPort]runtime.ServerState {
	out := make(map[netip.AddrPort]runtime.ServerState, len(rows))
	for _, r := range rows {
		if _, ok := out[r.Addr]; !ok && r.Addr.IsValid() {
			out[r.Addr] = r
		}
	}
	return out
}

// shown lists the servers to look for in HAProxy: those of the text in force, or, where no State of ours made that, those that are
// wanted.
func (l *loop) shown() []model.Server {
	if l.accepted.renderer == nil {
		return l.visible().Servers
	}
	return l.accepted.state.Servers
}

// absence says why HAProxy has no server for what is shown.
func (l *loop) absence() string {
	if l.accepted.renderer == nil {
		return "it is not in the frozen configuration"
	}
	return "the template renders no server for it"
}

// saw takes over an observation.
func (l *loop) saw(o observation) {
	if l.stopping {
		return
	}
	if o.worker != l.haproxy.Worker || !l.running {
		l.lookNow()
		return // another worker serves now
	}
	if o.stopped != 0 {
		l.sawStopped(o)
		return
	}
	if l.applying && (o.err != nil || o.moved != 0) {
		return // a master that reloads is away for a moment, and its new worker is ours
	}
	log := l.s.o.Log
	if o.moved != 0 {
		cause := causeForeign
		if l.reopened {
			cause = causeRebuilt
			log.Info("haproxy has opened its sockets again", "worker", o.moved, "before", o.worker)
		} else {
			log.Warn("another worker serves: somebody else made HAProxy reload", "worker", o.moved, "before", o.worker)
		}
		l.reopened, l.foreignWhy = false, cause
		l.lookNow()
		l.haproxy.Worker, l.changed = o.moved, true
		l.foreign, l.foreignWhy = true, cause // what it has loaded may be anything: ours is loaded again
		l.dirty(time.Now(), cause)
		return
	}
	if o.err != nil && l.silences == 0 && l.garbled < garbledMost && !errors.Is(o.err, context.DeadlineExceeded) {
		l.garbled++ // it says something: a reply that is damaged or cut once is no silence
		l.observeAt = time.Now()
		return
	}
	if o.err != nil {
		if l.unanswered == "" {
			log.Warn("haproxy does not answer, traffic is left as it is", "error", o.err)
			l.changed = true
		}
		l.unanswered = model.Printable(o.err.Error())
		if l.silentSince.IsZero() {
			l.silentSince = time.Now()
		}
		// Questions that nobody answers stay in the master: ten of them block its socket, so they become rare.
		l.silences++
		l.observeAt = time.Now().Add(min(observeMost<<min(l.silences, 10), quietest))
		return
	}
	if o.ports.tried && !l.applying { // during a reload there may be a process that was not listed yet
		l.sawSharing(time.Now(), o.ports)
	}
	l.answers()
	if l.haproxy.OldWorkers != o.old {
		l.haproxy.OldWorkers, l.changed = o.old, true
	}
	if o.made != l.made { // it began before a change
		o.raw = l.observed.raw
	}
	l.observed = o
	for i := range o.asked {
		for _, m := range l.membersOf(&o.asked[i]) {
			l.note(o.asked[i].Key(), m, o)
		}
	}
}

// note logs and keeps one server's health where it is new.
func (l *loop) note(key model.ServerKey, m *member, o observation) {
	if !m.admitted {
		return
	}
	l.tellFlapping(m)
	h, ok := o.health[key]
	if !ok {
		h = model.Pending
	}
	if h == m.health {
		if why := o.why[key]; why != "" && why != m.lastCheck {
			m.lastCheck, l.changed = model.Printable(why), true
		}
		return
	}
	why := o.why[key]
	if h == model.Pending {
		why = l.absence()
	}
	if why == "" {
		why = m.lastCheck
	}
	mend := ""
	if h == model.Down {
		mend = mendOf(why)
	}
	m.set(h, why, mend)
	l.changed = true
	switch m.flaps.change(time.Now()) {
	case each:
		l.tellHealth(m)
	case begins:
		l.logOf(m).Warn("is flapping, further changes are told once a minute", "reason", m.lastCheck)
	}
}

// logOf names the node of a member, and which of its addresses it is where there may be several.
func (l *loop) logOf(m *member) *slog.Logger {
	log := l.s.o.Log.With("node", m.node(), "service", m.server.Service)
	if m.name != nil {
		log = log.With("address", m.addr)
	}
	return log
}

// tellHealth writes one line about a server's health.
func (l *loop) tellHealth(m *member) {
	log := l.logOf(m).With("reason", m.lastCheck)
	if m.mend != "" {
		log = log.With("mend", m.mend)
	}
	healthy, unhealthy := l.s.o.Words(m.server)
	switch m.health {
	case model.Up:
		log.Info(healthy)
	case model.Maintenance:
		log.Info("is in maintenance")
	case model.Draining:
		log.Info("is draining")
	default:
		log.Warn(unhealthy)
	}
}

// tellFlapping says of one that flaps how often it changed, or that it is calm again and how it is.
func (l *loop) tellFlapping(m *member) {
	switch v, changes := m.flaps.look(time.Now()); v {
	case goesOn:
		l.logOf(m).Warn("is flapping", "changes", changes, "now", m.health, "reason", m.lastCheck)
	case calmDown:
		l.logOf(m).Info("flaps no longer")
		l.tellHealth(m)
	}
}
