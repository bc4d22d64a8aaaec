package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// startBehind starts fnlb behind another command.
func startBehind(t *testing.T, h haproxytest.HAProxy, behind []string, args ...string) *Balancer {
	t.Helper()
	b := New(t, TempDir(t))
	b.Behind = behind
	b.Run(h, args...)
	return b
}

// TestLimitsTooSmall: what HAProxy cannot run with is refused at the start, with what to raise.
func TestLimitsTooSmall(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		for name, test := range map[string]struct {
			start func() *Balancer
			want  string
		}{
			"files":  {func() *Balancer { return startBehind(t, h, Shell("ulimit -n 200")) }, "LimitNOFILE="},
			"memory": {func() *Balancer { return startBehind(t, h, NewMemoryGroup(t, 24).Behind()) }, "MemoryMax="},
		} {
			b := test.start()
			if code := b.WaitExit(); code != 1 || !strings.Contains(b.Log(), test.want) {
				t.Errorf("%s: exit code %d, %s", name, code, b.Log())
			}
		}
	})
}

// TestManyFiles: with a limit on open files without bounds HAProxy is sized by memory, not by the limit.
func TestManyFiles(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		b := startBehind(t, h, Shell("ulimit -n $(cat /proc/sys/fs/nr_open)"), "--nodes", n.Addr)
		b.WaitOnline(n)
		st := b.Status().HAProxy
		if st.MaxConn < 1000 || st.MaxConn > 1<<19 {
			t.Errorf("maxconn %d", st.MaxConn)
		}
		b.WaitLog(0, "haproxy started", fmt.Sprintf("maxconn=%d", st.MaxConn))
	})
}

// TestSmallMemory is fault row 16: in 64 MiB everything fits, with as many clients as it takes and with reloads.
func TestSmallMemory(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		g := NewMemoryGroup(t, 64)
		b := startBehind(t, h, g.Behind(), "--nodes", list(n[:2]...))
		b.WaitOnline(n[:2]...)
		st := b.Status().HAProxy
		if st.MaxConn < 700 || st.MaxConn > 1000 {
			t.Errorf("maxconn %d", st.MaxConn)
		}
		b.WaitLog(0, "haproxy started", fmt.Sprintf("maxconn=%d", st.MaxConn))
		var clients []net.Conn
		for range st.MaxConn - 100 { // the load needs some
			c, err := net.Dial("tcp", b.Traffic)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			clients = append(clients, c)
		}
		underLoad(t, b.Traffic, func() {
			for _, c := range clients { // each with a request that does not end
				if _, err := fmt.Fprintf(c, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n%s", strings.Repeat("x", 10000)); err != nil {
					t.Error(err)
					return
				}
			}
			for range 2 {
				b.Put(n[2].Addr)
				b.WaitOnline(n...)
				b.Delete(n[2].Addr)
				b.WaitOnline(n[:2]...)
				b.WaitApplied()
			}
		})
		if kills := g.Kills(); kills > 0 {
			t.Errorf("the kernel killed %d times for want of memory", kills)
		}
		if st := b.Status(); st.HAProxy.Restarts != 0 || st.Phase != model.Serving {
			t.Errorf("status %+v", st)
		}
		b.Signal(syscall.SIGTERM) // the clients' requests never end
		b.WaitLog(0, "stopping")
		b.Signal(syscall.SIGTERM)
		if code := b.WaitExit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}

// TestOutOfMemory: the kernel kills HAProxy's worker for want of memory; it serves again at once, and the log says what it looks like.
func TestOutOfMemory(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		g := NewMemoryGroup(t, 1)
		b := Start(t, h, "--nodes", n.Addr)
		b.WaitOnline(n)
		worker := b.Status().HAProxy.Worker
		g.Add(worker)
		mark := len(b.Log())
		done := make(chan struct{})
		go func() { // until it has had enough
			defer close(done)
			Crowd(b.Traffic, 2000)()
		}()
		mark = b.WaitLog(mark, "haproxy died", "out of memory?")
		b.WaitLog(mark, "haproxy started")
		<-done
		if g.Kills() == 0 {
			t.Error("it was not the kernel")
		}
		b.WaitStatus(func(st model.Status) bool {
			return st.Phase == model.Serving && st.HAProxy.Restarts >= 1 && st.HAProxy.Worker != worker
		})
		if status, node, _ := fetch(t, b.Traffic, "/"); status != 200 || node != "a" {
			t.Errorf("%d from %q", status, node)
		}
	})
}

// TestOneCore is a part of fault row 29: with one core for fnlb and HAProxy changes are applied and no request is lost.
func TestOneCore(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		b := startBehind(t, h, Shell("taskset -pc 0 $$ >/dev/null"), "--nodes", list(n[:2]...))
		b.WaitOnline(n[:2]...)
		underLoad(t, b.Traffic, func() {
			for range 2 {
				b.Put(n[2].Addr)
				b.WaitOnline(n...)
				b.Delete(n[2].Addr)
				b.WaitOnline(n[:2]...)
				b.WaitApplied()
			}
		})
	})
}

// TestHungDisk is a part of fault row 29: the disk of the configuration file does not answer. Calls are answered and requests served; when
// it answers again, everything is applied.
func TestHungDisk(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n, m := NewNode(t, "a"), NewNode(t, "m")
		disk := NewDisk(t)
		b := New(t, TempDir(t))
		b.Config = filepath.Join(disk.Dir, "haproxy.cfg")
		b.Run(h, "--nodes", n.Addr)
		b.WaitOnline(n)
		b.WaitApplied()
		thaw := disk.Freeze()
		underLoad(t, b.Traffic, func() {
			b.Put(m.Addr)
			for range 50 {
				if _, err := b.Nodes(); err != nil {
					t.Error(err)
				}
				if status, node, _ := fetch(t, b.Traffic, "/"); status != 200 { // of either: a change at run time needs no disk
					t.Errorf("%d from %q", status, node)
				}
			}
			if st := b.Status(); st.Phase != model.Serving {
				t.Errorf("status %+v", st)
			}
			thaw()
			b.WaitOnline(n, m)
			b.WaitApplied()
		})
		b.Signal(syscall.SIGTERM)
		if code := b.WaitExit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}
