package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/test/load"
)

// underLoad runs f while clients that never retry send requests, fresh and kept alive, some with long think times; every single
// answer must be good.
func underLoad(t *testing.T, addr string, f func()) load.Result {
	t.Helper()
	stop := Load(t, addr, Clients(3*time.Second))
	f()
	result := stop()
	if result.Failed > 0 {
		t.Errorf("%d requests failed of %s", result.Failed, result)
		for i, f := range result.Failures {
			if i == 5 {
				break
			}
			t.Log(f)
		}
	}
	return result
}

// TestChangesUnderLoad: nodes come and go and the template changes, and no request is lost. bench/ does the same for longer.
func TestChangesUnderLoad(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := append(three(t), NewNode(t, "d"))
		tmpl := filepath.Join(TempDir(t), "haproxy.tmpl")
		touchTemplate(t, tmpl, 0)
		b := Start(t, h, "--nodes", list(n[:3]...), "--template", tmpl)
		b.WaitOnline(n[:3]...)
		b.WaitApplied()
		underLoad(t, b.Traffic, func() {
			for i := range 6 {
				if i%2 == 0 {
					b.Put(n[3].Addr)
					b.WaitOnline(n...)
				} else {
					b.Delete(n[3].Addr)
					b.WaitOnline(n[:3]...)
				}
				b.WaitApplied()
				mark := len(b.Log())
				touchTemplate(t, tmpl, i+1)
				if i%2 == 0 {
					b.Signal(syscall.SIGHUP) // otherwise it is noticed a moment later
				}
				b.WaitLog(mark, "msg=reloaded")
			}
		})
	})
}

// touchTemplate writes the built-in template with a comment of its own.
func touchTemplate(t *testing.T, path string, i int, more ...string) {
	t.Helper()
	builtin, err := os.ReadFile("../../templates/haproxy.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	text := string(builtin) + fmt.Sprintf("\n# change %d\n", i) + strings.Join(more, "\n") + "\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestPortTaken is fault row 4: a new listener whose port another process has is refused before any reload, with that process
// named, and not one request is lost on the ports that were there.
func TestPortTaken(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		tmpl := filepath.Join(TempDir(t), "haproxy.tmpl")
		touchTemplate(t, tmpl, 0)
		b := Start(t, h, "--nodes", n.Addr, "--template", tmpl)
		b.WaitOnline(n)
		b.WaitApplied()
		other, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := other.Close(); err != nil {
				t.Error(err)
			}
		}()
		worker := b.Status().HAProxy.Worker
		underLoad(t, b.Traffic, func() {
			mark := len(b.Log())
			touchTemplate(t, tmpl, 1, "frontend second", "  bind "+other.Addr().String(), "  timeout client 1s")
			b.Signal(syscall.SIGHUP)
			b.WaitLog(mark, "refused", other.Addr().String(), fmt.Sprint(os.Getpid()))
		})
		b.WaitStatus(func(st model.Status) bool {
			return st.HAProxy.Worker == worker && len(st.Degraded) > 0 && strings.Contains(fmt.Sprint(st.Problems), other.Addr().String())
		})
		// A good one afterwards is applied.
		mark := len(b.Log())
		touchTemplate(t, tmpl, 2)
		b.Signal(syscall.SIGHUP)
		b.WaitLog(mark, "msg=reloaded")
		b.WaitStatus(func(st model.Status) bool { return len(st.Degraded) == 0 })
	})
}

// TestBadTemplate: a template that does not parse, one that HAProxy refuses: the reason is told and what ran goes on.
func TestBadTemplate(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		tmpl := filepath.Join(TempDir(t), "haproxy.tmpl")
		touchTemplate(t, tmpl, 0)
		b := Start(t, h, "--nodes", n.Addr, "--template", tmpl)
		b.WaitOnline(n)
		for text, want := range map[string]string{"{{.Nope": "unclosed action", "global\n  bogus 1\n": "bogus"} {
			mark := len(b.Log())
			if err := os.WriteFile(tmpl, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			b.Signal(syscall.SIGHUP)
			b.WaitLog(mark, want, "what ran goes on")
		}
		if status, node, _ := fetch(t, b.Traffic, "/"); status != 200 || node != "a" {
			t.Errorf("%d from %q", status, node)
		}
		m := NewNode(t, "m") // nodes still change, with the template in force
		b.Put(m.Addr)
		b.WaitOnline(n, m)
	})
}

// TestDeath is fault row 9: worker or master killed, and it serves again at once, with a line that says how it died.
func TestDeath(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		b := Start(t, h, "--nodes", n.Addr)
		b.WaitOnline(n)
		for i, victim := range []func(model.HAProxyStatus) int{
			func(s model.HAProxyStatus) int { return s.Worker }, func(s model.HAProxyStatus) int { return s.Master },
		} {
			st := b.Status()
			mark := len(b.Log())
			begin := time.Now()
			if err := syscall.Kill(victim(st.HAProxy), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			mark = b.WaitLog(mark, "haproxy died", "kill")
			b.WaitLog(mark, "haproxy started")
			t.Logf("serving again after %s", time.Since(begin))
			if status, node, body := fetch(t, b.Traffic, "/"); status != 200 || node != "a" {
				t.Errorf("%d from %q: %s", status, node, body)
			}
			b.WaitStatus(func(now model.Status) bool {
				return now.HAProxy.Restarts == uint64(i+1) && now.Phase == model.Serving && now.HAProxy.Worker != st.HAProxy.Worker
			})
		}
	})
}

// TestFullDisk is fault row 7: with no byte left, or in a folder that is read-only, or while the disk answers with errors, the old files
// stay whole, it is told and traffic goes on; it converges when that is over.
func TestFullDisk(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n, m := NewNode(t, "a"), NewNode(t, "m")
		disk := NewDisk(t)
		b := New(t, disk.Dir)
		b.Run(h, "--nodes", n.Addr)
		b.WaitOnline(n)
		b.WaitApplied()
		for i, bad := range []struct {
			said  string
			begin func() (end func())
		}{
			{"no space left on device", disk.Fill},
			{"read-only file system", disk.ReadOnly},
			{"input/output error", func() func() { return FailCalls(t, b.Cmd.Process.Pid, "fsync,fdatasync", "EIO") }},
		} {
			before, err := os.ReadFile(b.Config)
			if err != nil {
				t.Fatal(err)
			}
			end := bad.begin()
			underLoad(t, b.Traffic, func() {
				mark := len(b.Log())
				if i%2 == 0 {
					b.Put(m.Addr)
				} else {
					b.Delete(m.Addr)
				}
				b.WaitLog(mark, "level=ERROR", bad.said)
			})
			after, err := os.ReadFile(b.Config)
			if err != nil || string(after) != string(before) {
				t.Errorf("the file in force changed while there was %s: %v", bad.said, err)
			}
			b.WaitStatus(func(st model.Status) bool { return strings.Contains(fmt.Sprint(st.Degraded), bad.said) })
			end()
			if i%2 == 0 {
				b.WaitOnline(n, m)
			} else {
				b.WaitOnline(n)
			}
			b.WaitApplied()
			b.WaitStatus(func(st model.Status) bool { return len(st.Degraded) == 0 })
		}
	})
}

// TestFewFiles: HAProxy starts with a limit of 256 open files, and its maxconn follows from it.
func TestFewFiles(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		ports := haproxytest.FreePorts(t, 2)
		b := &Balancer{T: t, Dir: TempDir(t), Traffic: fmt.Sprintf("127.0.0.1:%d", ports[0]), Mgmt: fmt.Sprintf("127.0.0.1:%d", ports[1])}
		b.Cmd = exec.Command("sh", "-c", `ulimit -n 256; exec "$@"`, "sh", Binary(t), "--listen", b.Traffic, "--mgmt-listen", b.Mgmt,
			"--run-dir", b.Dir, "--haproxy", h.Path, "--haproxy-config", filepath.Join(b.Dir, "haproxy.cfg"), "--nodes", n.Addr)
		b.start()
		b.WaitOnline(n)
		if st := b.Status(); st.HAProxy.MaxConn < 50 || st.HAProxy.MaxConn > 128 {
			t.Errorf("maxconn %d", st.HAProxy.MaxConn)
		}
	})
}

// TestForeignReload: somebody overwrites the file and makes HAProxy load it; ours is put back and loaded again.
func TestForeignReload(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		b := Start(t, h, "--nodes", n.Addr)
		b.WaitOnline(n)
		st := b.WaitApplied()
		path := filepath.Join(b.Dir, "haproxy.cfg")
		ours, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var theirs []string
		for line := range strings.Lines(string(ours)) {
			if !strings.Contains(line, n.Addr) {
				theirs = append(theirs, line)
			}
		}
		if err := os.WriteFile(path, []byte(strings.Join(theirs, "")), 0o640); err != nil {
			t.Fatal(err)
		}
		mark := len(b.Log())
		if err := syscall.Kill(st.HAProxy.Master, syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		mark = b.WaitLog(mark, "somebody else made HAProxy reload")
		b.WaitLog(mark, "msg=reloaded", "somebody else")
		b.WaitOnline(n)
		if again, err := os.ReadFile(path); err != nil || string(again) != string(ours) {
			t.Errorf("the file is not ours again: %v", err)
		}
		if status, node, _ := fetch(t, b.Traffic, "/"); status != 200 || node != "a" {
			t.Errorf("%d from %q", status, node)
		}
		b.WaitStatus(func(st model.Status) bool { return len(st.Degraded) == 0 })
	})
}

// TestStorm is fault row 24 from outside: nodes flap by the thousand through the API, applies are coalesced, nothing is lost.
func TestStorm(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		b := Start(t, h, "--nodes", list(n...))
		b.WaitOnline(n...)
		b.WaitApplied()
		applies := len(b.changes())
		underLoad(t, b.Traffic, func() {
			var wg sync.WaitGroup
			for w := range 4 {
				wg.Go(func() {
					for i := range 250 {
						node := fmt.Sprintf("127.0.%d.%d:9", w+1, i%50+1)
						method := "PUT"
						if i/50%2 == 1 {
							method = "DELETE"
						}
						if err := call(b.Mgmt, method, "/1/lb/nodes", fmt.Sprintf(`{"node":%q}`, node), nil); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
		if got := len(b.changes()) - applies; got > 50 {
			t.Errorf("1,000 calls about nodes that never pass made %d applies", got)
		}
		if st := b.WaitApplied(); st.Phase != model.Serving {
			t.Errorf("status %+v", st)
		}
	})
}

func (b *Balancer) changes() []model.Apply {
	b.T.Helper()
	var list struct{ Changes []model.Apply }
	if err := b.Get("/1/lb/changes", &list); err != nil {
		b.T.Fatal(err)
	}
	return list.Changes
}

// TestBadStart: what cannot work is one message with the mend and exit code 1, and nothing is left running.
func TestBadStart(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := taken.Close(); err != nil {
				t.Error(err)
			}
		}()
		bad := filepath.Join(TempDir(t), "bad")
		if err := os.WriteFile(bad, []byte("global\n  bogus 1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		for name, test := range map[string]struct {
			args []string
			want []string
		}{
			"traffic port taken":    {[]string{"--listen", taken.Addr().String()}, []string{taken.Addr().String(), fmt.Sprint(os.Getpid())}},
			"management port taken": {[]string{"--mgmt-listen", taken.Addr().String()}, []string{"--mgmt-listen"}},
			"no haproxy":            {[]string{"--haproxy", "/nonexistent/haproxy"}, []string{"--haproxy", "install"}},
			"no such template":      {[]string{"--template", "/nonexistent.tmpl"}, []string{"--template"}},
			"refused template":      {[]string{"--template", bad}, []string{"bogus"}},
			"certificate":           {[]string{"--tls-cert", bad}, []string{"--tls-cert"}},
			"run directory":         {[]string{"--run-dir", "/proc/fnlb"}, []string{"--run-dir"}},
			"configuration folder":  {[]string{"--haproxy-config", "/nonexistent/haproxy.cfg"}, []string{"--haproxy-config"}},
			"token":                 {[]string{"--mgmt-token-file", bad + "x"}, []string{"--mgmt-token-file"}},
		} {
			b := Start(t, h, test.args...)
			if code := b.WaitExit(); code != 1 {
				t.Errorf("%s: exit code %d", name, code)
			}
			for _, want := range test.want {
				if !strings.Contains(b.Log(), want) {
					t.Errorf("%s: %q is missing in %s", name, want, b.Log())
				}
			}
		}
	})
}
