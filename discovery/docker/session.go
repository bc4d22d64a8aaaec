package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/fnlb/fnlb/discovery"
)

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
	c.facts, c.trouble, c.agreed = f, "", line{}
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
	c.missed, c.agreed = time.Time{}, line{}
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
