package pools

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	pb "github.com/fnlb/fnlb/proto/rollout/lb"
	"github.com/fnlb/fnlb/test/e2e"
	"github.com/fnlb/fnlb/test/load"
)

// apply is a row of /1/lb/changes.
type apply struct {
	Method  string
	Reasons []string
}

// changes lists the applies, oldest first.
func (b *balancer) changes() []apply {
	b.T.Helper()
	var out struct{ Changes []apply }
	if err := b.Get("/1/lb/changes", &out); err != nil {
		b.T.Fatal(err)
	}
	return out.Changes
}

// services lists the backends of pools in the configuration, once it is what runs and the number of spare ones is kept for the next process.
func (b *balancer) services() string {
	b.T.Helper()
	var out []string
	b.Eventually(func() string {
		if st := b.Status(); st.HAProxy.Behind || st.Applied != st.Wanted {
			return fmt.Sprintf("%d of %d is in force, behind %v", st.Applied, st.Wanted, st.HAProxy.Behind)
		}
		config, err := os.ReadFile(b.Config)
		if err != nil {
			return err.Error()
		}
		kept, err := os.ReadFile(filepath.Join(b.Dir, "sources", "spares.json"))
		if err != nil {
			return err.Error()
		}
		out = nil
		for line := range strings.Lines(string(config)) {
			if name, ok := strings.CutPrefix(line, "backend pool:"); ok {
				name = strings.TrimSpace(name)
				if out = append(out, name); !strings.Contains(string(kept), `"name":"pool:`+name+`"`) {
					return name + " is not kept"
				}
			}
		}
		return ""
	})
	return strings.Join(out, " ")
}

// waitBody waits until a URL is answered by this one.
func (b *balancer) waitBody(url, want string) {
	b.T.Helper()
	b.Eventually(func() string {
		if code, body := b.get(url); !strings.HasPrefix(fmt.Sprint(code, " ", body), want) {
			return fmt.Sprintf("%s: %d %s, want %s", url, code, body, want)
		}
		return ""
	})
}

// addRare adds a pool whose backends are checked so seldom, in seconds.
func (b *balancer) addRare(pattern string, interval int32) {
	b.T.Helper()
	checks := healthz()
	checks.IntervalSecs = interval
	if _, err := b.AddPool(b.context(), &pb.AddPoolReq{Pattern: pattern, PoolType: pb.PoolType_PT_P2C, HealthChecks: checks}); err != nil {
		b.T.Fatal(err)
	}
}

// addSurely adds a backend, again where this process was too busy to answer its check within the second of the contract.
func (b *balancer) addSurely(pattern string, w *web) {
	b.T.Helper()
	b.Eventually(func() string {
		_, err := b.AddBackend(b.context(), &pb.AddBackendReq{Pattern: pattern, Backend: w.backend("")})
		if code := status.Code(err); code != codes.OK && code != codes.FailedPrecondition {
			b.T.Fatal(err)
		}
		return text(err)
	})
}

// TestSpares adds and removes many pools under load: what HAProxy is reloaded for is more spare services alone, no request of another pool
// fails, and each pool's own requests come to its own backend. The services outlive a restart with a file, and one of the process with HAProxy.
func TestSpares(t *testing.T) {
	const pools = 40
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		args := []string{"--listen", "", "--db", "sqlite3://" + filepath.Join(e2e.TempDir(t), "fnlb.db")}
		b := start(t, h, args...)
		b.addRare("/other/", 3600) // it is not sick because the host is busy
		for range 3 {
			b.addSurely("/other/", newWeb(t, "other"))
		}
		b.waitBody("/other/x", "200 other /other/x")
		done := e2e.LoadPaths(t, b.HTTP, []string{"/other/y"}, []load.Group{
			{Name: "fresh", Workers: 1, Think: 20 * time.Millisecond}, {Name: "keep-alive", KeepAlive: true, Workers: 2, Think: 20 * time.Millisecond},
		})
		webs := []*web{newWeb(t, "a"), newWeb(t, "b"), newWeb(t, "c")}
		for i := range pools {
			pattern, w := fmt.Sprintf("/%d/", i), webs[i%len(webs)]
			b.addRare(pattern, 10)
			b.addSurely(pattern, w)
			b.waitBody(pattern+"x", "200 "+w.name+" ")
		}
		for i := range pools { // half of them again in other services, while those of the removed ones are free
			pattern, w := fmt.Sprintf("/%d/", i), webs[(i+1)%len(webs)]
			if _, err := b.RemovePool(b.context(), &pb.RemovePoolReq{Pattern: pattern}); err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				b.addRare(pattern+"again/", 10)
				b.addSurely(pattern+"again/", w)
				b.waitBody(pattern+"again/x", "200 "+w.name+" ")
			}
			b.waitBody(pattern+"x", "404")
		}
		if r := done(); r.Failed > 0 || r.Requests < pools {
			t.Errorf("%v", r)
		} else {
			t.Logf("HAProxy %s: %v", h.Version, r)
		}
		grown := 0
		for _, c := range b.changes() { // the last 200
			if c.Method != "reload" {
				continue
			}
			grown++
			for _, why := range c.Reasons { // entries of maps and servers may come at the same time
				cause, _, _ := strings.Cut(why, " ")
				if !strings.HasPrefix(why, "backend-added pool:") && !slices.Contains([]string{"map", "server-added", "server-removed"}, cause) {
					t.Errorf("reload for %q", c.Reasons)
				}
			}
		}
		if grown > 10 { // 8 for the rule of others, then 16, 24, 36, 54
			t.Errorf("%d reloads for more services", grown)
		}
		names := b.services()
		if n := len(strings.Fields(names)); n != 8+54 {
			t.Errorf("%d services", n)
		}

		b.Signal(syscall.SIGKILL) // HAProxy goes on
		b.WaitExit()
		b.run(h, args...)
		b.addRare("/later/", 10)
		b.addSurely("/later/", webs[0])
		b.waitBody("/later/x", "200 a ")
		b.waitBody("/0/again/x", "200 b ")
		if got := b.services(); got != names {
			t.Errorf("after an adoption: %s\nwant %s", got, names)
		}
		if n := b.reloads(); n != 0 {
			t.Errorf("%d reloads after an adoption: %v", n, b.changes())
		}
		stop(b.Balancer)
		b.run(h, args...)
		for url, want := range map[string]string{"/later/x": "200 a ", "/0/again/x": "200 b ", "/38/again/x": "200 " + webs[39%len(webs)].name, "/other/x": "200 other "} {
			b.waitBody(url, want)
		}
		if n := b.reloads(); n != 0 {
			t.Errorf("%d reloads after a start: %v", n, b.changes())
		}
	})
}

// ask gives the body of a page, or what went wrong; it may wait for as long as the test does.
func (b *balancer) ask(path string) string {
	req, err := http.NewRequestWithContext(b.T.Context(), http.MethodGet, "http://"+b.HTTP+path, http.NoBody)
	if err != nil {
		return err.Error()
	}
	req.Close = true
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return err.Error()
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err.Error()
	}
	return string(body)
}

// TestSpareTaken: while a balancer is away, another one of the same store gives the service of a pool to another pool. That has nothing of the
// earlier one, not even while that one's last request runs and both change at once, and it is no reload.
func TestSpareTaken(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		args := []string{"--listen", "", "--db", "sqlite3://" + filepath.Join(e2e.TempDir(t), "fnlb.db")}
		b := start(t, h, args...)
		old, next := newWeb(t, "old"), newWeb(t, "next")
		old.hold, old.held = make(chan struct{}), make(chan struct{})
		release := sync.OnceFunc(func() { close(old.hold) })
		t.Cleanup(release) // before its server is closed, which waits for it
		b.addPool("/first/")
		b.addSurely("/first/", old)
		b.waitBody("/first/x", "200 old ")
		running := make(chan string, 1)
		go func() { running <- b.ask("/first/hold") }()
		<-old.held
		names := b.services()
		b.Signal(syscall.SIGKILL) // HAProxy goes on
		b.WaitExit()

		other := start(t, h, args...)
		if _, err := other.RemovePool(b.context(), &pb.RemovePoolReq{Pattern: "/first/"}); err != nil {
			t.Fatal(err)
		}
		stop(other.Balancer)
		other.run(h, args...) // it does not know which service was taken lately
		other.addPool("/second/")
		other.addSurely("/second/", next)
		other.waitBody("/second/x", "200 next ")
		stop(other.Balancer)

		ended, asked := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(asked)
			for {
				for pattern, wrong := range map[string]string{"/first/": "next", "/second/": "old"} {
					if body := b.ask(pattern + "y"); strings.HasPrefix(body, wrong) {
						t.Errorf("%s is served by %s", pattern, wrong)
					}
				}
				select {
				case <-ended:
					return
				default:
				}
			}
		}()
		t.Cleanup(func() { <-asked })
		finish := sync.OnceFunc(func() { close(ended) })
		t.Cleanup(finish)
		b.run(h, args...)
		b.waitBody("/second/x", "200 next ")
		b.waitBody("/first/x", "404 ")
		finish()
		if got := b.services(); got != names {
			t.Errorf("%s\nwant %s", got, names)
		}
		if n := b.reloads(); n != 0 {
			t.Errorf("%d reloads: %v", n, b.changes())
		}
		release()
		if got := <-running; !strings.HasPrefix(got, "old ") {
			t.Errorf("the request that ran: %s", got)
		}
	})
}
