package e2e

import (
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

// stranger is a HAProxy that is not ours, on a port of ours.
func stranger(addr string) string {
	return "defaults\n  mode http\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\nfrontend theirs\n  bind " + addr + "\n  http-request return status 200 content-type text/plain string theirs\n"
}

// TestForeignHAProxy: the kernel would share a port between two HAProxys without a word. One that was there before us keeps us from
// starting, named, whoever it belongs to; one that comes later is told.
func TestForeignHAProxy(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		ports := haproxytest.FreePorts(t, 2)
		b := &Balancer{T: t, Dir: TempDir(t), Traffic: fmt.Sprintf("127.0.0.1:%d", ports[0]), Mgmt: fmt.Sprintf("127.0.0.1:%d", ports[1])}
		t.Run("before us", func(t *testing.T) {
			other := h.Start(t, stranger(b.Traffic), "x")
			refusedBy(t, b, h, other.PID)
		})
		t.Run("another user's", func(t *testing.T) {
			dir := ownDir(t)
			file := filepath.Join(dir, "haproxy.cfg")
			if err := os.WriteFile(file, []byte(stranger(b.Traffic)), 0o644); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("haproxy", "-db", "-f", file) // the packaged one: the others may lie where only root looks
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: someone, Gid: someone}}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait() // it was killed
			}()
			for end := time.Now().Add(Patience); Free(b.Traffic); time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("the other HAProxy does not listen")
				}
			}
			refusedBy(t, b, h, cmd.Process.Pid)
		})
		b.Run(h, "--nodes", n.Addr)
		b.WaitOnline(n)
		other := h.Start(t, stranger(b.Traffic), "x")
		b.WaitLog(0, "listens on a port of ours", b.Traffic, "haproxy (pid ")
		b.WaitStatus(func(st model.Status) bool {
			return strings.Contains(fmt.Sprint(st.Degraded), "shared with another process: "+b.Traffic)
		})
		if err := syscall.Kill(other.PID, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		b.WaitLog(0, "nobody else listens on our ports")
		b.WaitStatus(func(st model.Status) bool { return len(st.Degraded) == 0 })
	})
}

// refusedBy starts fnlb, which must end and name the process or a child of it.
func refusedBy(t *testing.T, b *Balancer, h haproxytest.HAProxy, pid int) {
	t.Helper()
	mark := 0
	if b.log != nil {
		mark = len(b.Log())
	}
	b.Run(h)
	if code := b.WaitExit(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	said := b.Log()[mark:]
	if !strings.Contains(said, b.Traffic) || !strings.Contains(said, "taken by haproxy (pid ") {
		t.Errorf("process %d is not named: %s", pid, said)
	}
}
