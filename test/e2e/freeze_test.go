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

// TestFreeze: under load, frozen, killed, started again, thawed, rolled back and thawed: no request is lost, and only what may be
// applied is.
func TestFreeze(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := append(three(t), NewNode(t, "d"))
		b := Start(t, h, "--nodes", list(n[:3]...))
		b.WaitOnline(n[:3]...)
		b.WaitApplied()
		states := func(want ...string) {
			t.Helper()
			b.Eventually(func() string {
				got, err := b.Nodes()
				if err != nil {
					return err.Error()
				}
				for i, w := range want {
					if got[n[i].Addr] != w {
						return n[i].Name + " is " + got[n[i].Addr] + ", not " + w
					}
				}
				return ""
			})
		}
		underLoad(t, b.Traffic, func() {
			b.brake(http.MethodPut, "/1/lb/freeze", `{"reason":"a test"}`)
			b.Put(n[3].Addr)
			b.Signal(syscall.SIGHUP)
			b.WaitStatus(func(st model.Status) bool {
				return st.Frozen != nil && st.Frozen.By == "API from 127.0.0.1" && st.Wanted > st.Applied && len(st.Degraded) == 1
			})
			states("online", "online", "online", "offline")
			if reloads := b.reloads(); reloads > 0 {
				t.Errorf("%d reloads", reloads)
			}

			b.Signal(syscall.SIGKILL)
			b.WaitExit()
			mark := len(b.Log())
			b.Run(h, "--nodes", list(n...))
			mark = b.WaitLog(mark, "still frozen", "a test")
			mark = b.WaitLog(mark, "adopted the HAProxy", "reload=false")
			states("online", "online", "online", "offline")

			b.brake(http.MethodDelete, "/1/lb/freeze", "")
			b.WaitLog(mark, "changed at run time", n[3].Addr)
			b.WaitOnline(n...)
			b.WaitApplied()

			b.brake(http.MethodPost, "/1/lb/rollback", "")
			states("online", "online", "online", "offline")
			b.WaitStatus(func(st model.Status) bool {
				return st.Frozen != nil && st.Frozen.RolledBack && st.LastApply.Causes[0] == "rollback by API from 127.0.0.1"
			})
			b.brake(http.MethodDelete, "/1/lb/freeze", "")
			b.WaitOnline(n...)
			b.WaitApplied()
		})
		for _, c := range b.changes() {
			if len(c.Causes) == 0 {
				t.Errorf("nobody caused %+v", c)
			}
		}
	})
}

// TestFrozenAndDead: what dies while frozen comes back as it was, and a stop keeps what the next start needs.
func TestFrozenAndDead(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		tmpl := filepath.Join(TempDir(t), "haproxy.tmpl")
		touchTemplate(t, tmpl, 0)
		b := Start(t, h, "--nodes", n[0].Addr, "--template", tmpl)
		b.WaitOnline(n[0])
		b.WaitApplied()
		b.brake(http.MethodPut, "/1/lb/freeze", "")
		b.Put(n[1].Addr)
		mark := len(b.Log())
		if err := syscall.Kill(b.Status().HAProxy.Worker, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		b.WaitLog(mark, "haproxy started")
		if status, node, _ := fetch(t, b.Traffic, "/"); status != http.StatusOK || node != "a" {
			t.Errorf("%d from %q", status, node)
		}
		if text := b.config(); strings.Contains(text, n[1].Addr) {
			t.Errorf("what is frozen changed:\n%s", text)
		}
		b.Signal(syscall.SIGTERM)
		if code := b.WaitExit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		// Not even a template that is broken by now keeps it from being started.
		if err := os.WriteFile(tmpl, []byte("{{.Nope"), 0o644); err != nil {
			t.Fatal(err)
		}
		mark = len(b.Log())
		b.Run(h, "--nodes", list(n...), "--template", tmpl)
		b.WaitLog(mark, "haproxy started", "frozen")
		b.WaitStatus(func(st model.Status) bool { return st.Frozen != nil && st.Phase == model.Serving })
		if text := b.config(); strings.Contains(text, n[1].Addr) || !strings.Contains(text, n[0].Addr) {
			t.Errorf("what is frozen changed:\n%s", text)
		}
		b.brake(http.MethodDelete, "/1/lb/freeze", "")
		b.WaitStatus(func(st model.Status) bool { return st.Frozen == nil && len(st.Degraded) > 0 })
		touchTemplate(t, tmpl, 1)
		b.Signal(syscall.SIGHUP)
		b.WaitOnline(n...)
		b.WaitStatus(func(st model.Status) bool { return len(st.Degraded) == 0 })
	})
}

// brake calls, and fails the test unless it is answered with 200.
func (b *Balancer) brake(method, path, body string) {
	b.T.Helper()
	if err := call(b.Mgmt, method, path, body, nil); err != nil {
		b.T.Fatal(err)
	}
}

// reloads counts those that were made.
func (b *Balancer) reloads() int {
	b.T.Helper()
	return b.Applies(model.Reload)
}

// config reads the text in force.
func (b *Balancer) config() string {
	b.T.Helper()
	status, _, text := fetch(b.T, b.Mgmt, "/1/lb/config")
	if status != http.StatusOK {
		b.T.Fatalf("status %d: %s", status, text)
	}
	return text
}
