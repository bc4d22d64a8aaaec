package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// first is a balancer in a pid namespace of its own, as in a container: process 1 there is fnlb itself, or tini.
type first struct {
	*Balancer
	init int // process 1, as the host numbers it
}

// eachFirst runs f with both, on every HAProxy.
func eachFirst(t *testing.T, f func(t *testing.T, start func(args ...string) *first)) {
	if os.Getuid() != 0 {
		t.Fatal("this test makes a pid namespace and needs root")
	}
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		for name, init := range map[string][]string{"alone": nil, "tini": {"tini", "--"}} {
			t.Run(name, func(t *testing.T) {
				f(t, func(args ...string) *first { return startFirst(t, h, init, args...) })
			})
		}
	})
}

func startFirst(t *testing.T, h haproxytest.HAProxy, init []string, args ...string) *first {
	t.Helper()
	ports := haproxytest.FreePorts(t, 2)
	b := &Balancer{T: t, Dir: TempDir(t), Traffic: fmt.Sprintf("127.0.0.1:%d", ports[0]), Mgmt: fmt.Sprintf("127.0.0.1:%d", ports[1])}
	all := append([]string{"--pid", "--fork", "--mount-proc"}, init...)
	all = append(all, Binary(t), "--listen", b.Traffic, "--mgmt-listen", b.Mgmt, "--run-dir", b.Dir, "--haproxy", h.Path,
		"--haproxy-config", filepath.Join(b.Dir, "haproxy.cfg"), "--hc-interval", "200ms")
	b.Cmd = exec.Command("unshare", append(all, args...)...)
	b.start()
	f := &first{Balancer: b}
	b.Eventually(func() string {
		pids := children(t, b.Cmd.Process.Pid)
		if len(pids) != 1 {
			return fmt.Sprintf("unshare has the children %v", pids)
		}
		f.init = pids[0]
		return ""
	})
	t.Cleanup(func() {
		select {
		case <-b.Exited():
		default: // the test has failed; whatever runs in the namespace ends with its process 1
			f.signal(syscall.SIGKILL)
		}
	})
	return f
}

// signal goes to process 1, as the engine of a container sends it.
func (f *first) signal(sig syscall.Signal) {
	f.T.Helper()
	if err := syscall.Kill(f.init, sig); err != nil {
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

// host gives the host's number of a process of the namespace.
func (f *first) host(pid int) int {
	f.T.Helper()
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", f.init))
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

// noZombies waits until process 1 has reaped all that ended.
func (f *first) noZombies() {
	f.T.Helper()
	f.Eventually(func() string {
		for pid, st := range stats(f.T) {
			if st.parent == f.init && st.state == "Z" {
				return fmt.Sprintf("process %d waits to be reaped", pid)
			}
		}
		return ""
	})
}

// TestFirstReaps is fault row 18: orphans of others and of a HAProxy whose master was killed are reaped, what is ours is not taken
// from us, and the end is clean.
func TestFirstReaps(t *testing.T) {
	eachFirst(t, func(t *testing.T, start func(args ...string) *first) {
		n := NewNode(t, "a")
		f := start("--nodes", n.Addr)
		f.WaitOnline(n)
		for i := range 10 {
			// The shell ends at once, and leaves a process to whoever is process 1.
			out, err := exec.Command("nsenter", "-t", strconv.Itoa(f.init), "-p", "sh", "-c", "sleep 0.0"+strconv.Itoa(i)+" & exit 0").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		f.noZombies()
		for i, victim := range []func(model.HAProxyStatus) int{
			func(s model.HAProxyStatus) int { return s.Master }, func(s model.HAProxyStatus) int { return s.Worker },
		} {
			mark := len(f.Log())
			if err := syscall.Kill(f.host(victim(f.Status().HAProxy)), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			mark = f.WaitLog(mark, "haproxy died", "SIGKILL")
			f.WaitLog(mark, "haproxy started")
			f.WaitStatus(func(st model.Status) bool { return st.HAProxy.Restarts == uint64(i+1) && st.Phase == model.Serving })
			f.noZombies()
		}
		if status, node, _ := fetch(t, f.Traffic, "/"); status != 200 || node != "a" {
			t.Errorf("%d from %q", status, node)
		}
		f.signal(syscall.SIGHUP)
		f.WaitLog(0, "read again")
		f.signal(syscall.SIGTERM)
		if code := f.WaitExit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}

// TestFirstStops: as process 1 a stop lets a long request end within --shutdown-timeout, cuts it at that limit, and at once on a
// second signal; the exit code is 0 each time.
func TestFirstStops(t *testing.T) {
	eachFirst(t, func(t *testing.T, start func(args ...string) *first) {
		for _, how := range []string{"in time", "too long", "second signal"} {
			n := NewNode(t, "slow")
			limit := map[string]string{"in time": "1m", "too long": "1s", "second signal": "0"}[how]
			f := start("--nodes", n.Addr, "--shutdown-timeout", limit)
			f.WaitOnline(n)
			r := n.hang()
			answer := r.ask(f.Traffic)
			f.signal(syscall.SIGTERM)
			mark := f.WaitLog(0, "stopping")
			f.waitClosed()
			switch how {
			case "in time":
				close(r.release)
				if got := <-answer; got != "done" {
					t.Errorf("%s: the running request got %q", how, got)
				}
			case "second signal":
				f.signal(syscall.SIGTERM)
				f.WaitLog(mark, "second signal")
			}
			if code := f.WaitExit(); code != 0 {
				t.Errorf("%s: exit code %d", how, code)
			}
			if how != "in time" {
				if got := <-answer; got == "done" {
					t.Errorf("%s: the request was answered", how)
				}
				close(r.release)
			}
		}
	})
}

// TestFirstFails: the exit code is that of the balancer also when it cannot start.
func TestFirstFails(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test makes a pid namespace and needs root")
	}
	for args, want := range map[string]int{"--haproxy=/nonexistent": 1, "--nonsense": 2, "version": 0} {
		out, err := exec.Command("unshare", "--pid", "--fork", "--mount-proc", Binary(t), args, "--run-dir="+TempDir(t)).CombinedOutput()
		if code := exitOf(err); code != want {
			t.Errorf("%s: exit code %d, not %d: %s", args, code, want, out)
		}
	}
}

func exitOf(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := err.(*exec.ExitError); ok { //nolint:errorlint // exec gives it as it is
		return e.ExitCode()
	}
	return -1
}

// hung is a request that a node answers when it is told to.
type hung struct {
	arrived, release chan struct{}
}

// hang makes the node's next request wait.
func (n *Node) hang() *hung {
	r := &hung{make(chan struct{}), make(chan struct{})}
	f := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(r.arrived)
		<-r.release
		_, _ = w.Write([]byte("done"))
	})
	n.Handler.Store(&f)
	return r
}
