package lb

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestFallback: a node dies, one stands in for it, dies too, the next one stands in, none is left, and all come back.
func TestFallback(t *testing.T) {
	a, b, c := named(t, "a"), named(t, "b"), named(t, "c")
	rt, e := tripper(t, b, a, c)
	ask := func(want string) {
		t.Helper()
		if _, got := fetch(t, rt, request(t, "GET", "http://"+a.addr+"/x?q=1", "")); got != want+" /x?q=1 " {
			t.Fatalf("answered %q, not by %s", got, want)
		}
	}
	ask("a")
	a.kill()
	ask("b")
	if ch := e.change(t); ch.Node != "http://"+a.addr || ch.Up || ch.Err == nil {
		t.Fatalf("%+v", ch)
	}
	e.tried()
	ask("b")
	if tried := e.tried(); !slices.Equal(tried, []string{b.addr}) {
		t.Fatalf("the dead node was asked again: %v", tried)
	}
	b.kill()
	ask("c")
	e.change(t)
	c.kill()
	_, err := rt.RoundTrip(request(t, "GET", "http://"+a.addr+"/x", "")) //nolint:bodyclose // there is none
	if err != ErrNoFallbackNodeFound ||                                  //nolint:errorlint // importers of the original compare by ==
		!errors.Is(err, ErrNoFallbackNodeFound) || err.Error() != "no fallback node found - whole cluster seems offline" {
		t.Fatalf("error %v", err)
	}
	b.start()
	ask("b")
	for ch := e.change(t); ch.Fallback != "http://"+b.addr; {
		ch = e.change(t)
	}
	a.start()
	for ch := e.change(t); !ch.Up || ch.Node != "http://"+a.addr; {
		ch = e.change(t)
	}
	ask("a")
	e.noChange(t)
}

// TestFallbackIsLasting: it stays the one that was found, although one before it in the list comes back.
func TestFallbackIsLasting(t *testing.T) {
	a, b, c := named(t, "a"), named(t, "b"), named(t, "c")
	rt, e := tripper(t, b, c, a)
	a.kill()
	b.kill()
	for range 5 {
		if _, got := fetch(t, rt, request(t, "GET", "http://"+a.addr, "")); got != "c / " {
			t.Fatal(got)
		}
		b.start()
		b.kill()
		b.start()
		b.kill()
	}
	e.change(t)
	b.start()
	if _, got := fetch(t, rt, request(t, "GET", "http://"+a.addr, "")); got != "c / " {
		t.Fatal(got)
	}
	e.noChange(t)
}

// TestForeignTarget: one that is no node has a fallback too.
func TestForeignTarget(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	rt, e := tripper(t, b)
	a.kill()
	for range 3 {
		if _, got := fetch(t, rt, request(t, "GET", "http://"+a.addr, "")); got != "b / " {
			t.Fatal(got)
		}
	}
	if tried := e.tried(); !slices.Equal(tried, []string{a.addr, b.addr, b.addr, b.addr}) {
		t.Fatalf("tried %v", tried)
	}
	a.start()
	e.change(t)
	if ch := e.change(t); !ch.Up {
		t.Fatalf("%+v", ch)
	}
	if _, got := fetch(t, rt, request(t, "GET", "http://"+a.addr, "")); got != "a / " || rt.strange.Load() != 0 || rt.out.Load() != 0 {
		t.Fatal(got)
	}
}

// TestBodyToDeadNode: nothing was read of it, so that a POST goes to the fallback whole.
func TestBodyToDeadNode(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	rt, _ := tripper(t, a, b)
	a.kill()
	body := strings.Repeat("0123456789", 20_000)
	req := request(t, "POST", "http://"+a.addr+"/p", body)
	closed := watched(req)
	if _, got := fetch(t, rt, req); got != "b /p "+body {
		t.Fatalf("%d bytes: %.60s", len(got), got)
	}
	<-closed.done
}

// closing is a body that tells that it was closed.
type closing struct {
	io.ReadCloser
	once sync.Once
	done chan struct{}
}

func watched(req *http.Request) *closing {
	c := &closing{done: make(chan struct{}), ReadCloser: req.Body}
	if req.Body == nil {
		close(c.done)
	} else {
		req.Body = c
	}
	return c
}

func (c *closing) Close() error {
	c.once.Do(func() { close(c.done) })
	return c.ReadCloser.Close()
}

// breaking reads a part of the body and drops the connection; its port stays open.
func breaking(t *testing.T, asked *atomic.Int32) *server {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		io.ReadFull(r.Body, make([]byte, 10)) //nolint:errcheck // there may be none
		panic(http.ErrAbortHandler)
	})
}

// TestPartlySent: what was partly sent is sent again only if that can do no harm.
func TestPartlySent(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for _, row := range []struct {
		name, method, body, key string
		again                   bool // GetBody
		repeated                bool
	}{
		{name: "GET", method: "GET", repeated: true},
		{name: "DELETE", method: "DELETE", repeated: true},
		{name: "POST without a body", method: "POST"},
		{name: "POST with a body", method: "POST", body: long},
		{name: "POST with GetBody", method: "POST", body: long, again: true},
		{name: "POST with GetBody and key", method: "POST", body: long, again: true, key: "1", repeated: true},
		{name: "POST with key", method: "POST", body: long, key: "1"},
		{name: "PUT", method: "PUT", body: long},
		{name: "PUT with GetBody", method: "PUT", body: long, again: true, repeated: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			var asked atomic.Int32
			a, b := breaking(t, &asked), named(t, "b")
			rt, e := tripper(t, a, b)
			req := request(t, row.method, "http://"+a.addr+"/p", row.body)
			if row.again {
				req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(row.body)), nil }
			}
			if row.key != "" {
				req.Header.Set("Idempotency-Key", row.key)
			}
			closed := watched(req)
			resp, err := rt.RoundTrip(req)
			switch {
			case row.repeated && err != nil:
				t.Fatal(err)
			case row.repeated:
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(body) != "b /p "+row.body {
					t.Errorf("%d bytes, %v", len(body), err)
				}
			case err == nil:
				t.Errorf("status %d, tried %v", resp.StatusCode, e.tried())
				resp.Body.Close()
			case errors.Is(err, ErrNoFallbackNodeFound):
				t.Errorf("error %v is not the first one", err)
			}
			if asked.Load() != 1 {
				t.Errorf("the node was asked %d times", asked.Load())
			}
			<-closed.done // the transport may close it after it has returned
			e.noChange(t) // the node accepts connections: it keeps its paths
		})
	}
}

// TestOneDetour: a request that every node fails is tried on two of them, and has the first error.
func TestOneDetour(t *testing.T) {
	var asked [3]atomic.Int32
	a, b, c := breaking(t, &asked[0]), breaking(t, &asked[1]), breaking(t, &asked[2])
	rt, e := tripper(t, a, b, c)
	_, err := rt.RoundTrip(request(t, "GET", "http://"+a.addr, "")) //nolint:bodyclose // there is none
	if err == nil || errors.Is(err, ErrNoFallbackNodeFound) {
		t.Fatal(err)
	}
	if tried := e.tried(); !slices.Equal(tried, []string{a.addr, b.addr}) {
		t.Errorf("tried %v", tried)
	}
	e.noChange(t)
}

// TestSingleNode: its own error when it lives, that of the cluster when it is dead.
func TestSingleNode(t *testing.T) {
	a := breaking(t, new(atomic.Int32))
	rt, _ := tripper(t, a)
	if _, err := rt.RoundTrip(request(t, "GET", "http://"+a.addr, "")); err == nil || errors.Is(err, ErrNoFallbackNodeFound) { //nolint:bodyclose // there is none
		t.Error(err)
	}
	a.kill()
	if _, err := rt.RoundTrip(request(t, "GET", "http://"+a.addr, "")); !errors.Is(err, ErrNoFallbackNodeFound) { //nolint:bodyclose // there is none
		t.Error(err)
	}
}

// TestClientGone: a client that goes away, or whose body breaks, starts no search.
func TestClientGone(t *testing.T) {
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	a := serve(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		io.Copy(io.Discard, r.Body) //nolint:errcheck // it breaks
		<-release
	})
	t.Cleanup(func() { close(release) })
	b := named(t, "b")
	rt, e := tripper(t, a, b)
	var questions atomic.Int32
	asking := rt.question
	rt.question = func(ctx context.Context, u *url.URL) error { questions.Add(1); return asking(ctx, u) }

	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	_, err := rt.RoundTrip(request(t, "GET", "http://"+a.addr, "").WithContext(ctx)) //nolint:bodyclose // there is none
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	broken := errors.New("the client's connection broke")
	req := request(t, "PUT", "http://"+a.addr, "x")
	req.Body = io.NopCloser(io.MultiReader(strings.NewReader("x"), failing{broken}))
	if _, err := rt.RoundTrip(req); !errors.Is(err, broken) { //nolint:bodyclose // there is none
		t.Errorf("error %v", err)
	}
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if len(rt.searches) > 0 || questions.Load() > 0 || len(e.tried()) != 2 {
		t.Errorf("%d questions were asked", questions.Load())
	}
	e.noChange(t)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestRedirect is handed on.
func TestRedirect(t *testing.T) {
	a := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/other", http.StatusFound) })
	rt, e := tripper(t, a)
	if status, _ := fetch(t, rt, request(t, "GET", "http://"+a.addr, "")); status != http.StatusFound || len(e.tried()) != 1 {
		t.Errorf("status %d", status)
	}
}

// TestFallbackBasePath: what the client asked for is joined with the fallback's base path and query, and the Host header stays.
func TestFallbackBasePath(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rt := NewRoundTripper(ctx, []string{"http://" + a.addr + "/base?k=1", "http://" + a.addr + "/base/longer", "http://" + b.addr + "/other?l=2"})
	a.kill()
	for path, want := range map[string]string{
		"/base/dir?k=1&q=x":    "/other/dir?l=2&q=x",
		"/base/longer/x?q=1":   "/other/x?l=2&q=1",
		"/base/a%2Fb?k=1&q=%z": "/other/a%2Fb?l=2&q=%z",
		"/elsewhere":           "/other/elsewhere?l=2",
	} {
		resp, err := rt.RoundTrip(request(t, "GET", "http://"+a.addr+path, ""))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(body) != "b "+want+" " || resp.Header.Get("X-Host") != a.addr {
			t.Errorf("%s: %q for %s, %v", path, body, resp.Header.Get("X-Host"), err)
		}
	}
	cancel()
	rt.wg.Wait()
}

// TestManyAtOnce: requests by many clients while nodes die and come back all have an answer.
func TestManyAtOnce(t *testing.T) {
	nodes := []*server{named(t, "0"), named(t, "1"), named(t, "2"), named(t, "3")}
	rt, _ := tripper(t, nodes...)
	rt.observer = nil
	var clients sync.WaitGroup
	stop, progress := make(chan struct{}), make(chan struct{}, 1)
	const many = 3
	var done [many]atomic.Int64
	for i := range many {
		clients.Go(func() {
			for n := i; ; n++ {
				req, err := http.NewRequest(http.MethodGet, "http://"+nodes[n%4].addr, http.NoBody)
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := rt.RoundTrip(req)
				if err != nil {
					t.Error(err)
				} else {
					io.Copy(io.Discard, resp.Body) //nolint:errcheck // a node may die in the middle of its answer
					resp.Body.Close()
				}
				done[i].Add(1)
				select {
				case progress <- struct{}{}:
				default:
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	// Each client begins and ends requests between two events, so that no request meets two of them.
	between := func() {
		for i := range many {
			for from := done[i].Load(); done[i].Load() < from+3; {
				<-progress
			}
		}
	}
	for round := range 4 {
		nodes[round%3].kill() // the last one always lives
		between()
		nodes[round%3].start()
		between()
	}
	close(stop)
	clients.Wait()
}
