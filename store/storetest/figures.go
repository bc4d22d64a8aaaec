package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/store"
)

// measured is how much: few of it proves that the measurement works.
func measured() (span time.Duration, changes, records int) {
	if Full() {
		return 3 * time.Second, 200, 10_000
	}
	return 100 * time.Millisecond, 3, 1000
}

// Figures measures a database that makes changes durable. They are logged; nothing fails on them.
func Figures(t *testing.T, url string, open Opener) {
	f := Fixture{Open: bind(t, open, url)}
	a, _ := mirror(t, f)
	_, v := mirror(t, f)
	for _, callers := range []int{1, 16, 64} {
		throughput(t, a, callers)
	}
	latency(t, a, v)
	db := filled(t, f)
	begin := time.Now()
	_, fresh := mirror(t, f)
	t.Logf("a balancer starts with %d records: read after %v", len(fresh.Records()), time.Since(begin).Round(time.Millisecond))
	c := load(t, db)
	var one time.Duration
	const rounds = 50
	for i := range rounds {
		good(t, apply(t, db, Put("n/one", fmt.Sprint(i))))
		begin = time.Now()
		c = load(t, db)
		one += time.Since(begin)
	}
	t.Logf("reading one change among %d records: %v", len(c.Records), one/rounds)
	begin = time.Now()
	whole, err := f.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	opened := time.Since(begin)
	load(t, whole)
	t.Logf("open: %v, read all of it: %v", opened, time.Since(begin)-opened)
}

func throughput(t *testing.T, m *store.Mirror, callers int) {
	span, _, _ := measured()
	var all sync.WaitGroup
	var mu sync.Mutex
	var took []time.Duration
	begin := time.Now()
	for i := range callers {
		all.Go(func() {
			for j := 0; time.Since(begin) < span; j++ {
				asked := time.Now()
				if err := m.Update(context.Background(), fmt.Sprintf("n/t%d-%d", i, j%100), Put("", fmt.Sprintf(`{"weight":%d}`, j)).Change); err != nil {
					t.Errorf("update: %v", err)
					return
				}
				mu.Lock()
				took = append(took, time.Since(asked))
				mu.Unlock()
			}
		})
	}
	all.Wait()
	slices.Sort(took)
	t.Logf("%d callers: %.0f durable changes a second, p50 %v, p99 %v", callers, float64(len(took))/time.Since(begin).Seconds(), took[len(took)/2], took[len(took)*99/100])
}

// latency is from the call at one balancer to the record at the other.
func latency(t *testing.T, from *store.Mirror, to *store.View) {
	var took []time.Duration
	_, changes, _ := measured()
	for i := range changes {
		value := fmt.Sprint(i)
		begin := time.Now()
		Update(t, from, "n/seen", value)
		stored := time.Now()
		Until(t, to, "the change", func() bool { return has(to, "n/seen", value) })
		if all := time.Since(begin); all > time.Second {
			t.Logf("change %d: stored after %v, seen after %v", i, stored.Sub(begin), all)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("from one balancer to the other: p50 %v, p99 %v", took[len(took)/2], took[len(took)*99/100])
}

func filled(t *testing.T, f Fixture) store.DB {
	db := open(t, f)
	_, _, records := measured()
	for i := 0; i < records; i += 1000 {
		var edits []store.Edit
		for j := i; j < i+1000; j++ {
			edits = append(edits, Put(fmt.Sprintf("n/10.0.%d.%d:8080", j/250, j%250), `{"weight":100,"state":"ready","since":"2026-11-30T12:00:00Z"}`))
		}
		good(t, apply(t, db, edits...))
	}
	return db
}
