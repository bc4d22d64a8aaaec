package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/fnlb/fnlb/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a Source whose Run a test writes.
type script struct {
	name string
	run  func(ctx context.Context, to Sink) error
}

func (s script) Name() string                           { return s.name }
func (s script) Run(ctx context.Context, to Sink) error { return s.run(ctx, to) }

// remote is a Source that a test speaks through.
type remote struct {
	name string
	to   chan Sink
}

func newRemote(name string) *remote { return &remote{name, make(chan Sink, 1)} }

func (r *remote) Name() string { return r.name }
func (r *remote) Run(ctx context.Context, to Sink) error {
	r.to <- to
	<-ctx.Done()
	return ctx.Err()
}

// rig runs a Collector in a synctest bubble and notes what it sends, and when.
type rig struct {
	*Collector
	start time.Time
	log   bytes.Buffer
	mu    sync.Mutex
	sent  []sent
	work  time.Duration // what taking a State costs
}

type sent struct {
	at    time.Duration
	state model.State
}

func run(t *testing.T, sources ...Source) *rig {
	t.Helper()
	r := &rig{start: time.Now()}
	r.Collector = New(Options{Sources: sources, Min: 10 * time.Millisecond, Max: 250 * time.Millisecond, Barrier: 5 * time.Second,
		Out: func(s model.State) {
			r.mu.Lock()
			r.sent = append(r.sent, sent{time.Since(r.start), s})
			work := r.work
			r.mu.Unlock()
			time.Sleep(work)
		},
		Log: slog.New(slog.NewTextHandler(&r.log, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	synctest.Wait()
	return r
}

// states gives what was sent since the last call, as "AT rREVISION SERVERS".
func (r *rig) states() []string {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, s := range r.sent {
		var names []string
		for _, srv := range s.state.Servers {
			names = append(names, srv.Name)
		}
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s r%d %s", s.at, s.state.Revision, strings.Join(names, " "))))
	}
	r.sent = nil
	return out
}

func (r *rig) want(t *testing.T, states ...string) {
	t.Helper()
	if got := r.states(); !slices.Equal(got, states) {
		t.Errorf("sent %q, want %q", got, states)
	}
}

func (r *rig) wantLog(t *testing.T, lines ...string) {
	t.Helper()
	synctest.Wait()
	got := strings.Split(strings.TrimSpace(r.log.String()), "\n")
	if r.log.Len() == 0 {
		got = nil
	}
	if len(got) != len(lines) {
		t.Errorf("logged %q, want %q", got, lines)
		return
	}
	for i := range lines {
		if !strings.Contains(got[i], lines[i]) {
			t.Errorf("line %d is %q, want %q", i, got[i], lines[i])
		}
	}
}

func pool(services ...string) model.Snapshot {
	s := model.Snapshot{Source: "flags"}
	for _, name := range services {
		o := model.Offer{Owner: model.Owner{Source: "flags", Name: name}}
		o.Services = []model.Service{{Name: name}}
		s.Offers = append(s.Offers, o)
	}
	return s
}

func servers(source string, names ...string) model.Snapshot {
	s := model.Snapshot{Source: source}
	for _, name := range names {
		o := model.Offer{Owner: model.Owner{Source: source, Name: name}}
		o.Servers = []model.Server{{Service: "pool", Name: name, IP: netip.MustParseAddr("192.0.2.1"), Port: 80}}
		s.Offers = append(s.Offers, o)
	}
	return s
}

func TestBarrierWaitsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newRemote("a"), newRemote("b")
		r := run(t, Static{pool("pool")}, a, b)
		toA, toB := <-a.to, <-b.to
		toA.Put(servers("a", "a1"))
		time.Sleep(time.Second)
		toA.Put(servers("a", "a1", "a2"))
		time.Sleep(time.Second)
		r.want(t)
		if s := r.Status(); s.Wanted != 0 || s.Sources[1].Name != "b" || s.Sources[1].Up || s.Sources[1].Reason == "" {
			t.Errorf("status before the first State: %+v", s)
		}
		toB.Put(servers("b", "b1"))
		r.want(t, "2s r1 a1 a2 b1")
		time.Sleep(10 * time.Second)
		r.want(t)
		r.wantLog(t)
	})
}

func TestBarrierPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := newRemote("late")
		dead := script{"dead", func(context.Context, Sink) error { return errors.New("no engine") }}
		r := run(t, Static{pool("pool")}, late, dead)
		to := <-late.to
		time.Sleep(5 * time.Second)
		r.want(t, "5s r1")
		r.wantLog(t, "source is down", "sources=\"[late dead]\"")
		time.Sleep(time.Second)
		to.Put(servers("late", "x"))
		time.Sleep(time.Second)
		r.want(t, "6.01s r2 x")
		r.wantLog(t, "source is down", "going on without them")
	})
}

func TestNoSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { run(t).want(t, "0s r1") })
}

func TestQuietPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newRemote("a")
		r := run(t, Static{pool("pool")}, a)
		to := <-a.to
		to.Put(servers("a"))
		r.want(t, "0s r1")

		to.Put(servers("a", "1"))
		time.Sleep(9 * time.Millisecond)
		r.want(t)
		to.Put(servers("a", "1", "2"))
		time.Sleep(time.Second)
		r.want(t, "19ms r2 1 2")

		time.Sleep(time.Second - 9*time.Millisecond)
		names := []string{"1", "2"}
		for i := range 100 { // never 10 ms of quiet in 693 ms
			names = append(names, fmt.Sprintf("n%02d", i))
			to.Put(servers("a", names...))
			time.Sleep(7 * time.Millisecond)
		}
		time.Sleep(time.Second)
		var at []string
		for _, s := range r.states() {
			at = append(at, strings.Fields(s)[0])
		}
		// 250 ms after the first Put; 250 ms after the first that this State lacks, at 2.252 s; 10 ms after the last.
		if !slices.Equal(at, []string{"2.25s", "2.502s", "2.703s"}) {
			t.Errorf("sent at %v", at)
		}
	})
}

func TestEqualStatesAreSentOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newRemote("a")
		r := run(t, Static{pool("pool")}, a)
		to := <-a.to
		to.Put(servers("a", "1"))
		r.want(t, "0s r1 1")
		to.Put(servers("a", "1"))
		time.Sleep(time.Second)
		r.want(t)
		to.Put(servers("a", "1", "2"))
		time.Sleep(5 * time.Millisecond)
		changed := r.Changed()
		to.Put(servers("a", "1")) // there and gone again, before anybody saw it
		time.Sleep(time.Second)
		r.want(t)

		bad := servers("a", "1")
		bad.Problems = []model.Problem{{Owner: model.Owner{Source: "a", Name: "z"}, Reason: "bad label"}}
		to.Put(bad)
		time.Sleep(time.Second)
		r.want(t)
		select {
		case <-changed:
		default:
			t.Error("a new problem is no change")
		}
		if p := r.Status().Problems; len(p) != 1 || p[0].Reason != "bad label" {
			t.Errorf("problems %v", p)
		}
	})
}

func TestRemovalLeavesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flags, a, b := newRemote("flags"), newRemote("a"), newRemote("b")
		r := run(t, flags, a, b)
		toFlags, toA, toB := <-flags.to, <-a.to, <-b.to
		toFlags.Put(pool("pool"))
		toB.Put(servers("b", "shared"))
		toA.Put(servers("a", "1", "2", "shared"))
		r.want(t, "0s r1 1 2 shared")

		toA.Put(servers("a", "1", "2", "3", "shared"))
		time.Sleep(3 * time.Millisecond)
		toA.Put(servers("a", "1", "3", "shared")) // what waited goes with it
		r.want(t, "3ms r2 1 3 shared")
		time.Sleep(time.Second)
		r.want(t)

		toA.Put(servers("a", "1", "3", "4")) // another source has it still
		time.Sleep(time.Second)
		if got := r.states(); len(got) != 1 || !strings.HasSuffix(got[0], "r3 1 3 4 shared") {
			t.Errorf("sent %q", got)
		}
		at := time.Since(r.start)
		toFlags.Put(pool("other")) // all servers of the service go with it
		r.want(t, fmt.Sprintf("%s r4", at))
		if p := r.Status().Problems; len(p) != 4 || !slices.IsSortedFunc(p, func(x, y model.Problem) int {
			return strings.Compare(x.Owner.String(), y.Owner.String())
		}) {
			t.Errorf("problems %v", p)
		}
	})
}

// A storm of removals is merged no more often than it can be: half of the time at most.
func TestRemovalsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newRemote("a")
		r := run(t, Static{pool("pool")}, a)
		to := <-a.to
		var names []string
		for i := range 1000 {
			names = append(names, fmt.Sprintf("n%04d", i))
		}
		to.Put(servers("a", names...))
		r.states()
		r.mu.Lock()
		r.work = 50 * time.Millisecond
		r.mu.Unlock()
		start := time.Now()
		var asked []model.Asked
		for len(names) > 0 {
			asked = append(asked, model.Asked{Owner: model.Owner{Source: "a", Name: names[0]}})
			names = names[1:]
			less := servers("a", names...)
			less.Asked = asked
			to.Put(less)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		n := int(time.Since(start) / (100 * time.Millisecond))
		if got := len(r.states()); got < 5 || got > n {
			t.Errorf("%d States in %s, want at most %d", got, time.Since(start), n)
		}
		if s := r.Status().State; len(s.Servers) != 0 {
			t.Errorf("%d servers are left", len(s.Servers))
		}
	})
}

func TestSourcesAreRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var starts []time.Duration
		flaky := script{"flaky", func(ctx context.Context, to Sink) error {
			starts = append(starts, time.Since(start))
			switch len(starts) {
			case 1:
				to.Put(servers("flaky", "1"))
				return errors.New("connection lost")
			case 10:
				to.Put(servers("flaky", "1", "2"))
				time.Sleep(time.Minute) // steady: the next start is soon again
				return nil
			case 12:
				<-ctx.Done()
				return ctx.Err()
			}
			return fmt.Errorf("try %d", len(starts))
		}}
		r := run(t, Static{pool("pool")}, flaky)
		r.want(t, "0s r1 1")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s := r.Status(); s.Sources[1].Up || !strings.HasPrefix(s.Sources[1].Reason, "try ") || len(s.State.Servers) != 1 {
			t.Errorf("status while it is down: %+v", s)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if got, want := fmt.Sprint(starts), "[0s 100ms 300ms 700ms 1.5s 3.1s 6.3s 11.3s 16.3s 21.3s 1m21.4s 1m21.6s]"; got != want {
			t.Errorf("started at %s, want %s", got, want)
		}
		r.wantLog(t, "level=WARN msg=\"source is down; its last truth stays\" source=flaky error=\"connection lost\"",
			"level=INFO msg=\"source is up again\" source=flaky", "error=\"it ended without saying why\"")
	})
}

func TestDownKeepsTheLastTruth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newRemote("a")
		r := run(t, a, Static{pool("pool")})
		to := <-a.to
		to.Put(servers("a", "1"))
		r.want(t, "0s r1 1")
		var readers sync.WaitGroup
		for range 3 { // several readers see each change
			changed := r.Changed()
			readers.Go(func() { <-changed })
		}
		to.Down(errors.New("engine is away"))
		readers.Wait()
		time.Sleep(time.Hour)
		to.Down(errors.New("engine is away, still"))
		r.want(t)
		if s := r.Status().Sources; len(s) != 2 || s[0] != (model.SourceStatus{Name: "a", Reason: "engine is away, still"}) ||
			s[1] != (model.SourceStatus{Name: "flags", Up: true}) {
			t.Errorf("sources %+v", s)
		}
		to.Down(nil)
		if s := r.Status().Sources; !s[0].Up || s[0].Reason != "" {
			t.Errorf("sources %+v", s)
		}
		r.wantLog(t, "source is down", "source is up again")
		changed := servers("a", "1", "2") // what it put while it was away serves, and it is down all the same
		changed.Away = "the store is away"
		to.Put(changed)
		time.Sleep(time.Second)
		r.want(t, "1h0m0.01s r2 1 2")
		if s := r.Status().Sources; s[0].Up || s[0].Reason != "the store is away" {
			t.Errorf("sources %+v", s)
		}
		to.Put(servers("a", "1", "2"))
		if s := r.Status().Sources; !s[0].Up {
			t.Errorf("sources %+v", s)
		}
		r.wantLog(t, "source is down", "source is up again", "the store is away", "source is up again")
	})
}

func TestStaticSaysItOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := &counter{}
		ended := make(chan error)
		go func() { ended <- Static{pool("pool")}.Run(ctx, r) }()
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) || r.puts != 1 {
			t.Errorf("Run: %v after %d Puts", err, r.puts)
		}
	})
}

type counter struct{ puts int }

func (c *counter) Put(model.Snapshot) { c.puts++ }
func (c *counter) Down(error)         {}

// A storm of Puts of 10,000 offers, for real: Put stays cheap, and the newest wins.
func TestStorm(t *testing.T) {
	const n = 10_000
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("node-%05d:80", i)
	}
	whole := servers("a", names...)
	less := whole
	less.Offers = whole.Offers[:n-1]
	var mu sync.Mutex
	states := 0
	last := make(chan struct{})
	final := servers("a", append(slices.Clone(names), "final:80")...) // not a listing that is suddenly short, which would be doubted for 10 s
	a := newRemote("a")
	c := New(Options{Sources: []Source{Static{pool("pool")}, a}, Min: 10 * time.Millisecond, Max: 250 * time.Millisecond,
		Barrier: 5 * time.Second, Log: slog.New(slog.DiscardHandler), Out: func(s model.State) {
			mu.Lock()
			defer mu.Unlock()
			states++
			if len(s.Servers) == n+1 {
				close(last)
			}
		}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- c.Run(ctx) }()
	to := <-a.to
	start := time.Now()
	puts := 0
	for ; time.Since(start) < 500*time.Millisecond; puts++ {
		to.Put([]model.Snapshot{whole, less}[puts%2])
	}
	took := time.Since(start)
	to.Put(final)
	<-last
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run ended with %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	t.Logf("%d Puts took %s; %d States in %s", puts, took, states, time.Since(start))
	if states < 2 || states > puts/10+2 {
		t.Errorf("%d States for %d Puts", states, puts)
	}
}

func BenchmarkMerge10000(b *testing.B) {
	names := make([]string, 10_000)
	for i := range names {
		names[i] = fmt.Sprintf("node-%05d:80", i)
	}
	c := New(Options{Sources: []Source{Static{pool("pool")}, newRemote("a")}, Out: func(model.State) {}, Log: slog.New(slog.DiscardHandler)})
	sink{c, 0}.Put(pool("pool"))
	sink{c, 1}.Put(servers("a", names...))
	b.Run("merge", func(b *testing.B) {
		for b.Loop() {
			c.merge()
		}
	})
	b.Run("removal", func(b *testing.B) {
		for b.Loop() {
			c.slots[1].fresh = true
			c.removal()
		}
	})
}
