package lb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// running gives a balancer that runs until the test ends.
func running(t testing.TB, nodes []string, opts ...Option) *Balancer {
	t.Helper()
	b, err := New(nodes, opts...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		b.rt.CloseIdleConnections()
	})
	return b
}

func TestNewRefuses(t *testing.T) {
	for name, row := range map[string]struct {
		nodes []string
		opt   Option
	}{
		"node":              {nodes: []string{"a:80", "::"}},
		"transport":         {opt: WithTransport(nil)},
		"logger":            {opt: WithLogger(nil)},
		"observer":          {opt: WithObserver(nil)},
		"factor":            {opt: WithBalanceFactor(100)},
		"large factor":      {opt: WithBalanceFactor(65536)},
		"negative factor":   {opt: WithBalanceFactor(-1)},
		"relative path":     {opt: WithHealthCheck(HealthCheck{Path: "healthz"})},
		"path with host":    {opt: WithHealthCheck(HealthCheck{Path: "//host/healthz"})},
		"bad path":          {opt: WithHealthCheck(HealthCheck{Path: "/%zz"})},
		"negative interval": {opt: WithHealthCheck(HealthCheck{Interval: -1})},
	} {
		opts := []Option{WithLogger(slog.New(slog.DiscardHandler))}
		if row.opt != nil {
			opts = append(opts, row.opt)
		}
		if _, err := New(row.nodes, opts...); err == nil || !strings.HasPrefix(err.Error(), "lb: ") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// TestUpdate: nodes come and go while requests run; none is lost, and each path is where a new balancer has it.
func TestUpdate(t *testing.T) {
	release := make(chan struct{})
	waiting := make(chan struct{}, 1)
	slow := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		waiting <- struct{}{}
		<-release
		fmt.Fprint(w, "slow")
	})
	a, b := named(t, "a"), named(t, "b")
	lb := running(t, []string{slow.addr})
	f := front(t, lb)
	result := make(chan string)
	go func() {
		resp, err := f.Client().Get(f.URL)
		if err != nil {
			result <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		result <- fmt.Sprint(string(body), err)
	}()
	<-waiting
	if err := lb.Update([]string{a.addr, b.addr}); err != nil {
		t.Fatal(err)
	}
	close(release)
	if got := <-result; got != "slow<nil>" {
		t.Errorf("the request at the node that left: %s", got)
	}
	if err := lb.Update([]string{a.addr, "bad node"}); err == nil {
		t.Error("a bad node was taken")
	}
	fresh := running(t, []string{b.addr, a.addr, a.addr})
	for i := range 20 {
		path := fmt.Sprintf("/%d", i)
		_, got := ask(t, f, request(t, "GET", f.URL+path, ""))
		if lb.Node(path) != fresh.Node(path) || got[:1] == "a" != (lb.Node(path) == "http://"+a.addr) {
			t.Errorf("%s: %s answered, %s has it", path, got, lb.Node(path))
		}
	}
	if err := lb.Update(nil); err != nil {
		t.Fatal(err)
	}
	if resp, _ := ask(t, f, request(t, "GET", f.URL, "")); resp.StatusCode != http.StatusBadGateway || lb.Node("/") != "" || len(lb.Nodes()) != 0 {
		t.Errorf("without nodes: status %d", resp.StatusCode)
	}
}

// TestUpdateWhileAway: what is known of a node stays with it; a fallback that leaves is replaced; a node that leaves is watched no more.
func TestUpdateWhileAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		b, err := New([]string{"a:80", "b:80"}, WithTransport(w))
		if err != nil {
			t.Fatal(err)
		}
		b.rt.question = w.ask
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { b.Run(ctx) }) //nolint:errcheck // nil
		defer run.Wait()
		defer cancel()
		w.set(w.down, "a", true)
		if got := by(t, b.rt, "a"); got != "b" {
			t.Fatal(got)
		}
		if want := (Status{Node: "http://a:80", Fallback: "http://b:80"}); b.Nodes()[0] != want || !b.Nodes()[1].Up {
			t.Errorf("%+v", b.Nodes())
		}
		update := func(nodes ...string) {
			t.Helper()
			if err := b.Update(nodes); err != nil {
				t.Fatal(err)
			}
		}
		update("a:80", "b:80", "c:80")
		if got := by(t, b.rt, "a"); got != "b" || w.count(w.sent, "a") != 1 {
			t.Errorf("%s, after %d tries at a", got, w.count(w.sent, "a"))
		}
		update("a:80", "c:80")
		if got := by(t, b.rt, "a"); got != "c" || b.rt.out.Load() != 1 {
			t.Error(got)
		}
		update("c:80")
		time.Sleep(time.Second)
		questions := w.count(w.questions, "a")
		time.Sleep(time.Hour)
		if got := w.count(w.questions, "a"); got != questions || b.rt.out.Load() != 0 {
			t.Errorf("%d more questions, %d out", got-questions, b.rt.out.Load())
		}
	})
}

// TestHealthCheck: two failures take a node out, two successes bring it back; who is out stands in for nobody; when all are, requests go on.
func TestHealthCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, e := newWorld(), newEvents()
		sick := &world{down: map[string]bool{}, silent: w.silent, questions: map[string]int{}}
		b, err := New([]string{"a:80", "b:80", "c:80"}, WithTransport(w), WithObserver(e),
			WithHealthCheck(HealthCheck{Check: sick.ask, Interval: 2 * time.Second, Unhealthy: 2, Healthy: 2}))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { b.Run(ctx) }) //nolint:errcheck // nil
		defer run.Wait()
		defer cancel()
		up := func(want ...bool) {
			t.Helper()
			synctest.Wait()
			var got []bool
			for _, n := range b.Nodes() {
				got = append(got, n.Up)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("up: %v, not %v", got, want)
			}
		}
		time.Sleep(time.Second) // between two checks
		up(true, true, true)
		sick.set(sick.down, "a", true)
		sick.set(sick.down, "b", true)
		time.Sleep(2 * time.Second)
		up(true, true, true)
		time.Sleep(2 * time.Second)
		up(false, false, true)
		for _, n := range []string{"a", "b", "c"} {
			if got := by(t, b.rt, n); got != "c" {
				t.Errorf("%s answered for %s", got, n)
			}
		}
		sick.set(sick.down, "a", false)
		time.Sleep(2 * time.Second)
		up(false, false, true)
		time.Sleep(2 * time.Second)
		up(true, false, true)
		sick.set(sick.down, "a", true)
		sick.set(sick.down, "c", true)
		time.Sleep(time.Minute)
		if got := by(t, b.rt, "a"); got == ErrNoFallbackNodeFound.Error() {
			t.Error(got)
		}
		if ch := e.change(t); ch.Up || ch.Err == nil || !strings.Contains(ch.Err.Error(), "health check: ") || ch.Fallback != "http://c:80" {
			t.Errorf("%+v", ch)
		}
	})
}

// TestHealthCheckPath asks real nodes, below their base path.
func TestHealthCheckPath(t *testing.T) {
	var healthy atomic.Bool
	healthy.Store(true)
	handler := func(name string, healthy func() bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path != "/base/healthz":
				fmt.Fprint(w, name)
			case r.URL.RawQuery != "deep=1":
				w.WriteHeader(http.StatusNotFound)
			case !healthy():
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}
	}
	a := serve(t, handler("a", healthy.Load))
	b := serve(t, handler("b", func() bool { return true }))
	e := newEvents()
	lb := running(t, []string{"http://" + a.addr + "/base", "http://" + b.addr + "/base"}, WithObserver(e),
		WithHealthCheck(HealthCheck{Path: "/healthz?deep=1", Interval: 20 * time.Millisecond, Timeout: patience}))
	f := front(t, lb)
	path := "/"
	for i := 0; !strings.Contains(lb.Node(path), a.addr); i++ {
		path = fmt.Sprintf("/%d", i)
	}
	healthy.Store(false)
	if ch := e.change(t); ch.Up || !strings.Contains(ch.Node, a.addr) || !strings.Contains(ch.Err.Error(), "status 503") {
		t.Fatalf("%+v", ch)
	}
	if _, got := ask(t, f, request(t, "GET", f.URL+path, "")); got != "b" {
		t.Error(got)
	}
	healthy.Store(true)
	if ch := e.change(t); !ch.Up {
		t.Fatalf("%+v", ch)
	}
	if _, got := ask(t, f, request(t, "GET", f.URL+path, "")); got != "a" {
		t.Error(got)
	}
}

// TestBalanceFactor: a hot path spreads as far as the factor says, over nodes in the path's own order, and comes back.
func TestBalanceFactor(t *testing.T) {
	const nodes, factor = 5, 150
	hold := make(chan struct{})
	var arrived sync.WaitGroup
	held := roundTrip(func(req *http.Request) (*http.Response, error) {
		arrived.Done()
		<-hold
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
	})
	b := running(t, numbered(nodes), WithBalanceFactor(factor), WithTransport(held))
	var all sync.WaitGroup
	request := func() {
		arrived.Add(1)
		all.Go(func() { b.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/hot", http.NoBody)) })
		arrived.Wait()
	}
	request()
	for _, n := range b.Nodes() {
		if (n.Load == 1) != (n.Node == b.Node("/hot")) {
			t.Errorf("the first request: %+v", n)
		}
	}
	for i := 1; i < 100; i++ {
		request()
		total := int64(i + 1)
		limit := (factor*total + 100*nodes - 1) / (100 * nodes)
		var sum int64
		for _, n := range b.Nodes() {
			sum += n.Load
			if n.Load > limit {
				t.Fatalf("%d of %d requests at %s, which is over the limit of %d", n.Load, total, n.Node, limit)
			}
		}
		if sum != total {
			t.Fatalf("%d of %d requests are counted", sum, total)
		}
	}
	for _, n := range b.Nodes() {
		if n.Node == b.Node("/hot") && n.Load != 30 {
			t.Errorf("the path's own node has %d of 100 requests", n.Load)
		}
	}
	close(hold)
	all.Wait()
	for _, n := range b.Nodes() {
		if n.Load != 0 {
			t.Errorf("afterwards: %+v", n)
		}
	}
}

// TestBalanceFactorWhileAway: what a dead node leaves behind does not fall on one node alone.
func TestBalanceFactorWhileAway(t *testing.T) {
	rt, end := worldTripper(t, newWorld(), numbered(4)...)
	defer end()
	rt.factor = 125
	nodes := rt.table.Load().nodes
	rt.mu.Lock()
	rt.replace(nodes[0], nodes[1])
	rt.mu.Unlock()
	taken := map[*node]int{}
	for range 60 {
		taken[rt.take("/hot")]++
	}
	if taken[nodes[0]] > 0 || len(taken) != 3 {
		t.Errorf("%d nodes were taken", len(taken))
	}
	for n, c := range taken {
		if c > 25 {
			t.Errorf("%s has %d of 60", n.name, c)
		}
	}
}

// TestFallbacksDiffer: with New, not all that nodes leave behind comes to the same one, and all processes agree on who it is.
func TestFallbacksDiffer(t *testing.T) {
	nodes := numbered(20)
	backwards := slices.Clone(nodes)
	slices.Reverse(backwards)
	one, other := running(t, nodes), running(t, backwards)
	first := map[string]bool{}
	for i, n := range one.rt.table.Load().nodes {
		m := other.rt.table.Load().nodes[i]
		a, b := one.rt.candidates(n, n), other.rt.candidates(m, m)
		if !slices.EqualFunc(a, b, func(a, b *node) bool { return a.key == b.key }) || len(a) != 19 {
			t.Fatalf("%s: the orders differ", n.key)
		}
		first[a[0].key] = true
	}
	if len(first) < 8 {
		t.Errorf("only %d nodes are the first fallback of one", len(first))
	}
}

// TestRunTwice is refused.
func TestRunTwice(t *testing.T) {
	b, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Run(ctx); err != nil {
		t.Error(err)
	}
	if err := b.Run(ctx); err == nil {
		t.Error("no error")
	}
}

// TestObserver is told of each try.
func TestObserver(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	e := newEvents()
	lb := running(t, []string{a.addr, b.addr}, WithObserver(e))
	f := front(t, lb)
	a.kill()
	path := "/"
	for i := 0; lb.Node(path) != "http://"+a.addr; i++ {
		path = fmt.Sprintf("/%d", i)
	}
	ask(t, f, request(t, "GET", f.URL+path, ""))
	first, second := <-e.tries, <-e.tries
	if first.Err == nil || first.Node != "http://"+a.addr || first.Target != first.Node || second.Err != nil || second.Node != "http://"+b.addr || second.Target != first.Target {
		t.Errorf("%+v, %+v", first, second)
	}
}

// TestHostilePaths: nothing that a client sends leads elsewhere or panics.
func TestHostilePaths(t *testing.T) {
	b := running(t, []string{"http://a:80/base"}, WithBalanceFactor(125), WithTransport(roundTrip(func(req *http.Request) (*http.Response, error) {
		if req.URL.Host != "a:80" || req.URL.Scheme != "http" {
			t.Errorf("led to %s", req.URL)
		}
		return nil, errors.New("enough")
	})))
	b.rt.question = func(context.Context, *url.URL) error { return nil }
	for _, target := range []string{"*", "http://evil/x", "//evil/x", "/\x00", "/..//..", "http://u:p@evil", "/%2f%2e", "http:opaque"} {
		req := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		u, err := url.Parse(target)
		if err != nil {
			u = &url.URL{Path: target}
		}
		req.URL = u
		w := httptest.NewRecorder()
		b.ServeHTTP(w, req)
		if w.Code != http.StatusBadGateway {
			t.Errorf("%q: status %d", target, w.Code)
		}
	}
}
