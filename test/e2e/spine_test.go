package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// each runs a test on every HAProxy, side by side with other tests.
func each(t *testing.T, f func(t *testing.T, h haproxytest.HAProxy)) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		f(t, h)
	})
}

// fetch sends one request over a connection of its own.
func fetch(t *testing.T, addr, path string) (status int, node, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	}()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("X-Node"), string(data)
}

func three(t *testing.T) []*Node {
	return []*Node{NewNode(t, "a"), NewNode(t, "b"), NewNode(t, "c")}
}

func list(nodes ...*Node) string {
	var addrs []string
	for _, n := range nodes {
		addrs = append(addrs, n.Addr)
	}
	return strings.Join(addrs, ",")
}

// TestSpine is the day of an operator of system 1: start, list, add, remove, a node that dies and comes back, stop.
func TestSpine(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		b := Start(t, h, "--nodes", list(n...))
		b.WaitOnline(n...)
		b.WaitApplied()

		// Every path stays with its node, and the query has no part in it.
		home := map[string]string{}
		for i := range 60 {
			path := fmt.Sprintf("/r/app/f%d", i)
			_, home[path], _ = fetch(t, b.Traffic, path)
		}
		used := map[string]int{}
		for path, node := range home {
			used[node]++
			if _, again, _ := fetch(t, b.Traffic, path+"?q=1"); again != node || node == "" {
				t.Errorf("%s: %q, then %q", path, node, again)
			}
		}
		if len(used) != 3 {
			t.Errorf("paths are spread over %v", used)
		}

		// A node that goes takes only its own paths along.
		b.Delete(n[2].Addr)
		b.WaitOnline(n[0], n[1])
		b.WaitApplied()
		for path, node := range home {
			_, now, _ := fetch(t, b.Traffic, path)
			if now == "c" || node != "c" && now != node {
				t.Errorf("%s moved from %s to %s when c went", path, node, now)
			}
		}
		b.Put(n[2].Addr)
		b.Put(n[2].Addr)
		b.WaitOnline(n...)
		b.WaitApplied()
		for path, node := range home {
			if _, now, _ := fetch(t, b.Traffic, path); now != node {
				t.Errorf("%s is at %s after c came back, was at %s", path, now, node)
			}
		}

		// The traffic port knows nothing of /1/lb/ here.
		if status, node, _ := fetch(t, b.Traffic, "/1/lb/nodes"); status != 200 || node == "" {
			t.Errorf("/1/lb/nodes on the traffic port: %d from %q", status, node)
		}

		// A node that dies is told once and comes back by itself.
		mark := len(b.Log())
		addr := n[1].Addr
		n[1].Close()
		mark = b.WaitLog(mark, "is unhealthy", addr)
		b.Eventually(func() string {
			if nodes, err := b.Nodes(); err != nil || nodes[addr] != "offline" {
				return fmt.Sprint(nodes, err)
			}
			return ""
		})
		n[1] = NewNodeAt(t, "b", addr)
		b.WaitLog(mark, "is healthy", addr)
		b.WaitOnline(n...)

		st := b.Status()
		if st.Phase != model.Serving || st.LastApply == nil || st.LastApply.Method != model.Runtime || b.reloads() != 0 || len(st.LastApply.Reasons) == 0 || st.LastApply.Millis <= 0 {
			t.Errorf("status %+v, last apply %+v", st, st.LastApply)
		}
		var ready struct{ Degraded []string }
		if err := b.Get("/readyz", &ready); err != nil || len(ready.Degraded) != 0 {
			t.Errorf("readyz: %+v, %v", ready, err)
		}
		stopClean(t, b, st.HAProxy.Master, st.HAProxy.Worker)
	})
}

// stopClean stops fnlb and looks for what is left behind.
func stopClean(t *testing.T, b *Balancer, pids ...int) {
	t.Helper()
	b.Signal(syscall.SIGTERM)
	if code := b.WaitExit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, pid := range pids {
		if pid == 0 || Alive(pid) {
			t.Errorf("process %d is there after the stop", pid)
		}
	}
	err := filepath.WalkDir(b.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := filepath.Base(path)
		if d.Type()&os.ModeSocket != 0 || strings.HasSuffix(name, ".pid") || strings.HasSuffix(name, ".lock") || strings.Contains(name, "candidate") {
			t.Errorf("%s is left behind", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if !Free(b.Traffic) || !Free(b.Mgmt) {
		t.Error("a port is taken after the stop")
	}
}

// TestNoNodes: the ports open at once, clients get JSON, management works, and the first node is served when it comes.
func TestNoNodes(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		b := Start(t, h)
		b.WaitLog(0, "haproxy started")
		status, _, body := fetch(t, b.Traffic, "/x")
		if status != 503 || !strings.HasPrefix(body, `{"error":{"message":"`) {
			t.Errorf("%d %s", status, body)
		}
		if nodes, err := b.Nodes(); err != nil || len(nodes) != 0 {
			t.Errorf("%v %v", nodes, err)
		}
		n := NewNode(t, "a")
		b.Put(n.Addr)
		b.WaitOnline(n)
		if status, node, _ := fetch(t, b.Traffic, "/x"); status != 200 || node != "a" {
			t.Errorf("%d from %q", status, node)
		}
	})
}

// TestSharedPort: management on the traffic port, reached by HAProxy that has dropped root, judged by the client's own address.
func TestSharedPort(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		dir, port := TempDir(t), haproxytest.FreePort(t)
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		b := &Balancer{T: t, Dir: dir, Traffic: addr, Mgmt: addr}
		b.Run(h, "--nodes", n.Addr)
		b.WaitLog(0, "haproxy started")
		b.WaitOnline(n)
		worker := b.Status().HAProxy.Worker
		if os.Getuid() == 0 {
			if uid := uidOf(t, worker); uid == 0 {
				t.Error("the worker runs as root")
			}
		}
		for path, want := range map[string]string{ // the rest of /1/lb/ is the nodes'
			"/1/lb/other": "a", "/1/lb/nodes/": "a", "//1/lb/nodes": "a", "/1/lb/nodes?x=1": "", "/1/lb/healthz": "", "/healthz": "a",
		} {
			if status, node, body := fetch(t, addr, path); status != 200 || node != want {
				t.Errorf("%s: %d from %q: %s", path, status, node, body)
			}
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/1/lb/nodes", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-For", "127.0.0.1")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("through another proxy: %d", resp.StatusCode)
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestSharedPortPeer: a client whose address is not in the ranges is refused: its own address arrives, not HAProxy's.
func TestSharedPortPeer(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		port := haproxytest.FreePort(t)
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		b := &Balancer{T: t, Dir: TempDir(t), Traffic: addr, Mgmt: addr}
		b.Run(h, "--mgmt-allow", "127.0.0.9/32")
		b.WaitLog(0, "haproxy started")
		if status, _, body := fetch(t, addr, "/1/lb/nodes"); status != 403 || !strings.Contains(body, "127.0.0.1 may not") {
			t.Errorf("%d %s", status, body)
		}
		if status, _, _ := fetch(t, addr, "/1/lb/healthz"); status != 200 {
			t.Errorf("healthz asks for nothing, and answers %d", status)
		}
	})
}

// TestNeverPasses: what came back and which flag to change stand in log and status.
func TestNeverPasses(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "old")
		old := `{"version":"0.0.100"}`
		n.Version.Store(&old)
		b := Start(t, h, "--nodes", n.Addr)
		b.WaitLog(0, "is unhealthy", n.Addr, "0.0.100", "--min-api-version")
		b.Eventually(func() string {
			for _, s := range b.Status().Servers {
				if s.Health == model.Pending && strings.Contains(s.LastCheck, "0.0.100") && strings.Contains(s.Mend, "--min-api-version") {
					return ""
				}
			}
			return fmt.Sprint(b.Status().Servers)
		})
		good := `{"version":"0.0.235"}`
		n.Version.Store(&good)
		b.WaitOnline(n)
	})
}

// TestGraceful: SIGTERM lets a running request finish; the drain ends with it, and exit is 0.
func TestGraceful(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT} {
		t.Run(sig.String(), func(t *testing.T) {
			each(t, func(t *testing.T, h haproxytest.HAProxy) {
				n := NewNode(t, "slow")
				arrived, release := make(chan struct{}), make(chan struct{})
				slow := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					close(arrived)
					<-release
					_, _ = io.WriteString(w, "done")
				})
				b := Start(t, h, "--nodes", n.Addr)
				b.WaitOnline(n)
				n.Handler.Store(&slow)
				answer := make(chan string, 1)
				go func() {
					resp, err := http.Get("http://" + b.Traffic + "/slow")
					if err != nil {
						answer <- err.Error()
						return
					}
					data, err := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					answer <- fmt.Sprint(string(data), err)
				}()
				<-arrived
				b.Signal(sig)
				b.WaitLog(0, "stopping")
				b.Eventually(func() string {
					if !Free(b.Traffic) {
						return "the traffic port is open"
					}
					return ""
				})
				close(release)
				if got := <-answer; got != "done<nil>" {
					t.Errorf("the running request got %q", got)
				}
				if code := b.WaitExit(); code != 0 {
					t.Errorf("exit code %d", code)
				}
			})
		})
	}
}

// TestStopLimits: shutdown-timeout cuts what does not end, and so does a second signal.
func TestStopLimits(t *testing.T) {
	for _, limit := range []string{"1", "0"} {
		t.Run("limit "+limit, func(t *testing.T) {
			each(t, func(t *testing.T, h haproxytest.HAProxy) {
				n := NewNode(t, "stuck")
				arrived := make(chan struct{})
				stuck := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					close(arrived)
					<-r.Context().Done()
				})
				b := Start(t, h, "--nodes", n.Addr, "--shutdown-timeout", limit)
				b.WaitOnline(n)
				n.Handler.Store(&stuck)
				done := make(chan struct{})
				go func() {
					defer close(done)
					resp, err := http.Get("http://" + b.Traffic + "/stuck")
					if err == nil {
						_ = resp.Body.Close()
					}
				}()
				<-arrived
				begin := time.Now()
				b.Signal(syscall.SIGTERM)
				mark := b.WaitLog(0, "stopping")
				if limit == "0" {
					b.Signal(syscall.SIGTERM)
					b.WaitLog(mark, "second signal")
				}
				if code := b.WaitExit(); code != 0 {
					t.Errorf("exit code %d", code)
				}
				if limit == "1" && time.Since(begin) < 900*time.Millisecond {
					t.Errorf("it did not wait for the limit: %s", time.Since(begin))
				}
				<-done
			})
		})
	}
}

// TestSecond: a second fnlb on the same run directory or the same configuration file is refused and harms nothing.
func TestSecond(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		b := Start(t, h, "--nodes", n.Addr)
		b.WaitOnline(n)
		for _, flags := range [][]string{{"--run-dir", b.Dir}, {"--haproxy-config", filepath.Join(b.Dir, "haproxy.cfg")}} {
			c := Start(t, h, flags...)
			if code := c.WaitExit(); code != 1 || !strings.Contains(c.Log(), fmt.Sprintf("another fnlb (pid %d)", b.Cmd.Process.Pid)) || !strings.Contains(c.Log(), flags[0]) {
				t.Errorf("%v: exit code %d, %s", flags, code, c.Log())
			}
		}
		if status, node, _ := fetch(t, b.Traffic, "/"); status != 200 || node != "a" {
			t.Errorf("the first one answers %d", status)
		}
	})
}
