package chaos

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/e2e"
	"github.com/fnlb/fnlb/test/load"
)

func TestMain(m *testing.M) { os.Exit(e2e.Main(m)) }

// TestChaos lets every fault happen once, in an order that the seed gives, and then goes on at random until the time is over.
func TestChaos(t *testing.T) {
	seed, long := settings(t)
	var all report
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		w := newWorld(t, h, seed)
		open, err := files(w.b.Cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		end := time.Now().Add(long / 3)
		of := chosen(t)
		order := w.r.Perm(len(of))
		for i := 0; i < len(order) || time.Now().Before(end); i++ {
			f := of[w.r.IntN(len(of))]
			if i < len(order) {
				f = of[order[i]]
			}
			all.add(h.Version, f, w.provoke(f))
			if t.Failed() {
				t.Fatalf("seed %d, step %d: %s", seed, i, f.name)
			}
		}
		w.b.Eventually(func() string {
			now, err := files(w.b.Cmd.Process.Pid)
			if err != nil || now > open+8 {
				return fmt.Sprintf("%d files are open, at the start it were %d: %v", now, open, err)
			}
			return ""
		})
	})
	t.Logf("seed %d\n%s", seed, all.table())
	if path := os.Getenv("FNLB_CHAOS_REPORT"); path != "" && !t.Failed() {
		if err := os.WriteFile(path, []byte(all.page(seed, long)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func settings(t *testing.T) (seed uint64, long time.Duration) {
	t.Helper()
	seed = uint64(time.Now().UnixNano() % 1e6)
	var err error
	if s := os.Getenv("FNLB_CHAOS_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	if s := os.Getenv("FNLB_CHAOS_TIME"); s != "" {
		if long, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	return seed, long
}

// chosen are the faults whose names FNLB_CHAOS_ONLY matches, a regular expression.
func chosen(t *testing.T) (of []*fault) {
	t.Helper()
	only, err := regexp.Compile(os.Getenv("FNLB_CHAOS_ONLY"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range faults {
		if only.MatchString(faults[i].name) {
			of = append(of, &faults[i])
		}
	}
	if len(of) == 0 {
		t.Fatalf("no fault is called %s", only)
	}
	return of
}

// provoke lets a fault happen under load and waits until all is well again.
func (w *world) provoke(f *fault) step {
	w.t.Helper()
	if f.kills {
		w.calm()
	}
	ctx, stop := context.WithCancel(w.t.Context())
	defer stop()
	groups := []load.Group{
		{Name: "fresh", Workers: 4, Think: 5 * time.Millisecond},
		{Name: "keep-alive", KeepAlive: true, Workers: 4, Think: 3 * time.Millisecond},
		{Name: "thinking", KeepAlive: true, Workers: 8, Think: 300 * time.Millisecond},
	}
	if !f.gets {
		groups = append(groups, load.Group{Name: "post", KeepAlive: true, Workers: 2, Think: 5 * time.Millisecond, Method: "POST", Body: "x"})
	}
	var result load.Result
	var failure error
	var wg sync.WaitGroup
	ready := make(chan struct{})
	wg.Go(func() {
		result, failure = load.Run(ctx, load.Options{
			Address: w.b.Traffic, Paths: paths(50), Timeout: e2e.Patience, Groups: groups, Ready: func() { close(ready) },
		})
	})
	<-ready // each worker has its answer or its failure within Timeout
	var s step
	began := time.Now()
	w.mark = len(w.b.Log())
	f.cause(w)
	if f.kills {
		w.served()
	}
	over := time.Now()
	w.settle()
	s.converged, s.took = time.Since(over), time.Since(began)
	stop()
	wg.Wait()
	if failure != nil {
		w.t.Fatal(failure)
	}
	s.requests, s.failed = result.Requests, result.Failed
	for _, failure := range result.Failures {
		s.outage = max(s.outage, failure.At.Add(failure.Took).Sub(began))
	}
	if s.failed > 0 && !f.kills {
		w.t.Errorf("%s: %s", f.name, result)
	}
	return s
}

func paths(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("/r/app/f%d", i))
	}
	return out
}
