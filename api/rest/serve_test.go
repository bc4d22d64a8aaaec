package rest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fnlb/fnlb/api/access"
)

// pipes is a listener within a synctest bubble.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

func TestSlowClients(t *testing.T) {
	for _, tt := range []struct {
		name, sent string
		after      time.Duration // when the connection is closed
		answer     string        // how what came before begins
	}{
		{"silent", "", 10 * time.Second, ""},
		{"half a line", "GET /1/lb", 10 * time.Second, "HTTP/1.1 400 Bad Request\r\n"},
		{"half a header", "GET /1/lb/healthz HTTP/1.1\r\nHost: a\r\nX", 10 * time.Second, "HTTP/1.1 400 Bad Request\r\n"},
		{"half a body", "PUT /1/lb/nodes HTTP/1.1\r\nHost: a\r\nContent-Length: 14\r\n\r\n{\"no", 10 * time.Second, "HTTP/1.1 408 Request Timeout\r\n"},
		{"half a chunk", "PUT /1/lb/nodes HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"n", 10 * time.Second, "HTTP/1.1 408 Request Timeout\r\n"},
		{"a body that nobody wants", "PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 999999\r\n\r\n", 0, "HTTP/1.1 404 Not Found\r\n"},
		{"idle after a request", "GET /1/lb/healthz HTTP/1.1\r\nHost: a\r\n\r\n", 10 * time.Second, "HTTP/1.1 200 OK\r\n"},
		{"20 KiB of header", "GET /1/lb/healthz HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 21<<10) + "\r\n\r\n", 0, "HTTP/1.1 431 "},
		{"no HTTP", "\x16\x03\x01 hello\r\n\r\n", 0, "HTTP/1.1 400 Bad Request\r\n"},
		{"two lengths", "PUT /1/lb/nodes HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", 0, "HTTP/1.1 400 Bad Request\r\n"},
		{"any resource", "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 0, "HTTP/1.1 404 Not Found\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, _ := handlerOf(&store{}, full(), true)
				l := newPipes()
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- Serve(ctx, l, h, slog.New(slog.DiscardHandler)) }()
				conn := l.dial()
				start := time.Now()
				var writer sync.WaitGroup
				writer.Go(func() { _, _ = io.WriteString(conn, tt.sent) }) // it may be cut
				answer, err := io.ReadAll(conn)
				if err != nil {
					t.Error(err)
				}
				// Half a second of lingering close is net/http's.
				if took := time.Since(start); took < tt.after || took > tt.after+time.Second {
					t.Errorf("closed after %s, want %s", took, tt.after)
				}
				if !strings.HasPrefix(string(answer), tt.answer) || (tt.answer == "") != (len(answer) == 0) {
					t.Errorf("answered %q, want %q", answer, tt.answer)
				}
				_ = conn.Close()
				writer.Wait()
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestUnreadAnswersAreCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := full()
		r.config = make([]byte, 1<<20)
		h, _ := handlerOf(&store{}, r, true)
		l := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- Serve(ctx, l, h, slog.New(slog.DiscardHandler)) }()
		conn := l.dial()
		if _, err := io.WriteString(conn, "GET /1/lb/config HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if n, _ := io.Copy(io.Discard, conn); n > 64<<10 {
			t.Errorf("%d bytes came after the time was over", n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestStop(t *testing.T) {
	for _, tt := range []struct {
		name  string
		takes time.Duration // the running request
		after time.Duration // Serve's end
		whole bool
	}{
		{"a request ends", time.Second, time.Second, true},
		{"a request takes too long", time.Hour, 2 * time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newPipes()
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() {
					ended <- Serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						select {
						case <-time.After(tt.takes):
						case <-r.Context().Done():
						}
						_, _ = io.WriteString(w, "whole")
					}), slog.New(slog.DiscardHandler))
				}()
				silent, half, running := l.dial(), l.dial(), l.dial()
				var clients sync.WaitGroup
				clients.Go(func() { _, _ = io.WriteString(half, "GET / HTT") })
				clients.Go(func() {
					_, _ = io.WriteString(running, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
					answer, _ := io.ReadAll(running)
					if got := strings.HasSuffix(string(answer), "whole"); got != tt.whole {
						t.Errorf("answered %q", answer)
					}
				})
				synctest.Wait()
				start := time.Now()
				cancel()
				for _, c := range []net.Conn{silent, half} {
					if _, err := io.ReadAll(c); err != nil || time.Since(start) != 0 {
						t.Errorf("one that waits was closed after %s: %v", time.Since(start), err)
					}
				}
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took < tt.after || took > tt.after+600*time.Millisecond {
					t.Errorf("ended after %s, want %s", took, tt.after)
				}
				clients.Wait()
			})
		})
	}
}

func TestListenerFails(t *testing.T) {
	l := newPipes()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	err := Serve(t.Context(), l, http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	if !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), "serve management on pipe") {
		t.Errorf("error %v", err)
	}
}

// A request that begins or ends is progress, so that another connection goes.
func TestGuests(t *testing.T) {
	g := newGuests(3)
	conns, others := make([]net.Conn, 4), make([]net.Conn, 4)
	for i := range conns {
		conns[i], others[i] = net.Pipe()
		defer func() { _ = others[i].Close() }()
	}
	first := g.enter(t.Context(), conns[0])
	for _, conn := range conns[1:3] {
		g.enter(t.Context(), conn)
	}
	g.begin(first)()
	g.enter(t.Context(), conns[3])
	if _, err := others[1].Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the one without progress did not have to go: %v", err)
	}
	for _, conn := range conns {
		g.observe(conn, http.StateClosed)
	}
	g.alive.Wait()
	if len(g.of) != 0 {
		t.Errorf("%d are still counted", len(g.of))
	}
}

// serve runs Serve on a real listener.
func serve(t *testing.T, l net.Listener, h http.Handler) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, h, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Fault row 25: thousands of connections that are idle, or slow with headers or bodies, take nothing from others.
func TestManyConnections(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &store{nodes: []string{"10.0.0.1:80"}}
	h, _ := handlerOf(s, full(), true)
	serve(t, l, access.Rules{}.Wrap(h, access.Port))
	addr := l.Addr().String()

	// Another address has a connection all the time, and a new one for each of its requests.
	steady := dialFrom(t, "127.0.0.2", addr)
	ask(t, steady, "before")
	stop := make(chan struct{})
	var others sync.WaitGroup
	var worst time.Duration
	asked := 0
	others.Go(func() {
		for ok := true; ok; {
			select {
			case <-stop:
				return
			default:
			}
			start := time.Now()
			ok = askAnew(t, "127.0.0.2", addr)
			worst = max(worst, time.Since(start))
			asked++
		}
	})
	// An idle connection is closed some time; on a busy machine this takes longer.
	many := idle(t, addr, 10_000, func() { ask(t, steady, "meanwhile") })
	ask(t, steady, "after")
	askAnew(t, "127.0.0.1", addr) // and the address of the many is served as well
	close(stop)
	others.Wait()
	for _, c := range append(many, steady) {
		_ = c.Close()
	}
	t.Logf("%d requests beside %d connections, the slowest took %s", asked, len(many), worst)
	if asked < 10 {
		t.Errorf("only %d requests were answered", asked)
	}
}

// idle opens n connections, as far as the limit on open files lets this process have both ends, and calls meanwhile now and then.
func idle(t *testing.T, addr string, n int, meanwhile func()) []net.Conn {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if want := uint64(n) + 3000; limit.Cur < want { // Go has raised it to the hard limit; only root may do more
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: want, Max: max(want, limit.Max)}); err != nil {
			n = int(limit.Cur) / 2
			t.Logf("open files are limited to %d, so %d connections", limit.Cur, n)
		}
	}
	begun := []string{"", "GET /1/lb/nodes HTTP/1.1\r\nHost:", "PUT /1/lb/nodes HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{"}
	conns := make([]net.Conn, 0, n)
	for i := range n {
		conn := dialFrom(t, "127.0.0.1", addr)
		conns = append(conns, conn)
		if _, err := io.WriteString(conn, begun[i%len(begun)]); err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Fatalf("connection %d: %v", i, err)
		}
		if i%500 == 0 {
			meanwhile()
		}
	}
	return conns
}

func dialFrom(t *testing.T, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	conn, err := d.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func askAnew(t *testing.T, from, to string) bool {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	conn, err := d.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Error(err)
		return false
	}
	defer func() { _ = conn.Close() }()
	return ask(t, conn, "anew")
}

// ask makes one request on conn and reports whether it was answered.
func ask(t *testing.T, conn net.Conn, what string) bool {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Error(err)
		return false
	}
	if _, err := io.WriteString(conn, "GET /1/lb/nodes HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); err != nil {
		t.Errorf("%s: %v", what, err)
		return false
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return false
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || string(body) != "{\"nodes\":{\"10.0.0.1:80\":\"online\"}}\n" {
		t.Errorf("%s: %s %q %v", what, resp.Status, body, err)
		return false
	}
	return true
}

// Connections of HAProxy's that never send their PROXY header hold up nobody, neither those who come nor the end.
func TestSilentProxyConnections(t *testing.T) {
	dir, err := os.MkdirTemp("", "x")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	h, _ := handlerOf(&store{nodes: []string{"10.0.0.1:80"}}, full(), false)
	serve(t, access.FromHAProxy(l), access.Rules{}.Wrap(h, access.Traffic))
	dial := func(first string) net.Conn {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := io.WriteString(conn, first); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	for range 1100 { // more than there is room for
		dial("\r\n\r\n")
	}
	conn := dial("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x0a\x01\x02\x03\x0a\x00\x00\x01\x9c\x40\x1f\x91")
	ask(t, conn, "behind silent ones")
}

func BenchmarkList10000(b *testing.B) {
	s, r := &store{}, full()
	for i := range 10_000 {
		n := fmt.Sprintf("node-%05d.example:80", i)
		s.nodes = append(s.nodes, n)
		r.status.Servers = append(r.status.Servers, r.status.Servers[0])
		r.status.Servers[len(r.status.Servers)-1].Name = n
	}
	h, _ := handlerOf(s, r, true)
	req, err := http.NewRequestWithContext(b.Context(), "GET", "/1/lb/nodes", nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		h.ServeHTTP(&nowhere{http.Header{}}, req)
	}
}

type nowhere struct{ h http.Header }

func (n *nowhere) Header() http.Header         { return n.h }
func (n *nowhere) WriteHeader(int)             {}
func (n *nowhere) Write(b []byte) (int, error) { return len(b), nil }
