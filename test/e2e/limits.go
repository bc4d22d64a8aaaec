package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// MemoryGroup is a control group of the test's own that bounds memory, of either version of control groups.
type MemoryGroup struct {
	t         *testing.T
	dir       string
	limitFile string
}

// NewMemoryGroup makes one of so many MiB; it goes with the test, when its last process has ended.
func NewMemoryGroup(t *testing.T, mib int) *MemoryGroup {
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
		g := &MemoryGroup{t, dir, filepath.Join(dir, v.limit)}
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

func (*MemoryGroup) write(file string, n int) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0) // os.WriteFile would make an ordinary file
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(n))
	return errors.Join(err, f.Close())
}

// Behind is what puts a process into the group before it becomes fnlb.
func (g *MemoryGroup) Behind() []string { return Shell("echo $$ >" + g.dir + "/cgroup.procs") }

// Add moves a process into the group; its memory so far stays where it was.
func (g *MemoryGroup) Add(pid int) {
	g.t.Helper()
	if err := g.write(filepath.Join(g.dir, "cgroup.procs"), pid); err != nil {
		g.t.Fatal(err)
	}
}

// Kills is how often the kernel has killed in the group for want of memory.
func (g *MemoryGroup) Kills() int {
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
func (g *MemoryGroup) remove() {
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

// Crowd opens n connections to addr, each with a request whose body does not end, so that HAProxy holds a buffer for each. It gives up
// where HAProxy does; leave closes them.
func Crowd(addr string, n int) (leave func()) {
	var clients []net.Conn
	for range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		clients = append(clients, c)
		if _, err := fmt.Fprintf(c, "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n%s", strings.Repeat("x", 10000)); err != nil {
			break
		}
	}
	return func() {
		for _, c := range clients {
			_ = c.Close()
		}
	}
}
