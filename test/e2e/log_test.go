package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// startLogging starts fnlb with standard error on a file of the test's.
func startLogging(t *testing.T, h haproxytest.HAProxy, stderr *os.File, args ...string) *Balancer {
	t.Helper()
	ports := haproxytest.FreePorts(t, 2)
	b := &Balancer{T: t, Dir: TempDir(t), Traffic: fmt.Sprintf("127.0.0.1:%d", ports[0]), Mgmt: fmt.Sprintf("127.0.0.1:%d", ports[1])}
	b.Cmd = exec.Command("sh", append([]string{"-c", `exec "$@" 2>&3 3>&-`, "sh", Binary(t), "--listen", b.Traffic, "--mgmt-listen", b.Mgmt,
		"--run-dir", b.Dir, "--haproxy", h.Path, "--hc-interval", "200ms", "--haproxy-config", filepath.Join(b.Dir, "haproxy.cfg")}, args...)...)
	b.Cmd.Env = append(os.Environ(), "LOG_LEVEL=debug")
	b.Cmd.ExtraFiles = []*os.File{stderr}
	b.start()
	return b
}

// pipe is a pipe whose writing end is for a process.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.Close() // a test may have closed it
		_ = w.Close()
	})
	return r, w
}

var droppedLines = regexp.MustCompile(`(?m)^fnlb_log_lines_dropped_total (\S+)$`)

// logDropped reads the metric.
func (b *Balancer) logDropped() float64 {
	b.T.Helper()
	resp, err := http.Get("http://" + b.Mgmt + "/metrics")
	if err != nil {
		b.T.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.T.Fatal(err)
	}
	m := droppedLines.FindSubmatch(text)
	if m == nil {
		b.T.Fatalf("the metric is missing in %s", text)
	}
	n, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		b.T.Fatal(err)
	}
	return n
}

// TestLogStalled is fault row 29: nobody reads our log, and calls are answered, changes applied and requests served; who reads again
// is told what is missing. A stop is not held up either.
func TestLogStalled(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n, m := NewNode(t, "a"), NewNode(t, "m")
		r, w := pipe(t)
		b := startLogging(t, h, w, "--nodes", n.Addr)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		b.WaitOnline(n)
		underLoad(t, b.Traffic, func() {
			b.Chatter(4800)
			b.Put(m.Addr)
			b.WaitOnline(n, m)
			b.WaitApplied()
		})
		dropped := b.logDropped()
		if dropped == 0 {
			t.Fatal("the log did not stall")
		}
		lines := bufio.NewScanner(r)
		until := func(parts ...string) string {
			t.Helper()
			for lines.Scan() {
				if containsAll(lines.Text(), parts) {
					return lines.Text()
				}
			}
			t.Fatalf("the log ends without %q: %v", parts, lines.Err())
			return ""
		}
		t.Logf("%.0f lines dropped: %s", dropped, until("level=WARN", "lines of this log are missing here", "nobody read them in time"))
		b.Delete(m.Addr)
		until("changed at run time")

		b.Chatter(400) // and again: now it is stopped while nobody reads
		b.Signal(syscall.SIGTERM)
		if code := b.WaitExit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}

// TestLogClosed: whoever read our log has gone for good.
func TestLogClosed(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n, m := NewNode(t, "a"), NewNode(t, "m")
		r, w := pipe(t)
		b := startLogging(t, h, w, "--nodes", n.Addr)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		b.WaitOnline(n)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		underLoad(t, b.Traffic, func() {
			b.Put(m.Addr)
			b.WaitOnline(n, m)
			b.WaitApplied()
			b.Signal(syscall.SIGHUP)
		})
		if b.logDropped() == 0 {
			t.Error("no line was dropped")
		}
		b.Signal(syscall.SIGTERM)
		if code := b.WaitExit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}

// TestLogFullDisk: the log is redirected to a disk that is full (/dev/full answers every write with ENOSPC).
func TestLogFullDisk(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n, m := NewNode(t, "a"), NewNode(t, "m")
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer full.Close()
		b := startLogging(t, h, full, "--nodes", n.Addr)
		b.WaitOnline(n)
		underLoad(t, b.Traffic, func() {
			b.Put(m.Addr)
			b.WaitOnline(n, m)
			b.WaitApplied()
		})
		if b.logDropped() == 0 {
			t.Error("no line was dropped")
		}
		b.Signal(syscall.SIGTERM)
		if code := b.WaitExit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}
