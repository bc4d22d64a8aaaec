package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/e2e"
)

func TestMain(m *testing.M) { os.Exit(e2e.Main(m)) }

// short is for how long a run goes on that was not told for how long, when it has had each fault once.
const short = 20 * time.Second

// TestChaos lets each fault happen on one version of HAProxy, in an order that the seed gives, and goes on with the next seeds until the
// time is over. A seed deals the faults out, and as many seeds in a row as there are versions let each happen on every one.
func TestChaos(t *testing.T) {
	o := settings(t)
	all := report{first: o.seed, long: o.long}
	began := time.Now()
	t.Cleanup(func() { // when all versions are through
		t.Logf("seeds from %d on\n%s", o.seed, all.table())
		if path := os.Getenv("FNLB_CHAOS_REPORT"); path != "" && !t.Failed() {
			if err := os.WriteFile(path, []byte(all.page()), 0o644); err != nil {
				t.Error(err)
			}
		}
	})
	versions := 0
	var turn sync.Mutex // where figures are measured, no version is to spoil those of another one
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		mine := versions
		versions++
		t.Parallel() // returns when all versions have been counted
		end := began.Add(short)
		if o.long > 0 {
			turn.Lock()
			defer turn.Unlock()
			end = time.Now().Add(o.long / time.Duration(versions))
		}
		for seed := o.seed; !t.Failed() && (seed == o.seed || time.Now().Before(end)); seed++ {
			of := o.of
			if !o.chosen {
				of = share(o.of, seed, mine, versions)
			}
			enough := func() bool { return seed != o.seed && time.Now().After(end) }
			t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { round(t, h, seed, mine, of, enough, &all) })
		}
	})
}

// share is what one version gets of the faults.
func share(of []*fault, seed uint64, mine, versions int) (out []*fault) {
	deal := rand.New(rand.NewPCG(seed/uint64(versions), 0)).Perm(len(of))
	for i, at := range deal {
		if (uint64(i)+seed)%uint64(versions) == uint64(mine) {
			out = append(out, of[at])
		}
	}
	return out
}

// round lets faults happen to one balancer, in any order.
func round(t *testing.T, h haproxytest.HAProxy, seed uint64, version int, of []*fault, enough func() bool, all *report) {
	w := newWorld(t, h, rand.New(rand.NewPCG(seed, uint64(version))))
	open, err := files(w.b.Cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	left := slices.Clone(of)
	w.r.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
	for len(left) > 0 && !enough() {
		next := 0
		if st := w.b.Status(); !calm(st) { // rather than wait
			next = max(0, slices.IndexFunc(left, func(f *fault) bool { return !f.kills }))
		}
		f := left[next]
		left = slices.Delete(left, next, next+1)
		began := time.Now()
		cost := w.happen(f)
		t.Logf("%s: %s in %s", f.name, cost, time.Since(began).Round(time.Millisecond))
		if t.Failed() {
			t.Fatalf("seed %d: %s", seed, f.name)
		}
		all.add(h.Version, seed, f, cost)
	}
	w.b.Eventually(func() string {
		now, err := files(w.b.Cmd.Process.Pid)
		if err != nil || now > open+8 {
			return fmt.Sprintf("%d files are open, at the start it were %d: %v", now, open, err)
		}
		return ""
	})
	w.stop()
}

// options of a run.
type options struct {
	seed   uint64
	long   time.Duration
	of     []*fault
	chosen bool // by name, so that each version gets them all
}

func settings(t *testing.T) options {
	t.Helper()
	o := options{seed: uint64(time.Now().UnixNano()%1e6) / 6 * 6} // a multiple of the number of versions
	var err error
	if s := os.Getenv("FNLB_CHAOS_SEED"); s != "" {
		if o.seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	if s := os.Getenv("FNLB_CHAOS_TIME"); s != "" {
		if o.long, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	pattern := os.Getenv("FNLB_CHAOS_ONLY")
	only, err := regexp.Compile(pattern)
	if err != nil {
		t.Fatal(err)
	}
	o.chosen = pattern != ""
	for i := range faults {
		if only.MatchString(faults[i].name) {
			o.of = append(o.of, &faults[i])
		}
	}
	if len(o.of) == 0 {
		t.Fatalf("no fault is called %s", only)
	}
	return o
}

// TestShare: each seed has each fault once, and seeds in a row have it on every version.
func TestShare(t *testing.T) {
	var of []*fault
	for i := range faults {
		of = append(of, &faults[i])
	}
	for _, versions := range []int{1, 2, 3} {
		on := map[*fault]map[int]bool{}
		for seed := range uint64(versions) {
			times := map[*fault]int{}
			for mine := range versions {
				for _, f := range share(of, uint64(6*versions)+seed, mine, versions) {
					times[f]++
					if on[f] == nil {
						on[f] = map[int]bool{}
					}
					on[f][mine] = true
				}
			}
			for _, f := range of {
				if times[f] != 1 {
					t.Errorf("%d versions: %s happens %d times", versions, f.name, times[f])
				}
			}
		}
		for _, f := range of {
			if len(on[f]) != versions {
				t.Errorf("%s happens on %d of %d versions", f.name, len(on[f]), versions)
			}
		}
	}
}
