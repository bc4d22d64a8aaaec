package pools

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/store/storetest"
)

// services gives the service of each pool that is offered, and fails where two have the same one.
func (w *world) services() map[string]string {
	w.Helper()
	snapshot, _ := w.snapshot()
	out, used := map[string]string{}, map[string]string{}
	for _, o := range snapshot.Offers {
		service := o.Services[0].Name
		if other, twice := used[service]; twice {
			w.Errorf("%s and %s have the service %s", other, o.Owner.Name, service)
		}
		if o.Routes[0].Service != service {
			w.Errorf("%s: the route leads to %s, not to %s", o.Owner.Name, o.Routes[0].Service, service)
		}
		out[o.Owner.Name], used[service] = service, o.Owner.Name
	}
	return out
}

func (w *world) add(pattern string, c model.Check) {
	w.Helper()
	if err := w.AddPool(w.Context(), model.Pool{Pattern: pattern, Check: c}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) drop(pattern string) {
	w.Helper()
	if err := w.RemovePool(w.Context(), pattern); err != nil {
		w.Fatal(err)
	}
}

// offered counts the spares of each rule.
func (w *world) offered() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []int
	for _, o := range w.spares().Offers {
		out = append(out, len(o.Services))
	}
	return out
}

// TestSlots: which service a pool gets.
func TestSlots(t *testing.T) {
	w := newWorld(t, memory(), nil)
	other := healthz
	other.Interval = time.Second
	id, otherID := ruleID(healthz), ruleID(other)
	now := begin
	w.o.Now = func() time.Time { return now }
	wants := func(want map[string]string) {
		t.Helper()
		if got := w.services(); !maps.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	w.add("/a", healthz)
	w.add("/b", healthz)
	w.add("/c", other)
	wants(map[string]string{"/a": slotName(id, 0), "/b": slotName(id, 1), "/c": slotName(otherID, 0)})
	w.drop("/a")
	w.add("/d", healthz) // not the one that was just given back
	wants(map[string]string{"/b": slotName(id, 1), "/c": slotName(otherID, 0), "/d": slotName(id, 2)})
	now = now.Add(2 * remembered)
	w.drop("/c")
	w.add("/e", healthz)
	wants(map[string]string{"/b": slotName(id, 1), "/d": slotName(id, 2), "/e": slotName(id, 0)})

	with := at("10.0.0.1:80")
	with.BasePath = "/base" // its service is like no spare one
	if err := w.AddMember(t.Context(), "/e", with); err != nil {
		t.Fatal(err)
	}
	p, err := model.ParsePattern("/e")
	if err != nil {
		t.Fatal(err)
	}
	wants(map[string]string{"/b": slotName(id, 1), "/d": slotName(id, 2), "/e": serviceOf(p)})
	if row, err := w.Pool("/e"); err != nil || row.Service != serviceOf(p) {
		t.Errorf("%+v, %v", row, err)
	}
	if got := w.waited; !slices.Contains(got, slotName(otherID, 0)+" ") || !slices.Contains(got, serviceOf(p)+" 10.0.0.1:80") {
		t.Errorf("waited for %q", got)
	}
	if err := w.AddPool(t.Context(), model.Pool{Pattern: "/b", Check: healthz}); err == nil || len(w.reserved) != 0 {
		t.Errorf("%v, reserved %v", err, w.reserved)
	}
}

// TestRules: there are spares for some rules alone, the expected ones first; pools of others have services of their own.
func TestRules(t *testing.T) {
	w := newWorld(t, memory(), nil)
	w.o.Expected = []model.Check{healthz}
	w.recallSpares()
	for i := range rulesLimit + 3 {
		c := healthz
		c.Interval = time.Duration(i+20) * time.Second
		w.add(fmt.Sprintf("/%d", i), c)
	}
	own := 0
	for pattern, service := range w.services() {
		if p, err := model.ParsePattern(pattern); err != nil || service == serviceOf(p) {
			own++
		}
	}
	want := slices.Repeat([]int{firstSpares}, rulesLimit)
	if got := w.offered(); own != 4 || !slices.Equal(got, want) || w.rules[0].id != ruleID(healthz) {
		t.Errorf("%d have a service of their own, spares %v", own, got)
	}
}

// TestServiceNames: whatever stands in a record, its service is a slot of its own rule, or its own.
func TestServiceNames(t *testing.T) {
	id := ruleID(healthz)
	for service, keeps := range map[string]bool{
		slotName(id, 0): true, slotName(id, slotsLimit-1): true, slotName(id, slotsLimit): false, "pool:" + id + ":007": false, "pool:" + id + ":-1": false,
		"pool:" + id + ":+1": false, "pool:" + id: false, slotName("00000000", 1): false, "nodes": false, "": false,
	} {
		value, err := encode(record{Check: healthz, Service: service, Since: begin})
		if err != nil {
			t.Fatal(err)
		}
		if r, err := decode(value); err != nil || (r.Service == service) != keeps && service != "" {
			t.Errorf("%q becomes %q, %v", service, r.Service, err)
		}
	}
	base := record{Check: healthz, BasePath: "/b", Service: slotName(id, 0), Since: begin}
	value, err := encode(base)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := decode(value); err != nil || r.Service != "" {
		t.Errorf("with a base path: %q, %v", r.Service, err)
	}
}

// puts is a Sink that keeps what it was told, and when.
type puts struct {
	mu  sync.Mutex
	all []model.Snapshot
	at  []time.Time
}

func (p *puts) Put(s model.Snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all, p.at = append(p.all, s), append(p.at, time.Now())
}

func (*puts) Down(error) {}

// TestGrowth: spares become more before the last one is taken, a moment after the pool that made it necessary; never fewer, and the next
// process that goes on with our HAProxy begins with as many.
func TestGrowth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory()
		w, spares := newWorld(t, m, nil), &puts{}
		w.o.Now, w.o.Expected = time.Now, []model.Check{healthz}
		w.recallSpares()
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = m.Run(ctx) })
		running.Go(func() { _ = w.Source.Run(ctx, &heard{}) })
		running.Go(func() { _ = w.Spares().Run(ctx, spares) })
		expected := FirstSpares(model.Owner{Source: "flags", Name: "x"}, w.o.Expected, w.o.Timeouts)
		settle := func() {
			time.Sleep(time.Second)
			synctest.Wait()
		}
		settle()
		if len(spares.all) != 1 || !slices.Equal(w.offered(), []int{firstSpares}) {
			t.Fatalf("%d puts, %v", len(spares.all), w.offered())
		}
		if state, problems := model.Merge(append(spares.all[0].Offers, expected)); len(problems) > 0 || len(state.Services) != firstSpares {
			t.Errorf("%v, %d services", problems, len(state.Services))
		}
		for i := range 5 {
			w.add(fmt.Sprintf("/%d", i), healthz)
		}
		settle()
		if len(spares.all) != 1 {
			t.Fatalf("%d puts", len(spares.all))
		}
		began := time.Now()
		w.add("/5", healthz)
		settle()
		if len(spares.all) != 2 || spares.at[1].Sub(began) != growDelay || !slices.Equal(w.offered(), []int{16}) {
			t.Errorf("%d puts, at %v, %v", len(spares.all), spares.at, w.offered())
		}
		for i := range 200 { // faster than they grow: each pool has a slot all the same
			w.add(fmt.Sprintf("/more%d", i), healthz)
		}
		top := w.rules[0].top
		settle()
		if n := w.offered()[0]; top != 206 || n < top || len(spares.all) > 10 {
			t.Errorf("%d spares for %d slots, %d puts", n, top, len(spares.all))
		}
		for i := range 200 {
			w.drop(fmt.Sprintf("/more%d", i))
		}
		size, n := w.offered()[0], len(spares.all)
		settle()
		if w.offered()[0] != size || len(spares.all) != n {
			t.Errorf("%v spares after %d, %d puts", w.offered(), size, len(spares.all)-n)
		}
		kept := spares.all[n-1]
		cancel()
		running.Wait()

		next := newWorld(t, memory(), nil)
		next.o.EarlierSpares, next.o.Expected = &kept, []model.Check{healthz}
		next.recallSpares()
		if !slices.Equal(next.offered(), []int{size}) {
			t.Errorf("the next one has %v, want %d", next.offered(), size)
		}
		if state, problems := model.Merge(kept.Offers); len(problems) > 0 || len(state.Services) != size {
			t.Errorf("%v, %d services", problems, len(state.Services))
		}
	})
}

// TestSlotsUnknown: as long as nobody knows which slots are taken, none is.
func TestSlotsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := storetest.NewMemory()
		value, err := encode(record{Check: healthz, Service: slotName(ruleID(healthz), 0), Since: begin})
		if err != nil {
			t.Fatal(err)
		}
		db.Put("pools//first", value)
		db.Refuse(errors.New("connection refused"))
		m := store.New(store.Options{Name: "memory", Open: db.Open, Log: quiet})
		w := newWorld(t, m, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = m.Run(ctx) })
		running.Go(func() { _ = w.Source.Run(ctx, &heard{}) })
		if slot := w.reserve(ctx, healthz); slot != "" {
			t.Errorf("reserved %s", slot)
		}
		db.Refuse(nil)
		time.Sleep(10 * time.Second)
		w.add("/second", healthz)
		if got := w.services(); got["/first"] != slotName(ruleID(healthz), 0) || got["/second"] != slotName(ruleID(healthz), 1) {
			t.Errorf("%v", got)
		}
		cancel()
		running.Wait()
	})
}

// balancers are two that share a database, and that see each other's changes late.
type balancers struct {
	*testing.T
	db     *storetest.Memory
	worlds [2]*world
}

// TestTwoBalancers: two that add and remove pools at random through one database come to the same services, no two pools have the same one,
// none changes its service again once both agree, and nothing of that takes a record's pool away.
func TestTwoBalancers(t *testing.T) {
	collisions := 0
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) { collisions += interleave(t, rand.New(rand.NewPCG(seed, 7))) })
	}
	if collisions == 0 {
		t.Error("no two took the same service: nothing was tried")
	}
	t.Logf("%d pools had to give way", collisions)
}

func interleave(t *testing.T, random *rand.Rand) (collisions int) {
	b := balancers{T: t, db: storetest.NewMemory()}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for i := range b.worlds {
		m := store.New(store.Options{Name: "memory", Open: b.db.Open, Log: quiet})
		w := newWorld(t, m, nil)
		w.o.Now, w.o.Serves = time.Now, func(context.Context, model.Route, string) {}
		running.Go(func() { _ = m.Run(ctx) })
		running.Go(func() { _ = w.Source.Run(ctx, &heard{}) })
		running.Go(func() { _ = w.Spares().Run(ctx, &puts{}) })
		b.worlds[i] = w
	}
	defer running.Wait()
	defer cancel()
	defer func() {
		for _, service := range b.worlds[0].services() {
			if !strings.HasPrefix(service, "pool:"+ruleID(healthz)+":") {
				collisions++
			}
		}
	}()
	time.Sleep(10 * time.Second)
	there := map[string]bool{}
	for range 12 {
		var calls sync.WaitGroup
		for i := range 1 + random.IntN(8) {
			pattern := fmt.Sprintf("/%d", random.IntN(30))
			add := random.IntN(3) > 0
			w := b.worlds[(i+random.IntN(2))%2]
			if _, busy := there[pattern]; busy {
				continue // one call a pattern at a time: what comes out is known
			}
			there[pattern] = add
			calls.Go(func() {
				err := w.RemovePool(ctx, pattern)
				if add {
					err = w.AddPool(ctx, model.Pool{Pattern: pattern, Check: healthz})
				}
				var told model.Problem
				if err != nil && (!errors.As(err, &told) || told.Kind != model.Conflict) {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		b.agree(there)
		clear(there)
	}
	return collisions
}

// agree waits until both have seen all, and compares.
func (b *balancers) agree(there map[string]bool) {
	b.Helper()
	time.Sleep(10 * time.Second)
	synctest.Wait()
	first, second := b.worlds[0].services(), b.worlds[1].services()
	if !maps.Equal(first, second) {
		b.Fatalf("%v\nthe other has\n%v", first, second)
	}
	for pattern, added := range there {
		if _, is := first[pattern]; is != added {
			b.Errorf("%s is there: %v, want %v", pattern, is, added)
		}
	}
	for pattern, service := range first {
		p, err := model.ParsePattern(pattern)
		if err != nil || service != serviceOf(p) && !strings.HasPrefix(service, "pool:"+ruleID(healthz)+":") {
			b.Errorf("%s has the service %s", pattern, service)
		}
		b.worlds[0].mu.Lock()
		if n := len(b.worlds[0].lost); n > 0 {
			b.Errorf("%d pools have a slot in the store that is another's", n)
		}
		b.worlds[0].mu.Unlock()
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	if again := b.worlds[1].services(); !maps.Equal(again, first) {
		b.Errorf("%v\nbecomes\n%v", first, again)
	}
}
