package runtime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// text is a configuration that listens on a port; what is added goes to its backend.
func text(port int, backend string) string {
	return fmt.Sprintf("defaults\n  mode http\n  timeout connect 1s\n  timeout client 30s\n  timeout server 30s\n"+
		"frontend fe\n  bind 127.0.0.1:%d\n  default_backend be\nbackend be\n%s", port, backend)
}

func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func each(t *testing.T, f func(t *testing.T, h haproxytest.HAProxy)) {
	t.Helper()
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		f(t, h)
	})
}

func TestStart(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		i := h.Spawn(t, text(haproxytest.FreePort(t), ""), "r1") // there is no socket yet
		master, worker, err := New(i.Socket).Loaded(within(t, 10*time.Second), "r1")
		if err != nil || master != i.PID || worker <= 0 || worker == master {
			t.Errorf("master %d, worker %d, %v", master, worker, err)
		}
		if _, _, err := New(i.Socket).Loaded(within(t, 100*time.Millisecond), "r2"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `"r1"`) {
			t.Errorf("another revision: %v", err)
		}
	})
}

func TestQuestions(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		dead := haproxytest.FreePort(t)
		i := h.Start(t, text(haproxytest.FreePort(t), fmt.Sprintf(
			"  server s1 127.0.0.1:%d check inter 100ms fall 1 weight 20\n  server s2 [::1]:81\n  server s3 unix@/none\n  server s4 127.0.0.1:82 disabled\n", dead)), "r1")
		c := New(i.Socket)
		ctx := within(t, 20*time.Second)
		_, worker, err := c.Loaded(ctx, "r1")
		if err != nil {
			t.Fatal(err)
		}

		p, err := c.Processes(ctx)
		if err != nil || p.Master.PID != i.PID || !strings.HasPrefix(p.Master.Version, h.Version+".") || p.Reloads != 0 || p.Failed != 0 ||
			len(p.Workers) != 1 || p.Workers[0].PID != worker || len(p.Old) != 0 || p.Master.Uptime == "" {
			t.Errorf("processes %+v, %v", p, err)
		}
		info, err := c.Info(ctx, worker)
		if err != nil || info.PID != worker || info.MaxConn < 10 || info.UlimitN < info.MaxConn || !strings.HasPrefix(info.Version, h.Version+".") || info.Stopping {
			t.Errorf("info %+v, %v", info, err)
		}
		got, err := c.Do(ctx, worker, mustCmd(t, "show", "env", "NONE"), mustCmd(t, "set", "server", "be/s2", "state", "drain"), mustCmd(t, "nonsense"))
		if err != nil || len(got) != 3 || got[0] != "Variable not found" || got[1] != "" || !strings.HasPrefix(string(got[2]), "Unknown command") {
			t.Errorf("replies %q, %v", got, err)
		}
		for _, stranger := range []int{1, i.PID, 1 << 22} {
			if _, err := c.Do(ctx, stranger, mustCmd(t, "show", "info")); !errors.Is(err, ErrNoWorker) {
				t.Errorf("pid %d: %v", stranger, err)
			}
		}

		var rows []ServerState
		for {
			if _, rows, err = c.ServersState(ctx, worker); err != nil {
				t.Fatal(err)
			}
			if len(rows) == 4 && !rows[0].Up {
				break
			}
		}
		for n := range rows {
			rows[n].Since = 0
		}
		want := []ServerState{
			{Backend: "be", Server: "s1", Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(dead)), Checked: true, Weight: 20, InitialWeight: 20},
			{Backend: "be", Server: "s2", Addr: netip.MustParseAddrPort("[::1]:81"), Up: true, Drain: true, Weight: 1, InitialWeight: 1},
			{Backend: "be", Server: "s3", Up: true, Weight: 1, InitialWeight: 1},
			{Backend: "be", Server: "s4", Addr: netip.MustParseAddrPort("127.0.0.1:82"), Maint: true, Forced: true, Weight: 1, InitialWeight: 1},
		}
		if !slices.Equal(rows, want) {
			t.Errorf("servers\n%+v, want\n%+v", rows, want)
		}
		stats, err := c.Stats(ctx, worker)
		if err != nil || len(stats) != 4 || stats[0].Server != "s1" || stats[0].Status != "DOWN" || stats[0].CheckStatus != "L4CON" ||
			stats[0].LastCheck != "Connection refused" || stats[1].Status != "DRAIN" || stats[2].Status != "no check" || stats[3].Status != "MAINT" {
			t.Errorf("stats %+v, %v", stats, err)
		}
	})
}

// A question to an unknown worker must not cost the master socket one of its 10 connections, at any time.
func TestUnknownWorkersCostNothing(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		var servers strings.Builder
		for n := range 3000 { // it takes a while to load, and so to know its worker
			fmt.Fprintf(&servers, "  server s%d 127.0.0.1:1 check\n", n)
		}
		i := h.Spawn(t, text(haproxytest.FreePort(t), servers.String()), "r")
		c := New(i.Socket)
		ctx := within(t, 20*time.Second)
		for { // without a pause
			attempt, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			p, err := c.Processes(attempt)
			var got string
			if err == nil && len(p.Workers) > 0 {
				got, err = c.one(attempt, p.Workers[0].PID, showLoaded)
			}
			cancel()
			if got != "" {
				break
			}
			if ctx.Err() != nil {
				t.Fatal(err)
			}
		}
		for n := range 500 {
			if _, err := c.Do(ctx, 1<<22, showInfo); !errors.Is(err, ErrNoWorker) {
				t.Fatalf("question %d: %v", n, err)
			}
		}
		if _, err := c.Processes(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestReload(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		ports := haproxytest.FreePorts(t, 2)
		good := text(ports[0], "  server s1 127.0.0.1:1\n")
		i := h.Start(t, good, "r0")
		c := New(i.Socket)
		ctx := within(t, 60*time.Second)
		_, worker, err := c.Loaded(ctx, "r0")
		if err != nil {
			t.Fatal(err)
		}
		succeeds := func(revision string) {
			t.Helper()
			i.Write(t, good, revision)
			now, err := c.Reload(ctx, revision)
			if err != nil || now == worker {
				t.Fatalf("reload of %s: worker %d after %d, %v", revision, now, worker, err)
			}
			master, serving, err := c.Loaded(ctx, revision)
			if err != nil || master != i.PID || serving != now {
				t.Fatalf("after the reload of %s to worker %d: master %d, worker %d, %v", revision, now, master, serving, err)
			}
			worker = now
		}
		fails := func(cfg, words string) {
			t.Helper()
			i.Write(t, cfg, "bad")
			_, err := c.Reload(ctx, "bad")
			var refused *ReloadError
			if !errors.As(err, &refused) {
				t.Fatalf("not refused: %v", err)
			}
			if says := strings.Contains(refused.Output, words); says != h.AtLeast(3, 0) {
				t.Errorf("HAProxy said %q", refused.Output)
			}
			if h.AtLeast(3, 0) == strings.Contains(err.Error(), "log") {
				t.Errorf("the error is %v", err)
			}
			last := "r1"
			if _, serving, err := c.Loaded(ctx, last); err != nil || serving != worker {
				t.Fatalf("after the refusal: worker %d of %d, %v", serving, worker, err)
			}
		}

		succeeds("r0") // nothing has changed: all the same it is a new worker that confirms
		hold, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0]))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := hold.Write([]byte("GET / HTTP/1.1\r\n")); err != nil { // a request under way keeps its worker
			t.Fatal(err)
		}
		held := worker
		for { // the connection is in the worker, not only in the kernel's queue
			info, err := c.Info(ctx, held)
			if err != nil {
				t.Fatal(err)
			}
			if info.CurrConns > 0 {
				break
			}
		}
		succeeds("r1")
		p, err := c.Processes(ctx)
		if err != nil || len(p.Old) != 1 || p.Old[0].PID != held || p.Reloads != 2 {
			t.Errorf("processes %+v, %v", p, err)
		}
		if info, err := c.Info(ctx, held); err != nil || !info.Stopping {
			t.Errorf("old worker: %+v, %v", info, err)
		}

		fails(good+"  bogus\n", "unknown keyword 'bogus'")
		fails(good+"  bogus\n", "unknown keyword 'bogus'") // 3.2 does not count the second
		taken, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", ports[1]))
		if err != nil {
			t.Fatal(err)
		}
		fails(good+fmt.Sprintf("listen l\n  bind 127.0.0.1:%d\n", ports[1]), "cannot bind socket")
		if err := errors.Join(taken.Close(), hold.Close()); err != nil {
			t.Fatal(err)
		}
		succeeds("r2")

		i.Write(t, good, "other")
		if _, err := c.Reload(within(t, 2*time.Second), "mine"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `"other"`) {
			t.Errorf("a reload to another revision: %v", err)
		}
	})
}

// Reloads one after the other, and questions meanwhile: each is confirmed by its own worker, and the questions fail only in ways
// that they say.
func TestReloadsUnderQuestions(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		cfg := text(haproxytest.FreePort(t), "  server s1 127.0.0.1:1\n")
		i := h.Start(t, cfg, "r")
		c := New(i.Socket)
		ctx := within(t, 60*time.Second)
		done := make(chan struct{})
		var all sync.WaitGroup
		defer all.Wait()
		defer close(done)
		all.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				p, err := c.Processes(ctx)
				if err != nil {
					continue // 2.6 is between two lives
				}
				for _, w := range p.Workers {
					if info, err := c.Info(ctx, w.PID); err == nil && info.PID != w.PID {
						t.Errorf("%d answered for %d", info.PID, w.PID)
					}
				}
			}
		})
		seen := map[int]bool{}
		for n := range 8 {
			revision := fmt.Sprintf("r%d", n)
			i.Write(t, cfg, revision)
			worker, err := c.Reload(ctx, revision)
			if err != nil || seen[worker] {
				t.Fatalf("reload %d: worker %d, %v", n, worker, err)
			}
			seen[worker] = true
		}
	})
}

func TestStoppedWorker(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		i := h.Start(t, text(haproxytest.FreePort(t), ""), "r")
		c := New(i.Socket)
		_, worker, err := c.Loaded(within(t, 10*time.Second), "r")
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(worker, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := syscall.Kill(worker, syscall.SIGCONT); err != nil {
				t.Error(err)
			}
		}()
		for !stopped(t, worker) { // each thread stops in its own time
			goruntime.Gosched()
		}
		start := time.Now()
		_, err = c.Info(t.Context(), worker)
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took < callLimit || took > 3*callLimit {
			t.Errorf("after %s: %v", took, err)
		}
		if p, err := c.Processes(t.Context()); err != nil || len(p.Workers) != 1 {
			t.Errorf("the master: %+v, %v", p, err)
		}
	})
}

// stopped reports whether all threads of a process have stopped.
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("threads of %d: %d, %v", pid, len(files), err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, after, _ := strings.Cut(string(b), ") "); !strings.HasPrefix(after, "T") {
			return false
		}
	}
	return true
}

func TestKilledWorker(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		i := h.Start(t, text(haproxytest.FreePort(t), ""), "r")
		c := New(i.Socket)
		_, worker, err := c.Loaded(within(t, 10*time.Second), "r")
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(worker, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-i.Exited() // the master goes with it
		if code := i.State().ExitCode(); code != 137 {
			t.Errorf("exit code %d", code)
		}
		if _, err := c.Info(t.Context(), worker); err == nil {
			t.Error("a dead worker answers")
		}
		if _, err := c.Reload(within(t, 100*time.Millisecond), "r"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}
