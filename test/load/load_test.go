package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// exchange is one request that a faulty server has read: n counts those of the connection, from 0. The handler writes what it
// likes; false closes the connection.
type exchange func(conn net.Conn, n int) bool

// faulty serves by hand, so that it can do everything that net/http never would. It counts the requests it has read.
func faulty(t *testing.T, handle exchange) (address string, seen *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seen = new(atomic.Int64)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return // closed by the clean-up
			}
			all.Go(func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				for n := 0; ; n++ {
					req, err := http.ReadRequest(in)
					if err != nil {
						return // the client went away
					}
					if _, err := io.Copy(io.Discard, req.Body); err != nil {
						return
					}
					seen.Add(1)
					if !handle(conn, n) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		all.Wait()
	})
	return ln.Addr().String(), seen
}

// write is for handlers: a client that went away is the client's affair, and the test looks at the client.
func write(conn net.Conn, text string) bool {
	_, err := io.WriteString(conn, text)
	return err == nil
}

// reset closes with RST instead of FIN.
func reset(conn net.Conn) bool {
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		panic(err)
	}
	return false
}

// until loads with one group until the server has seen n requests.
func until(t *testing.T, address string, seen *atomic.Int64, n int64, g Group) Result {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for seen.Load() < n && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	r, err := Run(ctx, Options{Address: address, Groups: []Group{g}, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	<-watched
	return r
}

// Each of these servers breaks its promise in its own way; a client that hides one of them is worthless.
func TestReportsFailures(t *testing.T) {
	fresh, kept := Group{Workers: 2}, Group{Workers: 2, KeepAlive: true}
	post := Group{Workers: 2, KeepAlive: true, Method: "POST", Body: "payload"}
	for _, c := range []struct {
		name   string
		group  Group
		handle exchange
		reused bool // all failures are on reused connections
		every  int  // each so many-th request fails
		says   string
		is     error
	}{
		{"close instead of an answer", fresh, func(net.Conn, int) bool { return false }, false, 1, "unexpected EOF", nil},
		{"reset instead of an answer", fresh, func(c net.Conn, _ int) bool { return reset(c) }, false, 1, "", syscall.ECONNRESET},
		// The three that http.Transport would retry without a word:
		{"close instead of the second answer", kept, func(c net.Conn, n int) bool { return n == 0 && write(c, ok) }, true, 2, "unexpected EOF", nil},
		{"reset instead of the second answer", kept, func(c net.Conn, n int) bool { return n == 0 && write(c, ok) || n == 1 && reset(c) }, true, 2, "", syscall.ECONNRESET},
		{"close instead of the second answer to POST", post, func(c net.Conn, n int) bool { return n == 0 && write(c, ok) }, true, 2, "unexpected EOF", nil},
		{"cut in the header", fresh, func(c net.Conn, _ int) bool { return write(c, "HTTP/1.1 200 OK\r\nContent-Le") && false }, false, 1, "read header", nil},
		{"cut in the body", fresh, func(c net.Conn, _ int) bool {
			return write(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok") && false
		}, false, 1, "read body: unexpected EOF", io.ErrUnexpectedEOF},
		{"cut between chunks", fresh, func(c net.Conn, _ int) bool {
			return write(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n") && false
		}, false, 1, "read body: unexpected EOF", io.ErrUnexpectedEOF},
		{"no length", fresh, func(c net.Conn, _ int) bool { return write(c, "HTTP/1.1 200 OK\r\n\r\nok") && false }, false, 1, "", errNoLength},
		{"not HTTP", fresh, func(c net.Conn, _ int) bool { return write(c, "+OK ready\r\n\r\n") && false }, false, 1, "malformed HTTP", nil},
		{"503", kept, func(c net.Conn, _ int) bool {
			return write(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
		}, false, 1, "status 503", nil},
		{"two answers to one request", kept, func(c net.Conn, n int) bool { return write(c, ok+ok) }, true, 2, "", errUnsolicited},
	} {
		t.Run(c.name, func(t *testing.T) {
			address, seen := faulty(t, c.handle)
			r := until(t, address, seen, 20, c.group)
			if r.Failed == 0 || len(r.Failures) != r.Failed {
				t.Fatalf("%d failed, %d of them kept: %s", r.Failed, len(r.Failures), r)
			}
			// Each worker's requests fail in the given rhythm; the run may end between two of them.
			if least := r.Requests/c.every - c.group.Workers; r.Failed < least || r.Failed > r.Requests/c.every+c.group.Workers {
				t.Errorf("%d of %d failed, want each %d-th", r.Failed, r.Requests, c.every)
			}
			for _, f := range r.Failures {
				if f.Reused != c.reused && c.name != "503" || !strings.Contains(f.Err.Error(), c.says) || c.is != nil && !errors.Is(f.Err, c.is) {
					t.Errorf("%s; want reused %t, %q, %v", f, c.reused, c.says, c.is)
				}
				if f.At.IsZero() || f.Path != "/" || f.Group == "" || f.Method == "" {
					t.Errorf("incomplete: %+v", f)
				}
			}
			// Nothing was sent twice: what the server has read is what the client says it began.
			unsent := 0
			for _, f := range r.Failures {
				if errors.Is(f.Err, errUnsolicited) {
					unsent++ // the connection was given up before the request was written
				}
			}
			if int(seen.Load()) != r.Requests-unsent {
				t.Errorf("the server read %d requests, the client began %d", seen.Load(), r.Requests-unsent)
			}
		})
	}
}

func TestRefusedConnection(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	ctx, cancel := context.WithCancel(t.Context())
	// Ready comes after the first failures as well.
	r, err := Run(ctx, Options{Address: ln.Addr().String(), Groups: []Group{{Workers: 3}}, Ready: cancel})
	if err != nil {
		t.Fatal(err)
	}
	if r.Failed < 3 || r.Failed != r.Requests || !errors.Is(r.Failures[0].Err, syscall.ECONNREFUSED) {
		t.Error(r)
	}
}

func TestUnansweredRequestTimesOut(t *testing.T) {
	release := make(chan struct{})
	address, _ := faulty(t, func(net.Conn, int) bool { <-release; return false })
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := Run(ctx, Options{Address: address, Groups: []Group{{Workers: 1}}, Timeout: 50 * time.Millisecond, Ready: cancel})
	if err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if r.Failed == 0 || !errors.As(r.Failures[0].Err, &timeout) || !timeout.Timeout() || r.Failures[0].Took < 50*time.Millisecond {
		t.Error(r)
	}
}

// A server may close an idle connection: real clients see it before they send, and nothing is lost.
func TestCloseWhileIdleIsNoFailure(t *testing.T) {
	for name, handle := range map[string]exchange{
		"close": func(c net.Conn, _ int) bool { return write(c, ok) && false },
		"reset": func(c net.Conn, _ int) bool { return write(c, ok) && reset(c) },
	} {
		t.Run(name, func(t *testing.T) {
			address, seen := faulty(t, handle)
			r := until(t, address, seen, 5, Group{Workers: 1, KeepAlive: true, Think: 100 * time.Millisecond})
			if r.Failed != 0 || r.Reconnects != r.Requests-1 || r.Connections != r.Requests {
				t.Error(r)
			}
		})
	}
}

func TestIdle(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(client)
	if err := idle(client, in); err != nil {
		t.Errorf("untouched: %v", err)
	}
	write(server, "x")
	if _, err := in.Peek(1); err != nil {
		t.Fatal(err)
	}
	if err := idle(client, in); !errors.Is(err, errUnsolicited) {
		t.Errorf("a byte in the buffer: %v", err)
	}
	if _, err := in.Discard(1); err != nil {
		t.Fatal(err)
	}
	if err := idle(client, in); err != nil {
		t.Errorf("read empty: %v", err)
	}
	write(server, "y")
	waitFor(t, func() bool { return errors.Is(idle(client, in), errUnsolicited) })
	if b, err := in.ReadByte(); b != 'y' || err != nil {
		t.Errorf("idle took the byte: %q, %v", b, err)
	}
	server.Close()
	waitFor(t, func() bool { return errors.Is(idle(client, in), io.EOF) })
}

func waitFor(t *testing.T, is func() bool) {
	t.Helper()
	for limit := time.Now().Add(5 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("it did not come")
		}
	}
}

func TestGoodServer(t *testing.T) {
	var gets, posts, closes atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		switch {
		case r.Method == "GET" && len(body) == 0:
			gets.Add(1)
		case r.Method == "POST" && (string(body) == "payload" || len(body) == 0):
			posts.Add(1)
		default:
			t.Errorf("%s with body %q", r.Method, body)
		}
		if r.Host != "app.example" || r.RequestURI != "/a" && r.RequestURI != "/b?q=1" {
			t.Errorf("host %q, target %q", r.Host, r.RequestURI)
		}
		if r.Close {
			closes.Add(1)
		}
		if r.RequestURI == "/a" {
			w.(http.Flusher).Flush() // a chunked answer
		}
		fmt.Fprint(w, "answer")
	}))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var ready atomic.Bool
	result := make(chan Result, 1)
	go func() {
		r, err := Run(ctx, Options{
			Address: server.Listener.Addr().String(), Host: "app.example", Paths: []string{"/a", "/b?q=1"},
			Groups: []Group{
				{Workers: 2, Think: time.Millisecond},
				{Workers: 2, KeepAlive: true},
				{Workers: 1, KeepAlive: true, Method: "POST", Body: "payload", Think: time.Millisecond},
				{Workers: 1, Method: "POST", Think: time.Millisecond},
			},
			Ready: func() { ready.Store(true) },
		})
		if err != nil {
			t.Error(err)
		}
		result <- r
	}()
	waitFor(t, func() bool { return ready.Load() && gets.Load() > 100 && posts.Load() > 10 && closes.Load() > 10 })
	cancel()
	r := <-result
	if r.Failed != 0 || r.Reconnects != 0 || r.Status[200] != r.Requests || int64(r.Requests) != gets.Load()+posts.Load() {
		t.Errorf("%s; the server saw %d", r, gets.Load()+posts.Load())
	}
	if int64(r.Connections) != closes.Load()+3 { // three workers keep theirs
		t.Errorf("%d connections for %d fresh requests", r.Connections, closes.Load())
	}
	if r.Latency(0) <= 0 || r.Latency(.5) < r.Latency(0) || r.Latency(1) < r.Latency(.99) || r.Elapsed <= 0 {
		t.Errorf("latencies %s %s %s", r.Latency(0), r.Latency(.5), r.Latency(1))
	}
}

func TestAnnouncedCloseAndInterimAnswer(t *testing.T) {
	address, seen := faulty(t, func(c net.Conn, _ int) bool {
		return write(c, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok") && false
	})
	r := until(t, address, seen, 50, Group{Workers: 1, KeepAlive: true})
	if r.Failed != 0 || r.Reconnects != 0 || r.Connections != r.Requests {
		t.Error(r)
	}
}

// The end of the load is not a failure: what was begun is finished.
func TestEndLetsRequestsFinish(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	address, _ := faulty(t, func(c net.Conn, _ int) bool {
		close(begun)
		<-release
		return write(c, ok)
	})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan Result, 1)
	go func() {
		r, err := Run(ctx, Options{Address: address, Groups: []Group{{Workers: 1, KeepAlive: true, Think: time.Hour}}})
		if err != nil {
			t.Error(err)
		}
		result <- r
	}()
	<-begun
	cancel()
	close(release)
	if r := <-result; r.Requests != 1 || r.Failed != 0 {
		t.Error(r)
	}
}

// Workers send their first request at once and think then, and an end of the load does not wait for them.
func TestThink(t *testing.T) {
	address, seen := faulty(t, func(c net.Conn, _ int) bool { return write(c, ok) })
	r := until(t, address, seen, 4, Group{Workers: 4, KeepAlive: true, Think: time.Hour})
	if r.Requests != 4 || r.Failed != 0 {
		t.Error(r)
	}
}

// The second requests are spread, so that workers of one kind do not go on in step.
func TestSpread(t *testing.T) {
	g := Group{Workers: 4, Think: time.Second}
	for i := range g.Workers {
		w := newWorker(Options{Address: "127.0.0.1:1", Paths: []string{"/"}, Timeout: time.Second}, g, i, 0)
		if want := time.Duration(i) * g.Think / 4; w.delay != want {
			t.Errorf("worker %d is %s late, not %s", i, w.delay, want)
		}
	}
}

func TestOptions(t *testing.T) {
	one := []Group{{Workers: 1}}
	for _, c := range []struct {
		o    Options
		says string
	}{
		{Options{Groups: one}, "load options: no address"},
		{Options{Address: "127.0.0.1:1"}, "load options: no groups"},
		{Options{Address: "127.0.0.1:1", Groups: []Group{{}}}, "load options: group 0: 0 workers"},
	} {
		if _, err := Run(t.Context(), c.o); err == nil || err.Error() != c.says {
			t.Errorf("%v, want %q", err, c.says)
		}
	}
}

func TestResultString(t *testing.T) {
	r := Result{Requests: 3, Failed: 1, Status: map[int]int{503: 1, 200: 2}, latencies: []time.Duration{1000, 3000}, Failures: []Failure{{
		At: time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC), Took: time.Millisecond, Group: "fresh", Method: "GET", Path: "/a", Reused: true, Err: io.EOF,
	}}}
	want := "3 requests, 1 failed, 0 connections, 0 reconnects, 0s, p50 1µs, p99 3µs, max 3µs, status 200:2 503:1\n" +
		"  03:04:05.006 fresh GET /a on a reused connection after 1ms: EOF"
	if got := r.String(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
