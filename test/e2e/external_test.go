package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// outside is a HAProxy that a unit or a container of its own would run.
type outside struct {
	t      *testing.T
	cmd    *exec.Cmd
	ended  chan struct{}
	socket string
}

// startOutside runs HAProxy on the balancer's configuration file.
func startOutside(t *testing.T, h haproxytest.HAProxy, b *Balancer) *outside {
	t.Helper()
	o := &outside{t: t, ended: make(chan struct{}), socket: filepath.Join(b.Dir, "outside.sock")}
	log, err := os.OpenFile(filepath.Join(b.Dir, "haproxy.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	o.cmd = exec.Command(h.Path, "-W", "-db", "-S", o.socket+",mode,600", "-f", filepath.Join(b.Dir, "haproxy.cfg"))
	o.cmd.Env, o.cmd.Stdout, o.cmd.Stderr = []string{}, log, log
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := errors.Join(o.cmd.Start(), log.Close()); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = o.cmd.Wait() // how it ended is of no interest
		close(o.ended)
	}()
	t.Cleanup(o.end)
	return o
}

func (o *outside) end() {
	o.t.Helper()
	if err := o.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		o.t.Error(err)
	}
	select {
	case <-o.ended:
	case <-time.After(Patience):
		o.t.Error("the HAProxy outside does not end")
	}
}

// RunOutside starts fnlb in front of it.
func (b *Balancer) RunOutside(h haproxytest.HAProxy, args ...string) {
	b.T.Helper()
	b.Run(h, append([]string{"--haproxy-master", "unix@" + filepath.Join(b.Dir, "outside.sock")}, args...)...)
}

func newOutside(t *testing.T) *Balancer {
	t.Helper()
	ports := haproxytest.FreePorts(t, 2)
	return &Balancer{T: t, Dir: TempDir(t), Traffic: fmt.Sprintf("127.0.0.1:%d", ports[0]), Mgmt: fmt.Sprintf("127.0.0.1:%d", ports[1])}
}

// TestExternalFirst: HAProxy is there before us on what `fnlb render --bootstrap` printed, and answers 503 in JSON. We come, go by
// SIGTERM and by SIGKILL, and come back, while it runs on with what only our memory knew.
func TestExternalFirst(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := append(three(t), NewNode(t, "d"))
		b := newOutside(t)
		text, err := exec.Command(Binary(t), "render", "--bootstrap", "--listen", b.Traffic, "--mgmt-listen", b.Mgmt, "--run-dir", b.Dir, "--haproxy", h.Path).Output()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(b.Dir, "haproxy.cfg"), text, 0o644); err != nil {
			t.Fatal(err)
		}
		o := startOutside(t, h, b)
		for end := time.Now().Add(Patience); Free(b.Traffic); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("HAProxy does not listen")
			}
		}
		if status, _, body := fetch(t, b.Traffic, "/"); status != 503 || !strings.Contains(body, `"error"`) {
			t.Errorf("%d %s", status, body)
		}
		b.RunOutside(h, "--nodes", list(n[:3]...))
		b.WaitOnline(n[:3]...)
		b.Put(n[3].Addr)
		b.WaitOnline(n...)
		st := b.WaitApplied()
		if st.HAProxy.Master != o.cmd.Process.Pid || !strings.HasPrefix(st.HAProxy.Version, h.Version) || len(st.Degraded) > 0 || len(st.Problems) > 0 {
			t.Errorf("%+v", st)
		}
		underLoad(t, b.Traffic, func() {
			for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGTERM} {
				mark := len(b.Log())
				b.Signal(sig)
				if code := b.WaitExit(); sig == syscall.SIGTERM && (code != 0 || !strings.Contains(b.Log()[mark:], "left running")) {
					t.Errorf("exit code %d: %s", code, b.Log()[mark:])
				}
				b.RunOutside(h, "--nodes", list(n[:3]...))
				b.WaitLog(mark, "haproxy found", "reload=false")
				b.WaitOnline(n...)
				if now := b.WaitApplied(); now.HAProxy.Master != st.HAProxy.Master || now.HAProxy.Worker != st.HAProxy.Worker {
					t.Errorf("%+v after %+v", now.HAProxy, st.HAProxy)
				}
			}
		})
		b.Signal(syscall.SIGTERM)
		b.WaitExit()
		if !Alive(o.cmd.Process.Pid) {
			t.Error("it ended with us")
		}
	})
}

// TestExternalLater: we are there first, with no configuration at all; HAProxy comes, is restarted, killed, and upgraded.
func TestExternalLater(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		b := newOutside(t)
		b.RunOutside(h, "--nodes", list(n[:2]...))
		b.WaitLog(0, "waiting for the HAProxy", "outside.sock")
		b.Eventually(func() string {
			if err := b.Get("/1/lb/readyz", nil); err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "--haproxy-master") {
				return fmt.Sprint("readyz: ", err)
			}
			return ""
		})
		b.Put(n[2].Addr) // management answers meanwhile
		o := startOutside(t, h, b)
		b.WaitOnline(n...)
		b.WaitApplied()
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			mark := len(b.Log())
			if err := o.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			<-o.ended
			b.WaitLog(mark, "haproxy is gone")
			b.WaitStatus(func(st model.Status) bool { return st.Phase == model.Broken && len(st.Degraded) > 0 })
			o = startOutside(t, h, b)
			b.WaitLog(mark, "haproxy found", "reload=false")
			b.WaitOnline(n...)
			b.WaitStatus(func(st model.Status) bool {
				return st.Phase == model.Serving && st.HAProxy.Master == o.cmd.Process.Pid && len(st.Degraded) == 0
			})
			if status, _, _ := fetch(t, b.Traffic, "/"); status != 200 {
				t.Errorf("after %s: %d", sig, status)
			}
		}
		other := h
		other.Path = strings.Replace(h.Path, "/"+h.Version+"/", map[string]string{"2.6": "/3.0/", "3.0": "/3.2/", "3.2": "/3.0/"}[h.Version], 1)
		if _, err := os.Stat(other.Path); err != nil {
			return // 3.2 is only needed in CI
		}
		o.end()
		mark := len(b.Log())
		o = startOutside(t, other, b)
		b.WaitLog(mark, "haproxy found")
		b.WaitOnline(n...)
		b.WaitStatus(func(st model.Status) bool {
			return st.Phase == model.Serving && !strings.HasPrefix(st.HAProxy.Version, h.Version) && st.HAProxy.Master == o.cmd.Process.Pid &&
				strings.Contains(fmt.Sprint(st.Problems), "not checked before a reload")
		})
		b.Delete(n[2].Addr)
		b.WaitOnline(n[:2]...)
		b.WaitApplied()
		if status, _, _ := fetch(t, b.Traffic, "/"); status != 200 {
			t.Errorf("after the upgrade: %d", status)
		}
		b.WaitStatus(func(st model.Status) bool { return len(st.Degraded) == 0 })
	})
}
