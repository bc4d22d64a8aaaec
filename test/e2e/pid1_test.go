package e2e

import (
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// eachFirst runs f with both, on every HAProxy.
func eachFirst(t *testing.T, f func(t *testing.T, start func(args ...string) *First)) {
	if os.Getuid() != 0 {
		t.Fatal("this test makes a pid namespace and needs root")
	}
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		for name, init := range map[string][]string{"alone": nil, "tini": {"tini", "--"}} {
			t.Run(name, func(t *testing.T) {
				f(t, func(args ...string) *First { return StartFirst(t, h, init, args...) })
			})
		}
	})
}

// TestFirstReaps is fault row 18: orphans of others and of a HAProxy whose master was killed are reaped, what is ours is not taken
// from us, and the end is clean.
func TestFirstReaps(t *testing.T) {
	eachFirst(t, func(t *testing.T, start func(args ...string) *First) {
		n := NewNode(t, "a")
		f := start("--nodes", n.Addr)
		f.WaitOnline(n)
		for i := range 10 {
			// The shell ends at once, and leaves a process to whoever is process 1.
			out, err := exec.Command("nsenter", "-t", strconv.Itoa(f.Init), "-p", "sh", "-c", "sleep 0.0"+strconv.Itoa(i)+" & exit 0").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		f.NoZombies()
		for i, victim := range []func(model.HAProxyStatus) int{
			func(s model.HAProxyStatus) int { return s.Master }, func(s model.HAProxyStatus) int { return s.Worker },
		} {
			mark := len(f.Log())
			if err := syscall.Kill(f.Host(victim(f.Status().HAProxy)), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			mark = f.WaitLog(mark, "haproxy died", "SIGKILL")
			f.WaitLog(mark, "haproxy started")
			f.WaitStatus(func(st model.Status) bool { return st.HAProxy.Restarts == uint64(i+1) && st.Phase == model.Serving })
			f.NoZombies()
		}
		if status, node, _ := fetch(t, f.Traffic, "/"); status != 200 || node != "a" {
			t.Errorf("%d from %q", status, node)
		}
		f.Signal(syscall.SIGHUP)
		f.WaitLog(0, "read again")
		f.Signal(syscall.SIGTERM)
		if code := f.WaitExit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}

// TestFirstStops: as process 1 a stop lets a long request end within --shutdown-timeout, cuts it at that limit, and at once on a
// second signal; the exit code is 0 each time.
func TestFirstStops(t *testing.T) {
	eachFirst(t, func(t *testing.T, start func(args ...string) *First) {
		for _, how := range []string{"in time", "too long", "second signal"} {
			n := NewNode(t, "slow")
			limit := map[string]string{"in time": "1m", "too long": "1s", "second signal": "0"}[how]
			f := start("--nodes", n.Addr, "--shutdown-timeout", limit)
			f.WaitOnline(n)
			r := n.Hang()
			answer := r.Ask(f.Traffic)
			f.Signal(syscall.SIGTERM)
			mark := f.WaitLog(0, "stopping")
			f.WaitClosed()
			switch how {
			case "in time":
				close(r.Release)
				if got := <-answer; got != "done" {
					t.Errorf("%s: the running request got %q", how, got)
				}
			case "second signal":
				f.Signal(syscall.SIGTERM)
				f.WaitLog(mark, "second signal")
			}
			if code := f.WaitExit(); code != 0 {
				t.Errorf("%s: exit code %d", how, code)
			}
			if how != "in time" {
				if got := <-answer; got == "done" {
					t.Errorf("%s: the request was answered", how)
				}
				close(r.Release)
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
