package docker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/fnlb/fnlb/model"
)

// world is an engine as a test wants it.
type world struct {
	mu         sync.Mutex
	containers map[string]facts
	broken     map[string]error // by id: what an inspection says
	away       bool             // connections are refused
	stalled    chan struct{}    // calls do not end before it is closed; nil: they do
	cost       time.Duration    // of an inspection
	wording    string           // the health that lists give, whatever inspections say; empty: the same
	messages   chan events.Message
	failed     chan error
	clock      int64 // of events

	connects []time.Time
	since    []string
	asked    map[string]int // inspections by id
	closed   int
}

func newWorld() *world {
	return &world{containers: map[string]facts{}, broken: map[string]error{}, asked: map[string]int{}, clock: 1e18}
}

func (w *world) locked(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do()
}

// wait is what every call does first: it stalls, with the limit that the real one has.
func (w *world) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var stalled chan struct{}
	w.locked(func() { stalled = w.stalled })
	if stalled == nil {
		return nil
	}
	select {
	case <-stalled:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *world) connect(ctx context.Context, _ string) (api, error) {
	away := false
	w.locked(func() { w.connects, away = append(w.connects, time.Now()), w.away })
	if away {
		return nil, errors.New("dial unix /var/run/docker.sock: connect: connection refused")
	}
	return w, w.wait(ctx)
}

func (w *world) list(ctx context.Context) (map[string]line, error) {
	if err := w.wait(ctx); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := map[string]line{}
	for id, f := range w.containers {
		lines[id] = line{name: f.name, state: f.state, health: cmp.Or(w.wording, f.health), addrs: addrs(f.networks), ours: asks(f.labels)}
	}
	return lines, nil
}

func (w *world) inspect(ctx context.Context, id string) (facts, error) {
	w.mu.Lock()
	w.asked[id]++
	f, there := w.containers[id]
	err, cost := w.broken[id], w.cost
	w.mu.Unlock()
	if cost > 0 {
		select {
		case <-time.After(cost):
		case <-ctx.Done():
			return facts{}, ctx.Err()
		}
	}
	switch stall := w.wait(ctx); {
	case stall != nil:
		return facts{}, stall
	case err != nil:
		return facts{}, err
	case !there:
		return facts{}, errGone
	}
	return f, nil
}

func (w *world) networks(ctx context.Context) (map[string]networkKind, error) {
	return kinds, w.wait(ctx)
}

func (w *world) follow(ctx context.Context, since string) (<-chan events.Message, <-chan error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since = append(w.since, since)
	w.messages, w.failed = make(chan events.Message, 10000), make(chan error, 1)
	return w.messages, w.failed
}

func (w *world) close() error {
	w.locked(func() { w.closed++ })
	return nil
}

// goes breaks the stream, as an engine does that ends.
func (w *world) goes() {
	w.locked(func() { w.away = true; w.failed <- errors.New("EOF") })
}

func (w *world) comes() { w.locked(func() { w.away = false }) }

// event tells of a container; more are attributes.
func (w *world) event(action events.Action, id string, more ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock++
	f := w.containers[id]
	attrs := maps.Clone(f.labels)
	if attrs == nil {
		attrs = map[string]string{}
	}
	attrs["name"] = f.name
	m := events.Message{Type: events.ContainerEventType, Action: action, TimeNano: w.clock, Actor: events.Actor{ID: id, Attributes: attrs}}
	for i := 0; i+1 < len(more); i += 2 {
		attrs[more[i]] = more[i+1]
	}
	if action == events.ActionConnect || action == events.ActionDisconnect {
		m.Type, m.Actor = events.NetworkEventType, events.Actor{ID: attrs["network"], Attributes: map[string]string{"container": id}}
	}
	w.messages <- m
}

// change changes a container without a word.
func (w *world) change(id string, do func(f *facts)) {
	w.locked(func() {
		f := w.containers[id]
		f.networks = slices.Clone(f.networks)
		do(&f)
		w.containers[id] = f
	})
}

// add puts containers into the world without a word; they publish port 80.
func (w *world) add(list ...*tracked) {
	w.locked(func() {
		for _, c := range list {
			w.containers[c.id] = c.facts
		}
	})
}

func (w *world) inspections() (n int) {
	w.locked(func() {
		for _, k := range w.asked {
			n += k
		}
	})
	return n
}

// rig runs a Source in a bubble.
type rig struct {
	*world
	t     *testing.T
	s     *Source
	start time.Time

	mu    sync.Mutex
	puts  []model.Snapshot
	at    []time.Duration
	downs []error
	log   bytes.Buffer
}

func (r *rig) Put(s model.Snapshot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.puts, r.at = append(r.puts, s), append(r.at, time.Since(r.start))
}

func (r *rig) Down(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.downs = append(r.downs, err)
}

// run calls do beside a Source that follows the world which prepare made. The bubble fails the test when a goroutine is left.
func run(t *testing.T, prepare func(w *world, o *Options), do func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, world: newWorld(), start: time.Now()}
		o := quiet(slog.New(slog.NewTextHandler(&r.log, nil))).o
		prepare(r.world, &o)
		r.s = New(o)
		r.s.connect, r.s.self = r.world.connect, func() string { return "" }
		ctx, cancel := context.WithCancel(t.Context())
		var ran sync.WaitGroup
		ran.Go(func() {
			if err := r.s.Run(ctx, r); !errors.Is(err, context.Canceled) {
				t.Errorf("Run ended: %v", err)
			}
		})
		synctest.Wait()
		do(r)
		cancel()
		ran.Wait()
	})
}

// last gives the newest Snapshot and how many there were.
func (r *rig) last() (s model.Snapshot, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n = len(r.puts); n > 0 {
		s = r.puts[n-1]
	}
	return s, n
}

// serving lists the servers of the Snapshot as NAME@ADDRESS, with what else was asked for.
func serving(s model.Snapshot) string {
	var out []string
	for i := range s.Offers {
		for _, srv := range s.Offers[i].Servers {
			text := srv.Name + "@" + srv.Addr().String()
			if srv.Admin != model.Ready {
				text += "/" + srv.Admin.String()
			}
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// want fails unless the newest Snapshot has exactly these servers.
func (r *rig) want(when, servers string) {
	r.t.Helper()
	synctest.Wait()
	s, _ := r.last()
	if got := serving(s); got != servers {
		r.t.Errorf("%s: %q serve, want %q", when, got, servers)
	}
}

// pass lets time go by.
func (r *rig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) lastDown() (err error, n int) { //nolint:revive,staticcheck // the error is the value here
	r.mu.Lock()
	defer r.mu.Unlock()
	if n = len(r.downs); n > 0 {
		err = r.downs[n-1]
	}
	return err, n
}

// id of a container differs from others in its short form too.
func id(i int) string { return fmt.Sprintf("%012x%052x", i, i) }

// published is a container behind port 80.
func published(i int, more ...string) *tracked {
	labels := pairs("lb.enable", "Y", "lb.publish", "80")
	maps.Copy(labels, pairs(more...))
	return web(i, labels)
}
