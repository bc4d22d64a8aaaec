package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// stopped asserts the end: exit code 0, nothing of HAProxy left, ports free.
func (b *Balancer) stopped(st model.HAProxyStatus) {
	b.T.Helper()
	if code := b.WaitExit(); code != 0 {
		b.T.Errorf("exit code %d", code)
	}
	for _, pid := range []int{st.Master, st.Worker} {
		if pid > 0 && Alive(pid) {
			b.T.Errorf("process %d of HAProxy is alive", pid)
		}
	}
	if !Free(b.Traffic) || !Free(b.Mgmt) {
		b.T.Error("a port is taken after the stop")
	}
}

// TestStopOrder: readyz turns first, requests are served for the whole of --stop-delay, then the ports close.
func TestStopOrder(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		b := Start(t, h, "--nodes", n.Addr, "--stop-delay", "2500ms")
		b.WaitOnline(n)
		st := b.Status().HAProxy
		if err := b.Get("/readyz", nil); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		underLoad(t, b.Traffic, func() {
			b.Signal(syscall.SIGTERM)
			b.Eventually(func() string {
				if err := b.Get("/readyz", nil); err == nil || !strings.Contains(err.Error(), "status 503") {
					return fmt.Sprintf("readyz: %v", err)
				}
				return ""
			})
			if err := b.Get("/healthz", nil); err != nil {
				t.Error(err)
			}
			for time.Since(begin) < 1500*time.Millisecond {
				if status, node, _ := fetch(t, b.Traffic, "/"); status != 200 || node != "a" {
					t.Errorf("%d from %q while the ports are open", status, node)
				}
			}
		})
		b.WaitClosed()
		if took := time.Since(begin); took < 2500*time.Millisecond {
			t.Errorf("the port closed after %s", took)
		}
		b.stopped(st)
		if !strings.Contains(b.Log(), "every request was answered") {
			t.Errorf("the end is not told: %s", b.Log())
		}
	})
}

// TestStopIdle: idle kept-alive clients delay a stop by no more than timeout http-keep-alive; one that asks meanwhile gets its answer.
func TestStopIdle(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		b := Start(t, h, "--nodes", n.Addr)
		b.WaitOnline(n)
		st := b.Status().HAProxy
		var idle []*bufio.ReadWriter
		for range 50 {
			c, err := net.Dial("tcp", b.Traffic)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			rw := bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c))
			if closes := askOnce(t, rw); closes {
				t.Fatal("the connection is not kept")
			}
			idle = append(idle, rw)
		}
		b.Signal(syscall.SIGTERM)
		b.WaitClosed()
		if closes := askOnce(t, idle[len(idle)-1]); !closes {
			t.Error("an old connection is kept after an answer")
		}
		b.stopped(st)
		for i, c := range idle {
			if data, err := io.ReadAll(c); err != nil || len(data) > 0 {
				t.Errorf("client %d got %q, %v", i, data, err)
			}
		}
	})
}

// askOnce sends a request over a connection and reports whether the answer closes it.
func askOnce(t *testing.T, rw *bufio.ReadWriter) (closes bool) {
	t.Helper()
	if _, err := rw.WriteString("GET /x HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := rw.Flush(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(rw.Reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d, %v", resp.StatusCode, err)
	}
	_ = resp.Body.Close()
	return resp.Close
}

// TestStopDownload: a download without an end is cut at --shutdown-timeout, at --hard-stop-after when there is no such limit, or by
// a second signal, and not before; the log says that it was cut.
func TestStopDownload(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		for name, flags := range map[string][]string{
			"shutdown-timeout": {"--shutdown-timeout", "2s"}, "hard-stop-after": {"--hard-stop-after", "2s"}, "second signal": nil,
		} {
			t.Run(name, func(t *testing.T) {
				n := NewNode(t, "endless")
				endless := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					pace := time.NewTicker(5 * time.Millisecond) // leaves the processor to others
					defer pace.Stop()
					for r.Context().Err() == nil {
						if _, err := w.Write(make([]byte, 32<<10)); err != nil {
							return
						}
						<-pace.C
					}
				})
				b := Start(t, h, append([]string{"--nodes", n.Addr}, flags...)...)
				b.WaitOnline(n)
				st := b.Status().HAProxy
				n.Handler.Store(&endless)
				resp, err := http.Get("http://" + b.Traffic + "/")
				if err != nil {
					t.Fatal(err)
				}
				cut := make(chan error, 1)
				go func() {
					_, err := io.Copy(io.Discard, resp.Body)
					cut <- err
				}()
				begin := time.Now()
				b.Signal(syscall.SIGTERM)
				mark := b.WaitLog(0, "stopping")
				b.WaitClosed()
				if flags == nil {
					select {
					case err := <-cut:
						t.Errorf("cut by the first signal: %v", err)
					case <-time.After(time.Second):
					}
					b.Signal(syscall.SIGTERM)
					b.WaitLog(mark, "second signal")
				}
				if err := <-cut; err == nil {
					t.Error("an endless download ended")
				}
				if took := time.Since(begin); flags != nil && took < 1900*time.Millisecond {
					t.Errorf("cut after %s", took)
				}
				b.WaitLog(mark, "running requests were cut")
				b.stopped(st)
				_ = resp.Body.Close()
			})
		}
	})
}

// TestStopFrozen: a HAProxy that somebody has stopped goes on when it is to end, and finishes what runs; nothing is killed.
func TestStopFrozen(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		for _, who := range []string{"master", "worker", "both"} {
			n := NewNode(t, "a")
			b := Start(t, h, "--nodes", n.Addr)
			b.WaitOnline(n)
			b.WaitApplied()
			st := b.Status().HAProxy
			r := n.Hang()
			answer := r.Ask(b.Traffic)
			for _, pid := range map[string][]int{"master": {st.Master}, "worker": {st.Worker}, "both": {st.Master, st.Worker}}[who] {
				if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
			}
			b.Signal(syscall.SIGTERM)
			b.WaitClosed()
			close(r.Release)
			if got := <-answer; got != "done" {
				t.Errorf("%s: the running request got %q", who, got)
			}
			b.stopped(st)
			if log := b.Log(); strings.Contains(log, "by force") || !strings.Contains(log, "every request was answered") {
				t.Errorf("%s: %s", who, log)
			}
		}
	})
}

// TestStopDeaf: a HAProxy that ignores SIGTERM is killed after five seconds of that, not before, and it is told as a fault.
func TestStopDeaf(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		b := Start(t, h, "--nodes", n.Addr, "--shutdown-timeout", "1s")
		b.WaitOnline(n)
		b.WaitApplied()
		st := b.Status().HAProxy
		await := deafen(t, st.Master, st.Worker)
		begin := time.Now()
		b.Signal(syscall.SIGTERM)
		await()
		if took := time.Since(begin); took < 6*time.Second {
			t.Errorf("killed after %s: a second of draining and five of patience were due", took)
		}
		b.WaitLog(0, "level=ERROR", "stopped by force", "ignored SIGTERM for 5s")
		b.stopped(st)
	})
}

// held is a HAProxy that waits where a test wants it to: while there is a file `hold` in dir, a call with the argument waits, having
// made a file `waits`.
func held(t *testing.T, h haproxytest.HAProxy, argument string) (held haproxytest.HAProxy, dir string) {
	t.Helper()
	dir = TempDir(t)
	script := fmt.Sprintf(`#!/bin/sh
for a; do
  if [ "$a" = %s ]; then while [ -e %s/hold ]; do : >%s/waits; sleep 0.02; done; fi
done
exec %s "$@"
`, argument, dir, dir, h.Path)
	held = h
	held.Path = filepath.Join(dir, "haproxy")
	if err := os.WriteFile(held.Path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return held, dir
}

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func (b *Balancer) waitFile(path string) {
	b.T.Helper()
	b.Eventually(func() string {
		if _, err := os.Stat(path); err != nil {
			return err.Error()
		}
		return ""
	})
}

// TestStopDuringApply: a stop waits for an apply that runs, for five seconds at most or until a second signal; running requests end well.
func TestStopDuringApply(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		for _, how := range []string{"it ends", "it hangs", "second signal", "the files follow"} {
			n, m := NewNode(t, "a"), NewNode(t, "m")
			slow, dir := held(t, h, "-c")
			tmpl := filepath.Join(TempDir(t), "haproxy.tmpl")
			touchTemplate(t, tmpl, 0)
			b := Start(t, slow, "--nodes", n.Addr, "--template", tmpl)
			b.WaitOnline(n)
			b.WaitApplied()
			st := b.Status().HAProxy
			r := n.Hang()
			answer := r.Ask(b.Traffic)
			touch(t, filepath.Join(dir, "hold"))
			if how == "the files follow" { // what was changed at run time is being checked for the files
				b.Put(m.Addr)
			} else {
				touchTemplate(t, tmpl, 1, "backend other")
			}
			b.waitFile(filepath.Join(dir, "waits"))
			b.Signal(syscall.SIGTERM)
			mark := b.WaitLog(0, "stopping")
			switch how {
			case "it ends":
				if err := os.Remove(filepath.Join(dir, "hold")); err != nil {
					t.Fatal(err)
				}
				b.WaitLog(mark, "msg=reloaded")
			case "second signal":
				b.Signal(syscall.SIGTERM)
				b.WaitLog(mark, "second signal")
			}
			if how != "second signal" {
				b.WaitClosed()
				close(r.Release)
				if got := <-answer; got != "done" {
					t.Errorf("%s: the running request got %q", how, got)
				}
			}
			b.stopped(st)
			if how == "second signal" {
				close(r.Release)
				<-answer
			}
		}
	})
}

// TestStopDuringStart: a signal while HAProxy starts ends both; nothing is left.
func TestStopDuringStart(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		for _, argument := range []string{"-W", "-c"} { // the start itself, and the check before it
			slow, dir := held(t, h, argument)
			touch(t, filepath.Join(dir, "hold"))
			b := Start(t, slow)
			b.waitFile(filepath.Join(dir, "waits"))
			b.Signal(syscall.SIGTERM)
			b.stopped(model.HAProxyStatus{})
			left, err := filepath.Glob("/proc/[0-9]*/cmdline")
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range left {
				if data, err := os.ReadFile(name); err == nil && strings.Contains(string(data), dir) {
					t.Errorf("left behind: %s %q", name, data)
				}
			}
		}
	})
}
