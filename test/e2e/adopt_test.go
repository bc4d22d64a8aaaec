package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// kill ends fnlb as the kernel would, when memory is short.
func (b *Balancer) kill() {
	b.T.Helper()
	b.Signal(syscall.SIGKILL)
	b.WaitExit()
	b.T.Cleanup(func() { // a test that fails leaves nothing behind
		for _, pid := range masters(b.T, b.Dir) {
			_ = syscall.Kill(pid, syscall.SIGTERM) // it may have ended meanwhile
		}
	})
}

// times reads a number of repetitions from the environment; without one it is few.
func times(t *testing.T, name string, few int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n <= 0 {
		t.Fatalf("%s=%q is no number", name, text)
	}
	return n
}

// masters lists the HAProxy masters of a run directory by its master socket: the processes that lead their group.
func masters(t *testing.T, dir string) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, name := range files {
		line, err := os.ReadFile(name)
		if err != nil || !strings.Contains(string(line), "-S\x00"+filepath.Join(dir, "private", "master.sock")+",") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			t.Fatal(err)
		}
		if group, err := syscall.Getpgid(pid); err == nil && group == pid && Alive(pid) {
			out = append(out, pid)
		}
	}
	return out
}

// waitKept waits until a change by the API is kept for the next start, which is a moment after the call.
func (b *Balancer) waitKept(node string, listed bool) {
	b.T.Helper()
	b.Eventually(func() string {
		text, err := os.ReadFile(filepath.Join(b.Dir, "sources", "nodes.json"))
		if err != nil || strings.Contains(string(text), fmt.Sprintf(`%q},"since"`, node)) != listed { // what was deleted is named there as well
			return fmt.Sprintf("%s %v", text, err)
		}
		return ""
	})
}

// TestAdopt is fault row 10: fnlb is killed again and again under load, and each time the next one goes on with the HAProxy that runs:
// no reload, the same processes, no failed request. FNLB_KILLS=100 is the long run.
func TestAdopt(t *testing.T) {
	kills := times(t, "FNLB_KILLS", 5)
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := append(three(t), NewNode(t, "d"))
		b := Start(t, h, "--nodes", list(n[:3]...))
		b.WaitOnline(n[:3]...)
		b.Put(n[3].Addr) // known to memory alone
		b.WaitOnline(n...)
		b.waitKept(n[3].Addr, true)
		was := b.WaitApplied().HAProxy
		var took []time.Duration
		underLoad(t, b.Traffic, func() {
			for i := range kills {
				b.kill()
				mark := len(b.Log())
				begin := time.Now()
				b.Run(h, "--nodes", list(n[:3]...))
				b.WaitLog(mark, "adopted the HAProxy", fmt.Sprint(was.Master), "reload=false")
				took = append(took, time.Since(begin))
				if i%10 == 0 || i == kills-1 {
					b.WaitOnline(n...)
				}
				st := b.WaitApplied()
				if st.HAProxy.Master != was.Master || st.HAProxy.Worker != was.Worker || st.Phase != model.Serving || len(st.Degraded) > 0 {
					t.Fatalf("after kill %d: %+v, degraded %v", i+1, st.HAProxy, st.Degraded)
				}
				if c := b.changes(); len(c) != 1 || c[0].Method != model.Adopt {
					t.Fatalf("after kill %d: changes %+v", i+1, c)
				}
			}
		})
		slices.Sort(took)
		t.Logf("%d kills: adopted after %s (median), %s (longest)", kills, took[len(took)/2], took[len(took)-1])

		// It is ours in full: changes, its death and the stop.
		b.Delete(n[3].Addr)
		b.WaitOnline(n[:3]...)
		b.waitKept(n[3].Addr, false)
		b.WaitApplied()
		mark := len(b.Log())
		if err := syscall.Kill(was.Master, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		mark = b.WaitLog(mark, "haproxy died")
		b.WaitLog(mark, "haproxy started")
		b.WaitOnline(n[:3]...)
		st := b.WaitApplied()
		b.kill()
		b.Run(h, "--nodes", list(n[:3]...))
		b.WaitOnline(n[:3]...)
		stopClean(t, b, was.Master, st.HAProxy.Master, st.HAProxy.Worker)
	})
}

// TestAdoptByAnotherBinary is an upgrade: another build of fnlb goes on with the HAProxy of the old one.
func TestAdoptByAnotherBinary(t *testing.T) {
	newer := filepath.Join(TempDir(t), "fnlb")
	if out, err := exec.Command("go", "build", "-C", "../..", "-ldflags", "-X github.com/fnlb/fnlb/config.Version=9.9.9", "-o", newer, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		b := Start(t, h, "--nodes", list(n...))
		b.WaitOnline(n...)
		was := b.WaitApplied().HAProxy
		args := b.Cmd.Args[1:]
		underLoad(t, b.Traffic, func() {
			b.kill()
			mark := len(b.Log())
			b.Cmd = exec.Command(newer, args...)
			b.start()
			b.WaitLog(mark, "adopted the HAProxy", "reload=false")
			b.WaitOnline(n...)
		})
		if st := b.WaitApplied(); !strings.HasPrefix(st.Version, "9.9.9") || st.HAProxy.Worker != was.Worker {
			t.Errorf("version %s, worker %d after %d", st.Version, st.HAProxy.Worker, was.Worker)
		}
	})
}

// TestAdoptOtherSettings: other settings are a reload with a reason; what HAProxy cannot change while it runs is refused, with both
// ways out, and traffic is not touched by it.
func TestAdoptOtherSettings(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		b := Start(t, h, "--nodes", list(n...))
		b.WaitOnline(n...)
		was := b.WaitApplied().HAProxy
		other := filepath.Join(TempDir(t), "haproxy.cfg")
		copied := filepath.Join(TempDir(t), "haproxy")
		script, err := os.ReadFile(h.Path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(copied, script, 0o755); err != nil {
			t.Fatal(err)
		}
		underLoad(t, b.Traffic, func() {
			b.kill()
			for flag, value := range map[string][2]string{
				"--haproxy-config": {other, filepath.Join(b.Dir, "haproxy.cfg")}, "--haproxy": {copied, h.Path},
				"--access-log": {filepath.Join(b.Dir, "access.log"), "off"}, "--haproxy-user": {"nobody", "haproxy"},
			} {
				mark := len(b.Log())
				b.Run(h, "--nodes", list(n...), flag, value[0])
				if code := b.WaitExit(); code != 1 {
					t.Errorf("%s: exit code %d", flag, code)
				}
				for _, want := range []string{fmt.Sprintf("kill -USR1 %d", was.Master), flag + " " + value[1], value[0]} {
					if got := b.Log()[mark:]; !strings.Contains(got, want) {
						t.Errorf("%s: %q is missing in %s", flag, want, got)
					}
				}
			}
			mark := len(b.Log())
			b.Run(h, "--nodes", list(n...), "--timeout-queue", "7s")
			mark = b.WaitLog(mark, "adopted the HAProxy")
			b.WaitLog(mark, "msg=reloaded", "settings")
			b.WaitOnline(n...)
		})
		if st := b.WaitApplied(); st.HAProxy.Master != was.Master || st.HAProxy.Worker == was.Worker {
			t.Errorf("%+v after %+v", st.HAProxy, was)
		}
	})
}

// TestAdoptWithDamage: without a usable applied.json, with a text that was changed by hand, and with one that was removed, the HAProxy
// that runs is adopted and loads ours again; no server is lost in between.
func TestAdoptWithDamage(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		b := Start(t, h, "--nodes", list(n...))
		b.WaitOnline(n...)
		was := b.WaitApplied().HAProxy
		config, applied := filepath.Join(b.Dir, "haproxy.cfg"), filepath.Join(b.Dir, "applied.json")
		ours, err := os.ReadFile(config)
		if err != nil {
			t.Fatal(err)
		}
		underLoad(t, b.Traffic, func() {
			for _, damage := range []func() error{
				func() error { return os.Remove(applied) },
				func() error { return os.WriteFile(applied, []byte(`{"revision":`), 0o640) },
				func() error { return os.WriteFile(config, []byte("global\n  bogus 1\n"), 0o640) },
				func() error { return os.Remove(config) },
				func() error { return os.Truncate(filepath.Join(b.Dir, "own.cfg"), 0) },
			} {
				b.kill()
				if err := damage(); err != nil {
					t.Fatal(err)
				}
				mark := len(b.Log())
				b.Run(h, "--nodes", list(n...))
				b.WaitLog(mark, "adopted the HAProxy", fmt.Sprint(was.Master))
				b.WaitOnline(n...)
				b.WaitApplied()
				b.WaitStatus(func(st model.Status) bool { return len(st.Degraded) == 0 })
				if now, err := os.ReadFile(config); err != nil || string(now) != string(ours) {
					t.Errorf("the text on disk is not ours: %v", err)
				}
			}
		})
	})
}

// TestDeadMaster: with HAProxy dead too, its socket stale and the pid files naming strangers, fnlb starts anew, and nobody is signalled.
func TestDeadMaster(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		b := Start(t, h, "--nodes", list(n...))
		b.WaitOnline(n...)
		st := b.WaitApplied()
		stranger := exec.Command("sleep", "1000")
		if err := stranger.Start(); err != nil {
			t.Fatal(err)
		}
		gone := make(chan error, 1)
		go func() { gone <- stranger.Wait() }()
		b.kill()
		if err := syscall.Kill(st.HAProxy.Master, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for Alive(st.HAProxy.Master) || Alive(st.HAProxy.Worker) {
			time.Sleep(time.Millisecond)
		}
		pid := strconv.Itoa(stranger.Process.Pid)
		applied := filepath.Join(b.Dir, "applied.json")
		text, err := os.ReadFile(applied)
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string]string{
			filepath.Join(b.Dir, "fnlb.pid"): pid + "\n", filepath.Join(b.Dir, "fnlb.lock"): pid + "\n",
			applied: strings.Replace(string(text), strconv.Itoa(st.HAProxy.Master), pid, 1),
		} {
			if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		b.Run(h, "--nodes", list(n...))
		b.WaitOnline(n...)
		now := b.WaitApplied()
		stopClean(t, b, now.HAProxy.Master, now.HAProxy.Worker)
		select {
		case err := <-gone:
			t.Errorf("the stranger was ended: %v", err)
		default:
		}
		if err := stranger.Process.Kill(); err != nil {
			t.Error(err)
		}
		if err := <-gone; err == nil {
			t.Error("the stranger was not killed")
		}
	})
}

// TestKilledWhileStopping: fnlb is killed in the middle of a drain. The next one serves beside the HAProxy that finishes, and its stop
// waits for both.
func TestKilledWhileStopping(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		b := Start(t, h, "--nodes", n.Addr)
		b.WaitOnline(n)
		was := b.WaitApplied().HAProxy
		arrived, release := make(chan struct{}), make(chan struct{})
		hold := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			close(arrived)
			<-release
		})
		n.Handler.Store(&hold)
		answer := make(chan int, 1)
		go func() {
			status, _, _ := fetch(t, b.Traffic, "/held")
			answer <- status
		}()
		<-arrived
		n.Handler.Store(nil)
		b.Signal(syscall.SIGTERM)
		b.Eventually(func() string {
			if !Free(b.Traffic) {
				return "the traffic port is open"
			}
			return ""
		})
		b.kill()
		mark := len(b.Log())
		b.Run(h, "--nodes", n.Addr)
		mark = b.WaitLog(mark, "only finishes its last requests")
		b.WaitLog(mark, "haproxy started")
		b.WaitOnline(n)
		if status, node, _ := fetch(t, b.Traffic, "/"); status != 200 || node != "a" {
			t.Errorf("%d from %q", status, node)
		}
		if got := masters(t, b.Dir); len(got) != 2 || !slices.Contains(got, was.Master) {
			t.Errorf("masters %v, the first one is %d", got, was.Master)
		}
		close(release)
		if status := <-answer; status != 200 {
			t.Errorf("the running request got %d", status)
		}
		st := b.WaitApplied()
		stopClean(t, b, was.Master, st.HAProxy.Master, st.HAProxy.Worker)
	})
}

// TestKilledAtRandom is fault row 8 from outside: fnlb is killed at random moments of starts, changes and reloads, under load; one
// HAProxy runs in the end, nothing is lost, and it converges. FNLB_SEEDS=200 is the long run; FNLB_SEED is where it begins.
func TestKilledAtRandom(t *testing.T) {
	seeds, first := times(t, "FNLB_SEEDS", 8), times(t, "FNLB_SEED", 1)
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := append(three(t), NewNode(t, "d"))
		b := Start(t, h, "--nodes", list(n[:3]...))
		b.WaitOnline(n[:3]...)
		b.WaitApplied()
		kills := 0
		underLoad(t, b.Traffic, func() {
			for seed := first; seed < first+seeds; seed++ {
				kills += killAtRandom(b, h, n, uint64(seed))
				if got := masters(t, b.Dir); len(got) != 1 {
					t.Fatalf("seed %d: masters %v", seed, got)
				}
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
		})
		t.Logf("%d seeds, %d kills", seeds, kills)
		st := b.WaitApplied()
		stopClean(t, b, st.HAProxy.Master, st.HAProxy.Worker)
	})
}

// killAtRandom changes nodes and kills fnlb one to three times, then lets it live and waits until all is as it is wanted. It says how
// often it has killed.
func killAtRandom(b *Balancer, h haproxytest.HAProxy, n []*Node, seed uint64) int {
	b.T.Helper()
	r := rand.New(rand.NewPCG(seed, 0))
	kills := 1 + r.IntN(3)
	for range kills {
		for range r.IntN(3) {
			method := []string{http.MethodPut, http.MethodDelete}[r.IntN(2)]
			// It may be killed in the middle of the start, when nobody answers.
			_ = call(b.Mgmt, method, "/1/lb/nodes", fmt.Sprintf(`{"node":%q}`, n[3].Addr), nil)
		}
		timer := time.NewTimer(time.Duration(r.IntN(300)) * time.Millisecond)
		select {
		case <-timer.C:
		case <-b.exited:
			b.T.Fatalf("seed %d: fnlb has ended", seed)
		}
		b.kill()
		b.Run(h, "--nodes", list(n[:3]...))
	}
	b.Eventually(func() string {
		var st model.Status
		if err := b.Get("/1/lb/status", &st); err != nil || st.Phase != model.Serving {
			return fmt.Sprintf("phase %q, %v", st.Phase, err)
		}
		return ""
	})
	if r.IntN(2) == 0 {
		b.Put(n[3].Addr)
		b.WaitOnline(n...)
	} else {
		b.Delete(n[3].Addr)
		b.WaitOnline(n[:3]...)
	}
	b.WaitStatus(func(st model.Status) bool { return st.Wanted == st.Applied && len(st.Degraded) == 0 })
	return kills
}
