package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// memoryGroup is a control group of the test's own that bounds memory, of either version.
type memoryGroup struct {
	t         *testing.T
	dir       string
	limitFile string
}

func newMemoryGroup(t *testing.T, mib int) *memoryGroup {
	t.Helper()
	var errs []error
	for _, v := range []struct{ root, limit string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"}, {"/sys/fs/cgroup/unified", "memory.max"},
	} {
		dir, err := os.MkdirTemp(v.root, "fnlb-test-")
		if err != nil {
			errs = append(errs, err)
			continue
		}
		g := &memoryGroup{t, dir, filepath.Join(dir, v.limit)}
		if err = g.write(g.limitFile, mib<<20); err != nil { // no such file: the controller is not enabled there
			errs = append(errs, err, os.Remove(dir))
			continue
		}
		t.Cleanup(g.remove)
		return g
	}
	t.Fatalf("this test needs a control group for memory, so root and a writable /sys/fs/cgroup: %v", errors.Join(errs...))
	return nil
}

func (*memoryGroup) write(file string, n int) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0) // os.WriteFile would make an ordinary file
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(n))
	return errors.Join(err, f.Close())
}

// add moves a process into the group; its memory so far stays where it was.
func (g *memoryGroup) add(pid int) {
	g.t.Helper()
	if err := g.write(filepath.Join(g.dir, "cgroup.procs"), pid); err != nil {
		g.t.Fatal(err)
	}
}

// kills is how often the kernel has killed in the group for want of memory.
func (g *memoryGroup) kills() int {
	g.t.Helper()
	for _, name := range []string{"memory.oom_control", "memory.events"} {
		data, err := os.ReadFile(filepath.Join(g.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			g.t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == "oom_kill" {
				n, err := strconv.Atoi(f[1])
				if err != nil {
					g.t.Fatal(err)
				}
				return n
			}
		}
	}
	g.t.Fatal("the kernel does not count its kills")
	return 0
}

// remove waits for the last process to be gone.
func (g *memoryGroup) remove() {
	for end := time.Now().Add(Patience); ; time.Sleep(10 * time.Millisecond) {
		err := os.Remove(g.dir)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			g.t.Error(err)
			return
		}
	}
}

// startBehind starts fnlb behind a line of shell.
func startBehind(t *testing.T, h haproxytest.HAProxy, shell string, args ...string) *Balancer {
	t.Helper()
	ports := haproxytest.FreePorts(t, 2)
	b := &Balancer{T: t, Dir: TempDir(t), Traffic: fmt.Sprintf("127.0.0.1:%d", ports[0]), Mgmt: fmt.Sprintf("127.0.0.1:%d", ports[1])}
	b.Cmd = exec.Command("sh", append([]string{"-c", shell + `; exec "$@"`, "sh", Binary(t), "--listen", b.Traffic, "--mgmt-listen", b.Mgmt,
		"--run-dir", b.Dir, "--haproxy", h.Path, "--haproxy-config", filepath.Join(b.Dir, "haproxy.cfg"), "--hc-interval", "200ms"}, args...)...)
	b.start()
	return b
}

func (g *memoryGroup) start(h haproxytest.HAProxy, args ...string) *Balancer {
	g.t.Helper()
	return startBehind(g.t, h, "echo $$ >"+g.dir+"/cgroup.procs", args...)
}

// TestLimitsTooSmall: what HAProxy cannot run with is refused at the start, with what to raise.
func TestLimitsTooSmall(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		for name, test := range map[string]struct {
			start func() *Balancer
			want  string
		}{
			"files":  {func() *Balancer { return startBehind(t, h, "ulimit -n 200") }, "LimitNOFILE="},
			"memory": {func() *Balancer { return newMemoryGroup(t, 24).start(h) }, "MemoryMax="},
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
		b := startBehind(t, h, "ulimit -n $(cat /proc/sys/fs/nr_open)", "--nodes", n.Addr)
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
		g := newMemoryGroup(t, 64)
		b := g.start(h, "--nodes", list(n[:2]...))
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
		if kills := g.kills(); kills > 0 {
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
		g := newMemoryGroup(t, 1)
		b := Start(t, h, "--nodes", n.Addr)
		b.WaitOnline(n)
		worker := b.Status().HAProxy.Worker
		g.add(worker)
		mark := len(b.Log())
		stop := make(chan struct{})
		done := make(chan struct{})
		go func() { // requests whose bodies fill HAProxy's buffers, until it has had enough
			defer close(done)
			var clients []net.Conn
			defer func() {
				for _, c := range clients {
					c.Close()
				}
			}()
			for range 2000 {
				c, err := net.Dial("tcp", b.Traffic)
				if err != nil {
					return
				}
				clients = append(clients, c)
				if _, err := fmt.Fprintf(c, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n%s", strings.Repeat("x", 10000)); err != nil {
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		}()
		mark = b.WaitLog(mark, "haproxy died", "out of memory?")
		b.WaitLog(mark, "haproxy started")
		close(stop)
		<-done
		if g.kills() == 0 {
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
		b := startBehind(t, h, "taskset -pc 0 $$ >/dev/null", "--nodes", list(n[:2]...))
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
	if os.Getuid() != 0 {
		t.Fatal("this test mounts a small file system and needs root")
	}
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n, m := NewNode(t, "a"), NewNode(t, "m")
		dir, image := TempDir(t), filepath.Join(TempDir(t), "image")
		run := func(command string, args ...string) {
			t.Helper()
			if out, err := exec.Command(command, args...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", command, err, out)
			}
		}
		run("truncate", "-s", "16M", image)
		run("mkfs.ext4", "-q", image)
		run("mount", "-o", "loop", image, dir)
		frozen := false
		thaw := func() { // before anything else: whoever writes there cannot even be killed
			if frozen {
				frozen = false
				run("fsfreeze", "-u", dir)
			}
		}
		t.Cleanup(func() { run("umount", dir) })
		b := Start(t, h, "--nodes", n.Addr, "--haproxy-config", filepath.Join(dir, "haproxy.cfg"))
		t.Cleanup(thaw)
		b.WaitOnline(n)
		b.WaitApplied()
		run("fsfreeze", "-f", dir)
		frozen = true
		underLoad(t, b.Traffic, func() {
			b.Put(m.Addr)
			for range 50 {
				if _, err := b.Nodes(); err != nil {
					t.Error(err)
				}
				if status, node, _ := fetch(t, b.Traffic, "/"); status != 200 || node != "a" {
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
