package pools

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	pb "github.com/fnlb/fnlb/proto/rollout/lb"
	"github.com/fnlb/fnlb/test/e2e"
	"github.com/fnlb/fnlb/test/load"
)

// full reports whether figures of the full size are asked for.
func full() bool { return os.Getenv("FNLB_E2E_FULL") != "" }

// figure prints a line that the bench collects.
func figure(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Logf("figure: "+format, args...)
}

// TestFigures measures AddBackend and how pools spread requests. It fails for what does not work, never for a figure.
func TestFigures(t *testing.T) {
	rounds, many, lasts := 5, 30, time.Second
	if full() {
		rounds, many, lasts = 200, 1000, 20*time.Second
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		b := start(t, h, "--listen", "")
		b.addPool("/")
		first(b, h, rounds)
		adds(b, h, many)
		if err := b.spread(h, lasts); err != nil {
			t.Error(err)
		}
	})
}

// first measures from the answer of AddBackend to the answer of the first request that the backend serves.
func first(b *balancer, h haproxytest.HAProxy, rounds int) {
	w := newWeb(b.T, "w")
	var took []time.Duration
	for range rounds {
		b.add("/", w, "")
		begin := time.Now()
		b.Eventually(func() string {
			if code, body := b.get("/"); code != http.StatusOK {
				return fmt.Sprint(code, body)
			}
			return ""
		})
		took = append(took, time.Since(begin))
		b.remove("/", w)
		b.Eventually(func() string {
			if code, _ := b.get("/"); code != http.StatusServiceUnavailable {
				return fmt.Sprint(code)
			}
			return ""
		})
	}
	slices.Sort(took)
	figure(b.T, "HAProxy %s: AddBackend answered, first request served by it: median %s, p99 %s (%d rounds, the request and its connection included)",
		h.Version, took[rounds/2].Round(100*time.Microsecond), took[rounds*99/100].Round(100*time.Microsecond), rounds)
}

// adds measures AddBackend calls one after another.
func adds(b *balancer, h haproxytest.HAProxy, many int) {
	b.T.Helper()
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		b.T.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: &web{name: "many"}, ReadHeaderTimeout: e2e.Patience}}
	s.Start()
	b.T.Cleanup(s.Close)
	port := l.Addr().(*net.TCPAddr).Port
	before := b.reloads()
	begin := time.Now()
	for i := range many {
		backend := &pb.Backend{Backend: &pb.Backend_IpBackend{IpBackend: &pb.IPBackend{Ip: fmt.Sprintf("127.2.%d.%d", i/250, i%250+1), Port: int32(port)}}}
		if _, err := b.AddBackend(b.context(), &pb.AddBackendReq{Pattern: "/", Backend: backend}); err != nil {
			b.T.Fatal(err)
		}
	}
	took := time.Since(begin)
	if n := b.reloads() - before; n != 0 {
		b.T.Errorf("%d reloads", n)
	}
	figure(b.T, "HAProxy %s: %d AddBackend calls one after another: %s, 0 reloads", h.Version, many, took.Round(time.Millisecond))
	if _, err := b.RemovePool(b.context(), &pb.RemovePoolReq{Pattern: "/"}); err != nil {
		b.T.Fatal(err)
	}
}

// spread compares two random choices with round robin, side by side: ten backends, one of which is ten times slower.
func (b *balancer) spread(h haproxytest.HAProxy, lasts time.Duration) error {
	const backends, quick = 10, 10 * time.Millisecond
	b.addPool("/spread/")
	var counts [2][backends]atomic.Int64 // by way of choosing
	var lines strings.Builder
	for i := range backends {
		delay := quick
		if i == 0 {
			delay *= 10
		}
		w := &web{name: fmt.Sprint(i)}
		w.server = httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/healthz" {
				way := 0
				if strings.HasPrefix(r.URL.Path, "/robin") {
					way = 1
				}
				counts[way][i].Add(1)
				time.Sleep(delay) //nolint:forbidigo // the work of a slow server
			}
			w.ServeHTTP(out, r)
		}))
		b.T.Cleanup(w.server.Close)
		b.add("/spread/", w, "")
		fmt.Fprintf(&lines, "  server s%d %s\n", i, w.server.Listener.Addr())
	}
	port := haproxytest.FreePort(b.T)
	h.Start(b.T, fmt.Sprintf("global\n  maxconn 2000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\nlisten l\n  bind 127.0.0.1:%d\n  balance roundrobin\n%s",
		port, lines.String()), "robin")
	clients := []load.Group{{Name: "clients", KeepAlive: true, Workers: 20}}
	results := [2]load.Result{}
	stops := [2]func() load.Result{e2e.LoadPaths(b.T, b.HTTP, []string{"/spread/x"}, clients), e2e.LoadPaths(b.T, fmt.Sprintf("127.0.0.1:%d", port), []string{"/robin/x"}, clients)}
	<-time.After(lasts) // the time that is measured
	for i, stop := range stops {
		results[i] = stop()
		if results[i].Failed > 0 {
			return fmt.Errorf("way %d: %v", i, results[i])
		}
	}
	share := func(way int) float64 {
		all := 0.0
		for i := range counts[way] {
			all += float64(counts[way][i].Load())
		}
		return 100 * float64(counts[way][0].Load()) / all
	}
	figure(b.T, "HAProxy %s: ten backends, one ten times slower: pool %.1f %% of requests to it, p99 %s, %d requests; round robin %.1f %%, p99 %s, %d requests", h.Version,
		share(0), results[0].Latency(.99).Round(time.Millisecond), results[0].Requests, share(1), results[1].Latency(.99).Round(time.Millisecond), results[1].Requests)
	return nil
}
