package lb

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is for what must happen at some time; nothing is measured by it.
const patience = 60 * time.Second

// server is a real node, which can be killed and come back at the same address.
type server struct {
	t       testing.TB
	addr    string
	handler http.Handler
	config  func(*http.Server)

	mu  sync.Mutex
	now *http.Server
	end chan struct{}
}

// serve starts a server on a loopback address of its own, so that nobody else gets its port while it is away.
func serve(t testing.TB, handler http.HandlerFunc) *server {
	t.Helper()
	return serveWith(t, handler, nil)
}

func serveWith(t testing.TB, handler http.Handler, config func(*http.Server)) *server {
	t.Helper()
	var b [3]byte
	rand.Read(b[:])
	s := &server{t: t, handler: handler, config: config, addr: fmt.Sprintf("127.%d.%d.%d:0", b[0]%250+2, b[1], b[2]%250+2)}
	s.start()
	t.Cleanup(s.kill)
	return s
}

// named answers with its name, and the path that it was asked for.
func named(t testing.TB, name string) *server {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.Header().Set("X-Host", r.Host)
		fmt.Fprintf(w, "%s %s %s", name, r.RequestURI, body)
	})
}

func (s *server) start() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	listener, err := net.Listen("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	if strings.HasSuffix(s.addr, ":0") {
		s.addr = listener.Addr().String()
	}
	s.now, s.end = &http.Server{Handler: s.handler, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), ReadHeaderTimeout: patience}, make(chan struct{})
	if s.config != nil {
		s.config(s.now)
	}
	go func(srv *http.Server, end chan struct{}) {
		defer close(end)
		srv.Serve(listener) //nolint:errcheck // always that it was closed
	}(s.now, s.end)
}

// kill closes the port and cuts all connections.
func (s *server) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now != nil {
		s.now.Close()
		<-s.end
		s.now = nil
	}
}

// events is an observer whose tests wait for what it is told.
type events struct {
	changes chan Change
	tries   chan Try
}

func newEvents() *events { return &events{make(chan Change, 1000), make(chan Try, 10000)} }

func (e *events) Changed(c Change) { e.changes <- c }
func (e *events) Tried(t Try)      { e.tries <- t }

func (e *events) change(t testing.TB) Change {
	t.Helper()
	select {
	case c := <-e.changes:
		return c
	case <-time.After(patience):
		t.Fatal("nothing changed")
		return Change{}
	}
}

func (e *events) noChange(t testing.TB) {
	t.Helper()
	select {
	case c := <-e.changes:
		t.Fatalf("changed: %+v", c)
	default:
	}
}

func (e *events) tried() (nodes []string) {
	for {
		select {
		case try := <-e.tries:
			nodes = append(nodes, strings.TrimPrefix(try.Node, "http://"))
		default:
			return nodes
		}
	}
}

// tripper gives a round tripper that tells events, and waits at the end until all of it has ended.
func tripper(t testing.TB, nodes ...*server) (*FallbackRoundTripper, *events) {
	t.Helper()
	var addrs []string
	for _, n := range nodes {
		addrs = append(addrs, n.addr)
	}
	ctx, cancel := context.WithCancel(context.Background())
	rt := NewRoundTripper(ctx, addrs)
	e := newEvents()
	rt.observer, rt.log = e, slog.New(slog.DiscardHandler)
	t.Cleanup(func() {
		cancel()
		rt.wg.Wait()
		rt.CloseIdleConnections()
	})
	return rt, e
}

// front serves a handler, which stops before its nodes do.
func front(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	if p, ok := h.(*httputil.ReverseProxy); ok && p.ErrorLog == nil {
		p.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	}
	s := httptest.NewServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(s.Close)
	return s
}

// fetch asks and gives status and body.
func fetch(t testing.TB, rt http.RoundTripper, req *http.Request) (int, string) {
	t.Helper()
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func request(t testing.TB, method, url, body string) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	var from io.Reader
	if body != "" {
		from = io.MultiReader(strings.NewReader(body)) // no GetBody, as a server's request has none
	}
	req, err := http.NewRequestWithContext(ctx, method, url, from)
	if err != nil {
		t.Fatal(err)
	}
	return req
}
