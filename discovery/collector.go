package discovery

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fnlb/fnlb/model"
)

// Times between the end of a source's Run and its next start. A Run that lasted longer than steady starts afresh.
const (
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
	steady     = 10 * time.Second
)

// Options are what a Collector needs. All of them are required; without sources the one State is empty.
type Options struct {
	Sources []Source
	// Min is the quiet that a change waits for, Max the longest that it waits in all.
	Min, Max time.Duration
	// Barrier is how long the first State waits for sources that have not said anything yet.
	Barrier time.Duration
	// Out takes each State; it must not block. It is called from one goroutine, in the order of revisions.
	Out func(model.State)
	Log *slog.Logger
}

// Collector merges the newest Snapshots of its sources.
type Collector struct {
	o    Options
	wake chan struct{} // a Put has happened; one place is enough, the slots hold what was put

	mu       sync.Mutex
	slots    []slot
	since    time.Time // when the first Put came that no merge has seen; zero: every merge saw all
	last     time.Time // when the newest of them came
	sent     model.State
	problems []model.Problem
	found    []model.Found
	changed  chan struct{}

	// Of Run's goroutine alone:
	rest time.Time // no work before: as long as the last work took, so that a storm costs at most half a core
}

// slot is what the Collector holds of one source.
type slot struct {
	source   Source
	heard    bool           // a first Snapshot has come
	newest   model.Snapshot // the last Put
	merged   model.Snapshot // the one that the last merge saw
	fresh    bool           // newest was not looked at for removals yet
	puts     int            // how many have come
	unmerged bool           // newest was not merged yet
	merges   bool           // something was
	doubt    *doubt         // newest lists much less than merged, and is not believed yet
	up       bool
	reason   string // why it is not up
	told     bool   // that it is down stands in the log
}

// New makes a Collector; nothing runs before Run.
func New(o Options) *Collector {
	c := &Collector{o: o, wake: make(chan struct{}, 1), slots: make([]slot, len(o.Sources)), changed: make(chan struct{})}
	for i, s := range o.Sources {
		c.slots[i] = slot{source: s, reason: "it has not said anything yet"}
	}
	return c
}

// Run runs the sources and sends States until ctx ends; it returns why it ended, after all sources have.
func (c *Collector) Run(ctx context.Context) error {
	var sources sync.WaitGroup
	defer sources.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i := range c.slots {
		sources.Go(func() { c.keep(ctx, i) })
	}
	if err := c.await(ctx); err != nil {
		return err
	}
	c.merge()
	for {
		var timer <-chan time.Time
		if wait, pending := c.step(); pending {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.wake:
		case <-timer:
		}
	}
}

// await is the start-up barrier.
func (c *Collector) await(ctx context.Context) error {
	barrier := time.NewTimer(c.o.Barrier)
	defer barrier.Stop()
	for {
		silent := c.silent()
		if len(silent) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.wake:
		case <-barrier.C:
			c.o.Log.Warn("sources have not answered; going on without them", "sources", silent, "waited", c.o.Barrier)
			return nil
		}
	}
}

// silent names the sources that have not sent a first Snapshot.
func (c *Collector) silent() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for i := range c.slots {
		if !c.slots[i].heard {
			names = append(names, c.slots[i].source.Name())
		}
	}
	return names
}

// step merges when it is time to. It reports whether something waits for a later merge, and for how long.
func (c *Collector) step() (time.Duration, bool) {
	for {
		now := time.Now()
		c.mu.Lock()
		since, last, doubt := c.since, c.last, c.doubtEnds()
		c.mu.Unlock()
		if since.IsZero() && doubt.IsZero() {
			return 0, false
		}
		if wait := c.rest.Sub(now); wait > 0 {
			return wait, true
		}
		if !doubt.IsZero() && !now.Before(doubt) {
			c.merge()
			continue
		}
		if since.IsZero() {
			return doubt.Sub(now), true
		}
		due := last.Add(c.o.Min)
		if limit := since.Add(c.o.Max); limit.Before(due) {
			due = limit
		}
		if wait := due.Sub(now); wait > 0 && !c.removal() {
			if !doubt.IsZero() {
				wait = min(wait, doubt.Sub(now))
			}
			return wait, true
		}
		c.merge()
	}
}

// removal reports whether a source has stopped offering a server, or a service (whose servers of other sources would go with
// it), since the last merge, or whether one is to take no more requests. It is much cheaper than a merge, and looks at each Snapshot once.
func (c *Collector) removal() bool {
	start := time.Now()
	defer c.pause(start)
	type pair struct{ merged, newest []model.Offer }
	var fresh []pair
	c.mu.Lock()
	for i := range c.slots {
		if s := &c.slots[i]; s.fresh {
			s.fresh = false
			fresh = append(fresh, pair{s.merged.Offers, s.newest.Offers})
		}
	}
	c.mu.Unlock()
	for _, p := range fresh {
		if lacks(p.merged, p.newest) {
			return true
		}
	}
	return false
}

func lacks(before, after []model.Offer) bool {
	type now struct {
		admin    model.Admin
		instance string
	}
	servers := make(map[model.ServerKey]now, len(after))
	services := map[string]bool{}
	for i := range after {
		for j := range after[i].Servers {
			srv := &after[i].Servers[j]
			servers[srv.Key()] = now{srv.Admin, srv.Instance}
		}
		for j := range after[i].Services {
			services[after[i].Services[j].Name] = true
		}
	}
	for i := range before {
		for j := range before[i].Servers {
			srv := &before[i].Servers[j]
			if now, there := servers[srv.Key()]; !there || now.instance != srv.Instance || now.admin != model.Ready && srv.Admin == model.Ready {
				return true
			}
		}
		for j := range before[i].Services {
			if !services[before[i].Services[j].Name] {
				return true
			}
		}
	}
	return false
}

func (c *Collector) pause(start time.Time) {
	now := time.Now()
	c.rest = now.Add(now.Sub(start))
}

// merge makes a State of the newest Snapshots and sends it, when it differs from the last.
func (c *Collector) merge() {
	start := time.Now()
	defer c.pause(start)
	got := c.collect()
	for _, d := range got.tell {
		d(c.o.Log)
	}
	state, refused := model.Merge(got.offers)
	state.Asked = got.asked
	problems := slices.Concat(got.problems, refused)
	slices.SortStableFunc(problems, func(a, b model.Problem) int {
		return cmp.Or(strings.Compare(a.Owner.Source, b.Owner.Source), strings.Compare(a.Owner.Name, b.Owner.Name),
			cmp.Compare(a.Kind, b.Kind), strings.Compare(a.Reason, b.Reason))
	})
	c.mu.Lock()
	differs := c.sent.Revision == 0 || !state.Equal(c.sent)
	if differs {
		state.Revision = c.sent.Revision + 1
		c.sent = state
	}
	if differs || len(got.tell) > 0 || !slices.Equal(problems, c.problems) || !reflect.DeepEqual(got.found, c.found) {
		c.problems, c.found = problems, got.found
		c.signal()
	}
	c.mu.Unlock()
	if differs {
		c.o.Log.Debug("state sent", "revision", state.Revision, "servers", len(state.Servers), "problems", len(problems))
		c.o.Out(state)
	}
}

// collected is what all sources say together.
type collected struct {
	offers   []model.Offer
	problems []model.Problem
	asked    []model.Asked
	found    []model.Found
	tell     []func(*slog.Logger) // of doubts
}

// collect takes what was put and is believed; whatever comes later is for the next merge.
func (c *Collector) collect() collected {
	var out collected
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since, c.last = time.Time{}, time.Time{}
	n := 0
	for i := range c.slots {
		s := &c.slots[i]
		var say func(*slog.Logger)
		s.merged, say = s.believe(now)
		s.fresh, s.unmerged = false, false
		if say != nil {
			out.tell = append(out.tell, say)
		}
		n += len(s.merged.Offers)
	}
	out.offers = make([]model.Offer, 0, n)
	for i := range c.slots {
		s := &c.slots[i]
		out.offers = append(out.offers, s.merged.Offers...)
		out.problems = append(out.problems, s.merged.Problems...)
		out.asked = append(out.asked, s.merged.Asked...)
		out.found = append(out.found, s.merged.Found...)
		if s.doubt != nil {
			out.problems = append(out.problems, s.doubt.problems(s.source.Name())...)
		}
	}
	return out
}

// keep runs one source for as long as ctx lasts.
func (c *Collector) keep(ctx context.Context, i int) {
	to := sink{c, i}
	pause := firstPause
	for {
		start := time.Now()
		err := c.slots[i].source.Run(ctx, to)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("it ended without saying why")
		}
		to.Down(err)
		if time.Since(start) > steady {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}
