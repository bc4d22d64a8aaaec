package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// First is a balancer in a pid namespace of its own, as in a container: process 1 there is fnlb itself, or tini.
type First struct {
	*Balancer
	Init int // process 1, as the host numbers it
}

// StartFirst starts fnlb as Start does, below init (a command such as tini --) or as process 1 itself.
func StartFirst(t *testing.T, h haproxytest.HAProxy, init []string, args ...string) *First {
	t.Helper()
	b := New(t, TempDir(t))
	b.Behind = append([]string{"unshare", "--pid", "--fork", "--mount-proc"}, init...)
	b.Run(h, args...)
	f := &First{Balancer: b}
	b.Eventually(func() string {
		pids := children(t, b.Cmd.Process.Pid)
		if len(pids) != 1 {
			return fmt.Sprintf("unshare has the children %v", pids)
		}
		f.Init = pids[0]
		return ""
	})
	t.Cleanup(func() {
		select {
		case <-b.Exited():
		default: // the test has failed; whatever runs in the namespace ends with its process 1
			f.Signal(syscall.SIGKILL)
		}
	})
	return f
}

// Signal goes to process 1, as the engine of a container sends it.
func (f *First) Signal(sig syscall.Signal) {
	f.T.Helper()
	if err := syscall.Kill(f.Init, sig); err != nil {
		f.T.Fatal(err)
	}
}

// children lists the living and the dead of a parent; the dead have a Z.
func children(t *testing.T, parent int) (pids []int) {
	t.Helper()
	for pid, st := range stats(t) {
		if st.parent == parent {
			pids = append(pids, pid)
		}
	}
	return pids
}

type stat struct {
	state  string
	parent int
}

// stats reads /proc/PID/stat of all.
func stats(t *testing.T) map[int]stat {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	out := map[int]stat{}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // it has just ended
		}
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			t.Fatal(err)
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			t.Fatal(err)
		}
		out[pid] = stat{fields[0], parent}
	}
	return out
}

// Host gives the host's number of a process of the namespace.
func (f *First) Host(pid int) int {
	f.T.Helper()
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", f.Init))
	if err != nil {
		f.T.Fatal(err)
	}
	for p := range stats(f.T) {
		if at, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", p)); err != nil || at != space {
			continue
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
		if err != nil {
			continue // it has just ended
		}
		if strings.Contains(string(data), fmt.Sprintf("\nNSpid:\t%d\t%d\n", p, pid)) {
			return p
		}
	}
	f.T.Fatalf("there is no process %d in the namespace", pid)
	return 0
}

// NoZombies waits until process 1 has reaped all that ended.
func (f *First) NoZombies() {
	f.T.Helper()
	f.Eventually(func() string {
		for pid, st := range stats(f.T) {
			if st.parent == f.Init && st.state == "Z" {
				return fmt.Sprintf("process %d waits to be reaped", pid)
			}
		}
		return ""
	})
}
