package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// TestFilesChanged is fault row 6: somebody truncates, changes and deletes what HAProxy would read. It is written again and told, no
// worker loads it, also when HAProxy is killed just then, and no request is lost.
func TestFilesChanged(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		b := Start(t, h, "--nodes", list(n...))
		b.WaitOnline(n...)
		st := b.WaitApplied()
		cfg := filepath.Join(b.Dir, "haproxy.cfg")
		ours := readFile(t, cfg)
		theirs := strings.ReplaceAll(ours, "timeout connect", "timeout tunnel")
		underLoad(t, b.Traffic, func() {
			for what, do := range map[string]func() error{
				"haproxy.cfg was truncated": func() error { return os.Truncate(cfg, 20) },
				"haproxy.cfg was changed":   func() error { return os.WriteFile(cfg, []byte(theirs), 0o640) },
				"own.cfg was deleted":       func() error { return os.Remove(filepath.Join(b.Dir, "own.cfg")) },
			} {
				mark := len(b.Log())
				if err := do(); err != nil {
					t.Fatal(err)
				}
				b.WaitLog(mark, "level=WARN", what+" by somebody")
				if got := readFile(t, cfg); got != ours {
					t.Errorf("%s, and is not ours again", what)
				}
			}
		})
		b.WaitStatus(func(now model.Status) bool {
			return now.HAProxy.Worker == st.HAProxy.Worker && now.HAProxy.Mended == 3 && len(now.Degraded) == 0
		})
		mark := len(b.Log())
		if err := os.WriteFile(cfg, []byte(theirs), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(st.HAProxy.Worker, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		b.WaitLog(mark, "haproxy started")
		if got := readFile(t, cfg); got != ours {
			t.Error("what somebody wrote was started")
		}
		if status, _, _ := fetch(t, b.Traffic, "/"); status != http.StatusOK {
			t.Errorf("status %d", status)
		}
	})
}

// TestRunDirectoryDeleted: somebody deletes the whole run directory. No request is lost; the directory is made again, changes go on,
// and a HAProxy that dies afterwards is started again.
func TestRunDirectoryDeleted(t *testing.T) {
	for name, start := range map[string]func(*testing.T, haproxytest.HAProxy, ...string) *Balancer{"own port": Start, "shared port": StartShared} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, h haproxytest.HAProxy) {
				n := append(three(t), NewNode(t, "d"))
				b := start(t, h, "--nodes", list(n[:3]...))
				b.WaitLog(0, "haproxy started")
				b.WaitOnline(n[:3]...)
				b.WaitApplied()
				underLoad(t, b.Traffic, func() {
					mark := len(b.Log())
					if err := os.RemoveAll(b.Dir); err != nil {
						t.Fatal(err)
					}
					mark = b.WaitLog(mark, "the run directory was damaged, and is made again")
					mark = b.WaitLog(mark, "haproxy has opened its sockets again")
					b.WaitLog(mark, "msg=reloaded")
					b.Put(n[3].Addr)
					b.WaitOnline(n...)
					b.WaitApplied()
				})
				mark := len(b.Log())
				if err := syscall.Kill(b.Status().HAProxy.Worker, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				b.WaitLog(mark, "haproxy started")
				b.WaitOnline(n...)
				b.WaitStatus(func(st model.Status) bool { return len(st.Degraded) == 0 })
				for _, file := range []string{"admin.sock", "fnlb.lock", "fnlb.pid", "own.cfg", "private/master.sock"} {
					if _, err := os.Lstat(filepath.Join(b.Dir, file)); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
