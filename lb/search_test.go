package lb

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// world is a network without sockets: who is down, and who does not even answer.
type world struct {
	mu        sync.Mutex
	down      map[string]bool
	silent    map[string]bool // no answer to a question, down all the same
	questions map[string]int
	sent      map[string]int
}

func newWorld() *world {
	return &world{down: map[string]bool{}, silent: map[string]bool{}, questions: map[string]int{}, sent: map[string]int{}}
}

func (w *world) set(down map[string]bool, host string, is bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	down[host] = is
}

func (w *world) count(of map[string]int, host string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return of[host]
}

func (w *world) ask(ctx context.Context, u *url.URL) error {
	w.mu.Lock()
	w.questions[u.Hostname()]++
	down, silent := w.down[u.Hostname()], w.silent[u.Hostname()]
	w.mu.Unlock()
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	if down {
		return errRefused
	}
	return nil
}

var errRefused = &net.OpError{Op: "dial", Err: errors.New("refused")}

func (w *world) RoundTrip(req *http.Request) (*http.Response, error) {
	host := req.URL.Hostname()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent[host]++
	if w.down[host] || w.silent[host] {
		return nil, errRefused
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Node": {host}}, Body: http.NoBody, Request: req}, nil
}

// worldTripper gives a round tripper in that world, and what ends it.
func worldTripper(t *testing.T, w *world, nodes ...string) (*FallbackRoundTripper, func()) {
	o := defaults()
	o.transport, o.question = w, w.ask
	ctx, cancel := context.WithCancel(t.Context())
	rt := newRoundTripper(ctx, o)
	rt.table.Store(tableOf(t, nil, nodes...))
	return rt, func() {
		cancel()
		rt.wg.Wait()
	}
}

func by(t *testing.T, rt http.RoundTripper, host string) string {
	t.Helper()
	resp, err := rt.RoundTrip(request(t, "GET", "http://"+host+":80/", ""))
	if err != nil {
		return err.Error()
	}
	resp.Body.Close()
	return resp.Header.Get("Node")
}

// TestBackWithinASecond: of the moment when the node accepts connections again, whenever that is, and also when it answered nothing before.
func TestBackWithinASecond(t *testing.T) {
	for after := time.Duration(0); after < 2*time.Second; after += 130 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			rt, end := worldTripper(t, w, "a:80", "b:80")
			defer end()
			w.set(w.silent, "a", true)
			if got := by(t, rt, "a"); got != "b" {
				t.Fatal(got)
			}
			time.Sleep(10*time.Second + after)
			synctest.Wait()
			if got := by(t, rt, "a"); got != "b" || w.count(w.sent, "a") != 1 {
				t.Fatalf("%s, and a was asked %d times", got, w.count(w.sent, "a"))
			}
			w.set(w.silent, "a", false)
			time.Sleep(time.Second)
			synctest.Wait()
			if got := by(t, rt, "a"); got != "a" {
				t.Fatal(got)
			}
			questions := w.count(w.questions, "a")
			time.Sleep(time.Hour)
			if got := w.count(w.questions, "a"); got != questions {
				t.Errorf("%d questions while all is well", got-questions)
			}
		})
	}
}

// TestSearchAtOnce: a node that does not answer costs the grace, not a time-out; the first in the order of the list is taken.
func TestSearchAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		rt, end := worldTripper(t, w, "silent1:80", "silent2:80", "target:80", "down:80", "c:80", "b:80")
		defer end()
		for _, n := range []string{"silent1", "silent2"} {
			w.set(w.silent, n, true)
		}
		w.set(w.down, "target", true)
		w.set(w.down, "down", true)
		begun := time.Now()
		if got := by(t, rt, "target"); got != "c" || time.Since(begun) > searchGrace {
			t.Fatalf("%s after %v", got, time.Since(begun))
		}
	})
}

// TestSearchEnds: when nobody answers anything, at its deadline or at the request's.
func TestSearchEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		rt, end := worldTripper(t, w, "a:80", "b:80", "c:80")
		defer end()
		for _, n := range []string{"a", "b", "c"} {
			w.set(w.silent, n, true)
		}
		begun := time.Now()
		if got := by(t, rt, "a"); got != ErrNoFallbackNodeFound.Error() || time.Since(begun) != searchTime {
			t.Fatalf("%s after %v", got, time.Since(begun))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 70*time.Millisecond)
		defer cancel()
		begun = time.Now()
		_, err := rt.RoundTrip(request(t, "GET", "http://a:80/", "").WithContext(ctx)) //nolint:bodyclose // there is none
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 70*time.Millisecond {
			t.Fatalf("%v after %v", err, time.Since(begun))
		}
	})
}

// TestSearchIsShared: a thousand requests that fail at once ask once, and one that goes away does not end it for the others.
func TestSearchIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		rt, end := worldTripper(t, w, "silent:80", "a:80", "b:80")
		defer end()
		w.set(w.silent, "silent", true)
		w.set(w.down, "a", true)
		var all sync.WaitGroup
		for i := range 1000 {
			all.Go(func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if i < 10 {
					time.AfterFunc(searchGrace/2, cancel)
				}
				resp, err := rt.RoundTrip(request(t, "GET", "http://a:80/", "").WithContext(ctx))
				switch {
				case i < 10 && !errors.Is(err, context.Canceled):
					t.Errorf("%v", err)
				case i >= 10 && err != nil:
					t.Error(err)
				case i >= 10:
					resp.Body.Close()
				}
			})
		}
		all.Wait()
		synctest.Wait()
		if w.count(w.questions, "b") != 1 || w.count(w.questions, "silent") != 1 {
			t.Errorf("b was asked %d times", w.count(w.questions, "b"))
		}
	})
}

// TestEndOfContext: what searches and watches ends with it; requests go on without fallbacks.
func TestEndOfContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		rt, end := worldTripper(t, w, "a:80", "b:80", "c:80")
		w.set(w.down, "a", true)
		if got := by(t, rt, "a"); got != "b" {
			t.Fatal(got)
		}
		w.set(w.silent, "b", true)
		w.set(w.silent, "c", true)
		result := make(chan string)
		go func() { result <- by(t, rt, "b") }()
		synctest.Wait() // it searches
		end()
		if got := <-result; got != errRefused.Error() {
			t.Errorf("the request that waited had %s", got)
		}
		w.set(w.silent, "b", false)
		if got := by(t, rt, "b"); got != "b" {
			t.Errorf("afterwards: %s", got)
		}
		if got := by(t, rt, "c"); got != errRefused.Error() {
			t.Errorf("a node that is away, afterwards: %s", got)
		}
	})
}

// TestNotWritten: a POST without GetBody whose body nobody has read is sent again whatever the error, if the transport says that nothing
// was written.
func TestNotWritten(t *testing.T) {
	for _, row := range []struct {
		name     string
		err      error
		repeated bool
	}{{"dial", errRefused, true}, {"unknown", errors.New("something"), false}} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				rt, end := worldTripper(t, w, "a:80", "b:80")
				defer end()
				rt.transport = roundTrip(func(req *http.Request) (*http.Response, error) {
					if req.URL.Hostname() == "a" {
						req.Body.Close()
						return nil, row.err
					}
					body, err := io.ReadAll(req.Body)
					if err != nil || string(body) != "whole" {
						t.Errorf("%q, %v", body, err)
					}
					return w.RoundTrip(req)
				})
				w.set(w.down, "a", true)
				resp, err := rt.RoundTrip(request(t, "POST", "http://a:80/", "whole"))
				if err == nil {
					resp.Body.Close()
				}
				if row.repeated != (err == nil) || err != nil && !errors.Is(err, row.err) {
					t.Error(err)
				}
			})
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// TestForeignTargetsAreBounded: who asks for hosts without end fills no memory.
func TestForeignTargetsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		rt, end := worldTripper(t, w, "b:80")
		defer end()
		for i := range maxForeign + 50 {
			host := "x" + strings.Repeat("y", i%50) + string(rune('a'+i%26)) + time.Duration(i).String()
			w.set(w.down, host, true)
			if got := by(t, rt, host); got != "b" {
				t.Fatal(got)
			}
		}
		if n := rt.strange.Load(); n != maxForeign {
			t.Errorf("%d are remembered", n)
		}
	})
}

// TestChangesAreLogged: one line for each.
func TestChangesAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		w := newWorld()
		rt, end := worldTripper(t, w, "http://a:80/base?token=secret", "b:80")
		rt.log = slog.New(slog.NewTextHandler(&log, nil))
		w.set(w.down, "a", true)
		for range 3 {
			resp, err := rt.RoundTrip(request(t, "GET", "http://a:80/base/x?token=secret", ""))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		w.set(w.down, "a", false)
		time.Sleep(time.Second)
		end()
		got := log.String()
		if strings.Count(got, "\n") != 2 || !strings.Contains(got, `msg="node is away" node=http://a:80/base fallback=http://b:80`) ||
			!strings.Contains(got, `msg="node is back" node=http://a:80/base`) || strings.Contains(got, "secret") {
			t.Error(got)
		}
	})
}
