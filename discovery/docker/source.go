package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/model"
)

const (
	firstPause = 50 * time.Millisecond // before an engine that went is tried again, doubled from then on
	maxPause   = time.Second
	inspectors = 8                     // inspections at a time
	survival   = time.Minute           // a container that was told to stop and runs on for so long takes requests again
	remembered = time.Minute           // how long a stop is told, because Snapshots supersede each other
	minPut     = 5 * time.Millisecond  // what changes within this time is one Snapshot, but that something leaves is said at once
	putShare   = 10                    // making Snapshots takes at most this part of the time
	leastSync  = 50 * time.Millisecond // between two lists
)

// Options are what a Source needs. All are required but Host and Earlier.
type Options struct {
	Host         string      // engine, as in DOCKER_HOST; empty: what the environment says
	Check        model.Check // times of the health checks
	Resync       time.Duration
	Publish      func(port uint16) bool // which ports of the balancer labels may ask for
	Certificates Certificates
	// TrustedProxies are those of the ports that labels publish.
	TrustedProxies []netip.Prefix
	Earlier        *model.Snapshot // what an earlier process had, for an engine that is away when we go on with its HAProxy
	Now            func() time.Time
	Log            *slog.Logger
}

// Source follows one engine.
type Source struct {
	o       Options
	connect func(ctx context.Context, host string) (api, error)
	self    func() string

	// Of Run's goroutine alone, and kept over the sessions:
	containers map[string]*tracked // those with labels of ours, the balancer, and those whose network somebody shares; by id
	networks   map[string]networkKind
	at         standpoint
	ports      map[model.Bind]*kept
	gone       map[string]goneBy // containers that were stopped lately, by name
	last       int64             // when the newest event was, by the engine's clock
	put        model.Snapshot
	putOnce    bool
	skipped    map[string]string // what was last told of a container that was left out, by name
}

// api is what is asked of an engine.
type api interface {
	list(ctx context.Context) (map[string]line, error)
	inspect(ctx context.Context, id string) (facts, error)
	networks(ctx context.Context) (map[string]networkKind, error)
	follow(ctx context.Context, since string) (<-chan events.Message, <-chan error)
	close() error
}

// tracked is a container that is followed.
type tracked struct {
	facts

	seq     uint64 // counts its events: an answer that was asked for before one is asked for again
	leaving string // how it was told to stop; empty: it was not
	left    time.Time
	missed  time.Time // when a list said other than we knew, and no event has since; zero: it agrees
	trouble string    // why the engine does not tell what it is, though it lists it; what was known before still holds
}

// goneBy is why a container is not there any more.
type goneBy struct {
	at time.Time
	by string
}

var _ discovery.Source = (*Source)(nil)

// New makes a Source; it asks nothing yet.
func New(o Options) *Source {
	o.Resync = max(o.Resync, leastSync)
	s := &Source{
		o: o, self: ownID, containers: map[string]*tracked{}, ports: map[model.Bind]*kept{}, gone: map[string]goneBy{}, skipped: map[string]string{},
		connect: func(ctx context.Context, host string) (api, error) { return connect(ctx, host) },
	}
	s.recallPorts()
	return s
}

// Name is "docker".
func (s *Source) Name() string { return name }

// Run follows the engine until ctx ends, and starts again whenever it goes away.
func (s *Source) Run(ctx context.Context, to discovery.Sink) error {
	pause := firstPause
	for {
		began := s.o.Now()
		err := s.session(ctx, to)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errMissed) {
			s.o.Log.Warn("the engine's events did not tell of a change, they are asked for anew", "source", name)
			pause = firstPause
		} else {
			if !s.putOnce && s.o.Earlier != nil {
				s.put, s.putOnce = *s.o.Earlier, true
				to.Put(s.put)
			}
			to.Down(explained(err))
		}
		if s.o.Now().Sub(began) > maxPause {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// errMissed ends a session whose stream of events is silent although something happens.
var errMissed = errors.New("events were missed")

// explained says what to do where the engine's socket may not be opened.
func explained(err error) error {
	if strings.Contains(err.Error(), "permission denied") {
		return fmt.Errorf("%w; give the balancer the group of the socket (docker run --group-add), or start it as root", err)
	}
	return err
}

// session is one connection to the engine: subscribe, then list, then follow, so that nothing falls between.
type session struct {
	*Source
	to      discovery.Sink
	e       api
	ctx     context.Context
	results chan func() error // what the tasks found, for the owner
	tasks   sync.WaitGroup

	dirty     map[string]bool  // to be inspected
	asking    map[string]bool  // being inspected
	failed    map[string]error // that could not be; the next list tells whether the engine or the container is at fault
	listing   bool
	listed    bool // the first list is there
	whole     bool // and all that it made necessary
	changed   bool // since the last Snapshot
	urgent    bool // something leaves
	lastPut   time.Time
	putCost   time.Duration
	listAgain time.Time
}

func (s *Source) session(ctx context.Context, to discovery.Sink) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	e, err := s.connect(ctx, s.o.Host)
	if err != nil {
		cancel()
		return err
	}
	n := &session{Source: s, to: to, e: e, ctx: ctx, results: make(chan func() error), dirty: map[string]bool{}, asking: map[string]bool{}, failed: map[string]error{}}
	defer func() {
		cancel()
		n.tasks.Wait()
		err = errors.Join(err, e.close())
	}()
	messages, failed := e.follow(ctx, s.since())
	select {
	case err := <-failed:
		return streamEnded(err)
	default:
	}
	if err := n.stand(); err != nil {
		return err
	}
	n.list()
	return n.loop(messages, failed)
}

// since is where the next stream goes on, just behind the last event; empty: there was none before.
func (s *Source) since() string {
	if s.last == 0 {
		return ""
	}
	next := s.last + 1
	return fmt.Sprintf("%d.%09d", next/1e9, next%1e9)
}

func streamEnded(err error) error {
	return fmt.Errorf("events of the engine: %w", cmp.Or(err, errors.New("they ended")))
}

// stand finds out where the balancer is, and what networks there are.
func (n *session) stand() error {
	var err error
	if n.networks, err = n.e.networks(n.ctx); err != nil && !refused(err) {
		return fmt.Errorf("networks of the engine: %w", err)
	}
	n.at = standpoint{host: true}
	id := n.self()
	if id == "" {
		return nil
	}
	f, err := n.e.inspect(n.ctx, id)
	if errors.Is(err, errGone) { // a container of another engine
		return nil
	}
	if err != nil {
		return fmt.Errorf("the balancer's own container: %w", err)
	}
	n.containers[id] = &tracked{facts: f}
	n.at = standpoint{id: id, host: f.hostNetwork, attached: f.networks}
	return nil
}

func (n *session) loop(messages <-chan events.Message, failed <-chan error) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		n.ask()
		timer.Reset(n.wait())
		select {
		case <-n.ctx.Done():
			return n.ctx.Err()
		case m := <-messages:
			n.hear(&m)
		case err := <-failed:
			return streamEnded(err)
		case do := <-n.results:
			if err := do(); err != nil {
				return err
			}
		case <-timer.C:
		}
		if now := time.Now(); !n.listing && !now.Before(n.listAgain) {
			if err := n.doubted(now); err != nil {
				return err
			}
			n.list()
		}
		n.tell()
	}
}

// wait is how long nothing has to be done by itself.
func (n *session) wait() time.Duration {
	wait := time.Until(n.listAgain)
	if n.listing {
		wait = callTimeout
	}
	if n.changed && n.ready() {
		wait = min(wait, time.Until(n.lastPut)+n.putPause())
	}
	return max(wait, 0)
}

func (n *session) putPause() time.Duration {
	if n.urgent {
		return 2 * n.putCost
	}
	return max(minPut, putShare*n.putCost)
}

// ready reports whether what is known is the whole: the first list is there, and all that it made necessary.
func (n *session) ready() bool {
	n.whole = n.whole || n.listed && len(n.dirty)+len(n.asking)+len(n.failed) == 0
	return n.whole
}

// tell puts a Snapshot when something has changed and it is time.
func (n *session) tell() {
	if !n.changed || !n.ready() || time.Since(n.lastPut) < n.putPause() {
		return
	}
	n.changed, n.urgent = false, false
	start := time.Now()
	next := n.snapshot()
	if n.putOnce && reflect.DeepEqual(n.put, next) {
		n.to.Down(nil)
	} else {
		n.say(next)
		n.put, n.putOnce = next, true
		n.to.Put(next)
	}
	n.lastPut = time.Now()
	n.putCost = n.lastPut.Sub(start)
}

// task runs do beside the loop; what it returns the loop runs, unless the session has ended.
func (n *session) task(do func() func() error) {
	n.tasks.Go(func() {
		then := do()
		select {
		case n.results <- then:
		case <-n.ctx.Done():
		}
	})
}

// ask starts the inspections that are due.
func (n *session) ask() {
	for id := range n.dirty {
		if len(n.asking) >= inspectors {
			return
		}
		if n.asking[id] {
			continue
		}
		delete(n.dirty, id)
		n.asking[id] = true
		var seq uint64
		if c := n.containers[id]; c != nil {
			seq = c.seq
		}
		n.task(func() func() error {
			f, err := n.e.inspect(n.ctx, id)
			return func() error { return n.inspected(id, seq, f, err) }
		})
	}
}

func (n *session) inspected(id string, seq uint64, f facts, err error) error {
	delete(n.asking, id)
	delete(n.failed, id)
	n.changed = true
	c := n.containers[id]
	switch {
	case errors.Is(err, errGone):
		n.forget(id)
		return nil
	case err != nil:
		// One container that the engine cannot tell of must not cost the others their place.
		n.failed[id] = err
		n.listAgain = time.Now()
		return nil //nolint:nilerr // it is kept, and told with the next list
	case c == nil:
		c = &tracked{}
		n.containers[id] = c
	case c.seq != seq: // something happened meanwhile: the answer may be from before it
		n.dirty[id] = true
		return nil
	}
	if c.started != "" && f.started != c.started || f.state != "running" {
		c.leaving = ""
	}
	if reflect.DeepEqual(c.facts, f) { // the list has another way to say it
		c.missed = time.Time{}
	}
	c.facts, c.trouble = f, ""
	if id == n.at.id {
		n.at = standpoint{id: id, host: f.hostNetwork, attached: f.networks}
	}
	if f.shares != "" && n.containers[f.shares] == nil {
		n.dirty[f.shares] = true
	}
	for _, e := range f.networks {
		if _, known := n.networks[e.id]; !known && n.networks != nil && asks(f.labels) {
			n.askNetworks()
			break
		}
	}
	return nil
}

// askNetworks reads the list of networks again: there is one that nobody has seen.
func (n *session) askNetworks() {
	n.task(func() func() error {
		list, err := n.e.networks(n.ctx)
		return func() error {
			if err == nil {
				n.networks, n.changed = list, true
			}
			return err
		}
	})
}

// forget drops a container that is not there any more.
func (n *session) forget(id string) {
	if _, ok := n.containers[id]; ok && id != n.at.id {
		delete(n.containers, id)
		n.changed, n.urgent = true, true
	}
}

// hear takes in one event. What takes a container out is acted on at once, without a question to the engine.
func (n *session) hear(m *events.Message) {
	n.last = max(n.last, m.TimeNano)
	id := m.Actor.ID
	if m.Type == events.NetworkEventType {
		id = m.Actor.Attributes["container"]
	}
	c := n.containers[id]
	if c == nil {
		// A container's event carries its labels: those that are none of ours cost nothing more.
		if m.Type != events.ContainerEventType || !asks(m.Actor.Attributes) || m.Action == events.ActionDestroy {
			return
		}
		// It is followed from its first event on: that it is told to stop may come before the answer.
		c = &tracked{facts: facts{id: id, name: plain(m.Actor.Attributes["name"])}}
		n.containers[id] = c
		n.dirty[id] = true
	}
	c.seq++
	c.missed = time.Time{}
	n.changed = true
	leaves := func(how string) {
		n.urgent = true
		n.gone[c.name] = goneBy{n.o.Now(), how}
	}
	switch m.Action {
	case events.ActionKill:
		signal := plain(m.Actor.Attributes["signal"]) // a label of that name comes in its place
		if !stops(signal, c.stopSignal) {
			return
		}
		c.leaving, c.left = "signal "+signal, n.o.Now()
		leaves("stopped by " + c.leaving)
	case events.ActionDie:
		c.state = "exited"
		leaves("ended with exit code " + plain(m.Actor.Attributes["exitCode"]))
	case events.ActionDestroy:
		leaves("removed")
		n.forget(id)
	case events.ActionPause:
		c.state = "paused"
		leaves("paused")
	case events.ActionDisconnect:
		gone := func(e endpoint) bool { return e.id == m.Actor.ID }
		c.networks = slices.DeleteFunc(slices.Clone(c.networks), gone)
		leaves("disconnected from a network")
		n.dirty[id] = true
	default:
		if health, ok := strings.CutPrefix(string(m.Action), "health_status: "); ok {
			c.health = health
			if health == "unhealthy" {
				leaves("its HEALTHCHECK fails")
			}
			return
		}
		if m.Action == events.ActionStart {
			c.leaving = ""
		}
		n.dirty[id] = true
	}
}

// list asks for all containers, beside the loop.
func (n *session) list() {
	n.listing = true
	seqs := make(map[string]uint64, len(n.containers))
	for id, c := range n.containers {
		seqs[id] = c.seq
	}
	failed := maps.Clone(n.failed)
	n.task(func() func() error {
		lines, err := n.e.list(n.ctx)
		return func() error {
			if err != nil {
				return fmt.Errorf("containers of the engine: %w", err)
			}
			n.listing, n.listAgain = false, time.Now().Add(n.o.Resync)
			n.blame(failed, lines)
			n.compare(lines, seqs)
			return nil
		}
	})
}

// blame finds the engine well, so that what could not be inspected before it listed its containers is their fault. They are asked for
// again with each list.
func (n *session) blame(failed map[string]error, lines map[string]line) {
	for _, id := range sortedKeys(failed) {
		delete(n.failed, id)
		l, there := lines[id]
		if !there {
			continue
		}
		c := n.containers[id]
		if c == nil {
			c = &tracked{facts: facts{id: id, name: l.name}}
			n.containers[id] = c
		}
		if c.trouble == "" {
			n.o.Log.Warn("the engine does not tell what a container is", "container", c.name, "err", failed[id])
		}
		c.trouble = fmt.Sprintf("the engine does not tell what it is (%v)", failed[id])
	}
	if len(n.failed) > 0 {
		n.listAgain = time.Now()
	}
	for id, c := range n.containers {
		if _, now := failed[id]; c.trouble != "" && !now && !n.asking[id] {
			n.dirty[id] = true
		}
	}
}

// compare holds a list against what is known. What has had an event since it was asked for is newer than the list.
func (n *session) compare(lines map[string]line, seqs map[string]uint64) {
	now, read := n.o.Now(), time.Now()
	for id, l := range lines {
		c := n.containers[id]
		if c == nil {
			if l.ours {
				n.dirty[id] = true
			}
			continue
		}
		if c.seq == seqs[id] && c.trouble == "" && c.differs(l) && !n.asking[id] && !n.dirty[id] {
			n.dirty[id] = true
			n.suspect(c, read)
		}
	}
	for id, c := range n.containers {
		if seq, known := seqs[id]; known && c.seq == seq {
			if _, there := lines[id]; !there {
				n.forget(id)
			}
		}
		if c.leaving != "" && c.state == "running" && now.Sub(c.left) > survival {
			n.o.Log.Warn("a container was told to stop and runs on, it takes requests again", "container", c.name, "told", c.leaving)
			c.leaving = ""
			n.changed = true
		}
	}
	for owner, g := range n.gone {
		if now.Sub(g.at) > remembered {
			delete(n.gone, owner)
			n.changed = true
		}
	}
	n.changed = n.changed || !n.listed || len(n.ports) > 0 // ports end with time
	n.listed = true
}

// differs reports whether the engine's list says other than we know.
func (c *tracked) differs(l line) bool {
	if c.name != l.name || c.state != l.state {
		return true
	}
	return l.state == "running" && (c.health != l.health || addrs(c.networks) != l.addrs)
}

// suspect notes that the list told something first that an event should have told.
func (n *session) suspect(c *tracked, now time.Time) {
	if n.listed && c.missed.IsZero() {
		c.missed = now
	}
}

// doubted ends the session when an event is still missing at the next list.
func (n *session) doubted(now time.Time) error {
	missed := false
	for _, c := range n.containers {
		if !c.missed.IsZero() && now.Sub(c.missed) >= n.o.Resync/2 {
			missed, c.missed = true, time.Time{}
		}
	}
	if missed {
		return errMissed
	}
	return nil
}

// snapshot says the whole of what is known.
func (s *Source) snapshot() model.Snapshot {
	out := model.Snapshot{Source: name}
	var take []*candidate
	var found []*model.Found
	for _, id := range sortedKeys(s.containers) {
		c, f := s.judge(s.containers[id])
		if f != nil {
			found = append(found, f)
		}
		if c == nil {
			if f != nil && f.Verdict == model.LeftOut {
				out.Problems = append(out.Problems, model.Problem{Kind: model.Invalid, Owner: f.Owner, Reason: f.Reason, Mend: f.Mend})
			}
			continue
		}
		if c.stale != nil {
			p := *c.stale
			p.Owner = f.Owner
			out.Problems = append(out.Problems, p)
		}
		take = append(take, c)
	}
	out.Offers = s.offers(take)
	for _, f := range found {
		out.Found = append(out.Found, *f)
	}
	offered := map[string]bool{}
	for i := range out.Offers {
		offered[out.Offers[i].Owner.Name] = true
	}
	for _, owner := range sortedKeys(s.gone) {
		if !offered[owner] {
			out.Asked = append(out.Asked, model.Asked{Owner: model.Owner{Source: name, Name: owner}, By: s.gone[owner].by})
		}
	}
	slices.SortStableFunc(out.Found, func(a, b model.Found) int { return strings.Compare(a.Owner.Name, b.Owner.Name) })
	slices.SortStableFunc(out.Problems, func(a, b model.Problem) int { return strings.Compare(a.Owner.Name, b.Owner.Name) })
	return out
}
