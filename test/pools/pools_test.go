package pools

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	pb "github.com/fnlb/fnlb/proto/rollout/lb"
	"github.com/fnlb/fnlb/test/e2e"
	"github.com/fnlb/fnlb/test/load"
)

func TestMain(m *testing.M) { os.Exit(e2e.Main(m)) }

// balancer is one with pools.
type balancer struct {
	*e2e.Balancer
	HTTP string // where patterns are served
	RPC  string
	pb.LoadBalancerClient
}

// start gives one that answers; more are further arguments, which come last and win.
func start(t *testing.T, h haproxytest.HAProxy, more ...string) *balancer {
	t.Helper()
	ports := haproxytest.FreePorts(t, 2)
	b := &balancer{Balancer: e2e.New(t, e2e.TempDir(t)), HTTP: fmt.Sprintf("127.0.0.1:%d", ports[0]), RPC: fmt.Sprintf("127.0.0.1:%d", ports[1])}
	b.run(h, more...)
	conn, err := grpc.NewClient("passthrough:///"+b.RPC, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	b.LoadBalancerClient = pb.NewLoadBalancerClient(conn)
	return b
}

func (b *balancer) run(h haproxytest.HAProxy, more ...string) {
	b.T.Helper()
	b.Run(h, append([]string{"--pools-http-listen", b.HTTP, "--pools-listen", b.RPC}, more...)...)
	b.Eventually(func() string {
		conn, err := (&net.Dialer{}).DialContext(b.T.Context(), "tcp", b.RPC)
		if err != nil {
			return err.Error()
		}
		return text(conn.Close())
	})
}

func text(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

// each runs a test on every HAProxy, side by side with other tests.
func each(t *testing.T, f func(t *testing.T, h haproxytest.HAProxy)) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		f(t, h)
	})
}

func (b *balancer) context() context.Context {
	ctx, cancel := context.WithTimeout(b.T.Context(), e2e.Patience)
	b.T.Cleanup(cancel)
	return ctx
}

// web is a backend: it answers checks and names itself.
type web struct {
	name   string
	server *httptest.Server
	sick   atomic.Bool
	busy   atomic.Int64

	hold, held chan struct{} // of the first request for …/hold: until when it waits, and that it does
	once       sync.Once
}

func newWeb(t *testing.T, name string) *web {
	w := &web{name: name}
	w.server = httptest.NewServer(w)
	t.Cleanup(w.server.Close)
	return w
}

func (w *web) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		if w.sick.Load() {
			_, _ = io.WriteString(out, "not well")
			return
		}
		_, _ = io.WriteString(out, " ok\n")
		return
	}
	w.busy.Add(1)
	defer w.busy.Add(-1)
	if w.hold != nil && strings.HasSuffix(r.URL.Path, "/hold") {
		w.once.Do(func() { close(w.held) })
		<-w.hold
	}
	_, _ = fmt.Fprintf(out, "%s %s", w.name, r.URL.RequestURI())
}

func (w *web) backend(base string) *pb.Backend {
	addr := w.server.Listener.Addr().(*net.TCPAddr)
	return &pb.Backend{Backend: &pb.Backend_IpBackend{IpBackend: &pb.IPBackend{Ip: addr.IP.String(), Port: int32(addr.Port), UrlPath: base}}}
}

// healthz is the check that cli's addPool asks for, with an interval of a second.
func healthz() *pb.HealthChecks {
	check := &pb.HealthCheck{HealthCheck: &pb.HealthCheck_StatusCheck{StatusCheck: &pb.StatusCheck{UrlPath: "/healthz", HealthyValues: []string{"ok", "OK"}}}}
	return &pb.HealthChecks{HealthChecks: []*pb.HealthCheck{check}, IntervalSecs: 1}
}

func (b *balancer) addPool(pattern string) {
	b.T.Helper()
	if _, err := b.AddPool(b.context(), &pb.AddPoolReq{Pattern: pattern, PoolType: pb.PoolType_PT_P2C, HealthChecks: healthz()}); err != nil {
		b.T.Fatal(err)
	}
}

func (b *balancer) add(pattern string, w *web, base string) {
	b.T.Helper()
	if _, err := b.AddBackend(b.context(), &pb.AddBackendReq{Pattern: pattern, Backend: w.backend(base)}); err != nil {
		b.T.Fatal(err)
	}
}

func (b *balancer) remove(pattern string, w *web) {
	b.T.Helper()
	if _, err := b.RemoveBackend(b.context(), &pb.RemoveBackendReq{Pattern: pattern, Backend: w.backend("")}); err != nil {
		b.T.Fatal(err)
	}
}

// get asks for a page, [HOST]/PATH, over a connection of its own; 0 where there is no answer.
func (b *balancer) get(url string) (int, string) {
	b.T.Helper()
	host, path, _ := strings.Cut(url, "/")
	req, err := http.NewRequestWithContext(b.context(), http.MethodGet, "http://"+b.HTTP+"/"+path, http.NoBody)
	if err != nil {
		b.T.Fatal(err)
	}
	if host != "" {
		req.Host = host
	}
	req.Close = true
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0, err.Error()
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		b.T.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// reloads counts them.
func (b *balancer) reloads() (n int) {
	b.T.Helper()
	var changes struct{ Changes []struct{ Method string } }
	if err := b.Get("/1/lb/changes", &changes); err != nil {
		b.T.Fatal(err)
	}
	for _, c := range changes.Changes {
		if c.Method == "reload" {
			n++
		}
	}
	return n
}

func stop(b *e2e.Balancer) {
	b.T.Helper()
	b.Signal(syscall.SIGTERM)
	if code := b.WaitExit(); code != 0 {
		b.T.Fatalf("fnlb ends with %d", code)
	}
}

// build makes binaries in a folder.
func build(t *testing.T, names ...string) (dir string) {
	t.Helper()
	dir = e2e.TempDir(t)
	for _, name := range names {
		if out, err := exec.Command("go", "build", "-C", "../..", "-o", filepath.Join(dir, filepath.Base(name)), "./"+name).CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	return dir
}

// TestDocumented runs the commands of the book's page as they stand, with fnlb and cli in place of go run, on ports of the test's own.
func TestDocumented(t *testing.T) {
	bin := build(t, "cli", "sample/web")
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		ports := haproxytest.FreePorts(t, 2)
		var webs []string
		for i, port := range ports {
			cmd := exec.Command(filepath.Join(bin, "web"), "--port="+strconv.Itoa(port), fmt.Sprintf("--node=n%d", i))
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
					t.Error(err)
				}
			})
			webs = append(webs, fmt.Sprintf("127.0.0.1:%d", port))
		}
		b := start(t, h, "--listen", "")
		cli := func(args ...string) (string, error) {
			out, err := exec.Command(filepath.Join(bin, "cli"), append([]string{"--lb=" + b.RPC, "--pattern=/"}, args...)...).CombinedOutput()
			return string(out), err
		}
		ok := func(want string, args ...string) {
			t.Helper()
			if out, err := cli(args...); err != nil || out != want {
				t.Fatalf("cli %q: %v, printed %q, want %q", args, err, out, want)
			}
		}
		refused := func(says string, args ...string) {
			t.Helper()
			out, err := cli(args...)
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(out, says) || strings.Count(out, "\n") != 1 {
				t.Errorf("cli %q: %v, printed %q, want 1 with %q", args, err, out, says)
			}
		}
		b.Eventually(func() string { // the samples listen
			for _, w := range webs {
				conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", w)
				if err != nil {
					return err.Error()
				}
				if err := conn.Close(); err != nil {
					return err.Error()
				}
			}
			return ""
		})
		diff := slices.Concat([]string{"diff"}, b.Cmd.Args[1:])
		b.Eventually(func() string { // spare services are no difference
			if out, err := exec.Command(b.Cmd.Args[0], diff...).CombinedOutput(); err != nil {
				return fmt.Sprintf("%v: %s", err, out)
			}
			return ""
		})
		before := b.reloads()
		ok("", "addPool")
		width := max(len(webs[0]), len(webs[1]))
		table := func(rows ...string) string {
			out := "Pool  Status    \n"
			if len(rows) > 0 {
				out = "Pool  Status   \n/     PS_FULL  \n"
			} else {
				out += "/     PS_EMPTY  \n"
			}
			if len(rows) == 0 {
				return out + "Backend  Status  \n"
			}
			out += fmt.Sprintf("%-*s  Status      \n", width, "Backend")
			for _, r := range rows {
				out += fmt.Sprintf("%-*s  BS_HEALTHY  \n", width, r)
			}
			return out
		}
		ok(table(), "poolHealth")
		if code, _ := b.get("/x"); code != http.StatusServiceUnavailable {
			t.Errorf("an empty pool answers with %d", code)
		}
		for i, port := range ports {
			ok("", "--ip=127.0.0.1", fmt.Sprintf("--port=%d", port), "--url_path=/", "addBackend")
			_ = i
		}
		if ports[0] > ports[1] { // they are listed in order
			webs[0], webs[1] = webs[1], webs[0]
		}
		ok(table(webs...), "poolHealth")
		if code, body := b.get("/any/path"); code != http.StatusOK || !strings.HasPrefix(body, "Hello web from node n") {
			t.Errorf("%d %s", code, body)
		}
		refused("AlreadyExists: backend already exists", "--ip=127.0.0.1", fmt.Sprintf("--port=%d", ports[0]), "--url_path=/", "addBackend")
		refused("AlreadyExists: pattern(/) is already registered", "addPool")
		refused("FailedPrecondition: backend is sick: ", "--ip=127.0.0.1", "--port=1", "addBackend")
		ok("", "--ip=127.0.0.1", fmt.Sprintf("--port=%d", ports[0]), "--url_path=/", "removeBackend")
		ok("", "--ip=127.0.0.1", fmt.Sprintf("--port=%d", ports[0]), "--url_path=/", "removeBackend") // an unknown one
		ok("", "removePool")
		ok("", "removePool")
		refused("NotFound: pool(/) not found", "poolHealth")
		b.Eventually(func() string {
			if code, body := b.get("/x"); code != http.StatusNotFound {
				return fmt.Sprint(code, body)
			}
			return ""
		})
		if n := b.reloads() - before; n != 0 {
			t.Errorf("%d reloads", n)
		}
	})
}

// TestRollout replaces 20 backends one by one under load, as the rollout program does: no request fails, HAProxy is not reloaded.
func TestRollout(t *testing.T) {
	const backends = 20
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		b := start(t, h, "--listen", "")
		b.addPool("/")
		var old []*web
		for i := range backends {
			old = append(old, newWeb(t, fmt.Sprintf("old%d", i)))
			b.add("/", old[i], "/")
		}
		before := b.reloads()
		done := e2e.Load(t, b.HTTP, []load.Group{
			{Name: "fresh", Workers: 3, Think: 10 * time.Millisecond}, {Name: "keep-alive", KeepAlive: true, Workers: 6, Think: 5 * time.Millisecond},
		})
		for i, w := range old {
			b.remove("/", w)
			next := newWeb(t, fmt.Sprintf("new%d", i))
			b.add("/", next, "/")
			b.Eventually(func() string { // the program waits for the requests that run
				if n := w.busy.Load(); n > 0 {
					return fmt.Sprintf("%d requests run", n)
				}
				return ""
			})
			w.server.CloseClientConnections()
			w.server.Close()
		}
		if r := done(); r.Failed > 0 || r.Requests < backends {
			t.Errorf("%v", r)
		} else {
			t.Logf("HAProxy %s: %v", h.Version, r)
		}
		if after := b.reloads(); after != before {
			t.Errorf("%d reloads", after-before)
		}
		health, err := b.PoolHealth(b.context(), &pb.PoolHealthReq{Pattern: "/", Healthy: true, Sick: true})
		if err != nil || len(health.GetHealth().GetBackends()) != backends {
			t.Errorf("%v, %v", health, err)
		}
	})
}

// TestPatterns: patterns come before the nodes of one port; a sick backend leaves and comes back; pools outlive a restart with a file, and
// one of the process with HAProxy.
func TestPatterns(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		node := e2e.NewNode(t, "node")
		db := "sqlite3://" + filepath.Join(e2e.TempDir(t), "fnlb.db")
		ports := haproxytest.FreePorts(t, 1)
		shared := fmt.Sprintf("127.0.0.1:%d", ports[0])
		args := []string{"--listen", shared, "--pools-http-listen", shared, "--nodes", node.Addr, "--db", db}
		b := start(t, h, args...)
		b.HTTP = shared
		b.WaitOnline(node)
		sub, host := newWeb(t, "sub"), newWeb(t, "host")
		b.addPool("/sub/")
		b.addPool("h.example/")
		b.add("/sub/", sub, "/base/")
		b.add("h.example/", host, "")
		serves := func(url, want string) {
			t.Helper()
			b.Eventually(func() string {
				if _, body := b.get(url); !strings.HasPrefix(body, want) {
					return fmt.Sprintf("%s: %s, want %s", url, body, want)
				}
				return ""
			})
		}
		all := func() {
			t.Helper()
			serves("/sub/x?q=1", "sub /base/sub/x?q=1")
			serves("h.example/x", "host /x")
			serves("h.example/sub/x", "host /sub/x")
			serves("/else", "hello from node")
		}
		all()
		if code, _ := b.get("/sub"); code != http.StatusMovedPermanently {
			t.Errorf("without its slash: %d", code)
		}
		other := newWeb(t, "other")
		_, err := b.AddBackend(b.context(), &pb.AddBackendReq{Pattern: "/sub/", Backend: other.backend("/elsewhere")})
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("another base path: %v", err)
		}

		mark := len(b.Log())
		sub.sick.Store(true)
		health := func(want pb.PoolStatus) {
			t.Helper()
			b.Eventually(func() string {
				got, err := b.PoolHealth(b.context(), &pb.PoolHealthReq{Pattern: "/sub/", Sick: true})
				if err != nil || got.GetHealth().GetStatus() != want {
					return fmt.Sprintf("%v, %v, want %s", got, err, want)
				}
				return ""
			})
		}
		health(pb.PoolStatus_PS_DEGRADED)
		if code, _ := b.get("/sub/x"); code != http.StatusServiceUnavailable {
			t.Errorf("the only backend is sick: %d", code)
		}
		sub.sick.Store(false)
		health(pb.PoolStatus_PS_FULL)
		all()
		b.WaitLog(b.WaitLog(mark, "level=WARN", "backend "+sub.server.URL+" became sick"), "level=INFO", "backend "+sub.server.URL+" became healthy")

		b.Signal(syscall.SIGKILL) // HAProxy goes on
		b.WaitExit()
		b.run(h, args...)
		all()
		stop(b.Balancer)
		b.run(h, args...)
		all()
		if _, err := b.RemovePool(b.context(), &pb.RemovePoolReq{Pattern: "/sub/"}); err != nil {
			t.Fatal(err)
		}
		serves("/sub/x", "hello from node")
	})
}
