package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// manager is a service manager: the socket that sd_notify(3) writes to.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
	path string
}

func newManager(t *testing.T) *manager {
	t.Helper()
	path := filepath.Join(TempDir(t), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &manager{t, conn, path}
}

// next gives the next message, as lines.
func (m *manager) next(within time.Duration) ([]string, error) {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		m.t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	n, err := m.conn.Read(buf)
	return strings.Split(string(buf[:n]), "\n"), err
}

// until waits for a message with a line of this beginning, and gives all lines up to and with that message.
func (m *manager) until(line string) (seen []string) {
	m.t.Helper()
	for end := time.Now().Add(Patience); ; {
		lines, err := m.next(time.Until(end))
		if err != nil {
			m.t.Fatalf("%s is not told, only %q: %v", line, seen, err)
		}
		seen = append(seen, lines...)
		for _, l := range lines {
			if strings.HasPrefix(l, line) {
				return seen
			}
		}
	}
}

// start starts fnlb as a service manager does that wants a sign of life every two seconds.
func (m *manager) start(t *testing.T, h haproxytest.HAProxy, args ...string) *Balancer {
	t.Helper()
	ports := haproxytest.FreePorts(t, 2)
	b := &Balancer{T: t, Dir: TempDir(t), Traffic: fmt.Sprintf("127.0.0.1:%d", ports[0]), Mgmt: fmt.Sprintf("127.0.0.1:%d", ports[1])}
	b.Cmd = exec.Command(Binary(t), append([]string{"--listen", b.Traffic, "--mgmt-listen", b.Mgmt, "--run-dir", b.Dir, "--haproxy", h.Path,
		"--hc-interval", "200ms", "--haproxy-config", filepath.Join(b.Dir, "haproxy.cfg")}, args...)...)
	b.Cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.path, "WATCHDOG_USEC=2000000")
	b.start()
	return b
}

// TestNotifyProtocol drives the whole life of a Type=notify service: ready when it serves and not before, alive, read again, stopping.
func TestNotifyProtocol(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		m := newManager(t)
		b := m.start(t, h, "--nodes", n.Addr)
		before := m.until("READY=1")
		if joined := strings.Join(before, "\n"); strings.Contains(joined, "RELOADING") || strings.Contains(joined, "STOPPING") {
			t.Errorf("told %q", before)
		}
		if status, _, body := fetch(t, b.Traffic, "/"); status != 200 && status != 503 {
			t.Errorf("ready, and a request gets %d: %s", status, body)
		}
		b.WaitOnline(n)
		m.until("STATUS=serving, 1 of 1 servers are up")
		for range 3 {
			m.until("WATCHDOG=1")
		}
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", b.Status().HAProxy.Master))
		if err != nil || strings.Contains(string(environ), "NOTIFY") || strings.Contains(string(environ), "WATCHDOG") {
			t.Errorf("HAProxy knows the service manager: %q, %v", environ, err)
		}
		b.Signal(syscall.SIGHUP)
		var usec int64
		for _, line := range m.until("RELOADING=1") {
			if v, ok := strings.CutPrefix(line, "MONOTONIC_USEC="); ok {
				if _, err := fmt.Sscan(v, &usec); err != nil {
					t.Error(err)
				}
			}
		}
		if usec <= 0 {
			t.Error("a reload without the time of its begin")
		}
		m.until("READY=1")

		r := n.Hang()
		answer := r.Ask(b.Traffic)
		b.Signal(syscall.SIGTERM)
		m.until("STOPPING=1")
		for range 3 { // a long drain is alive as well
			m.until("WATCHDOG=1")
		}
		close(r.Release)
		if got := <-answer; got != "done" {
			t.Errorf("the running request got %q", got)
		}
		if code := b.WaitExit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}

// TestNotifyFailedStart: who cannot start is never ready.
func TestNotifyFailedStart(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		m := newManager(t)
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		b := m.start(t, h, "--listen", taken.Addr().String())
		if code := b.WaitExit(); code != 1 {
			t.Errorf("exit code %d", code)
		}
		for {
			lines, err := m.next(100 * time.Millisecond) // it has ended: whatever it told is there
			if err != nil {
				break
			}
			for _, l := range lines {
				if l == "READY=1" {
					t.Error("it said that it is ready")
				}
			}
		}
	})
}

// TestNotifyAbsent: a service manager that has gone holds nobody up.
func TestNotifyAbsent(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		m := newManager(t)
		b := m.start(t, h, "--nodes", n.Addr)
		m.until("READY=1")
		if err := m.conn.Close(); err != nil {
			t.Fatal(err)
		}
		b.WaitOnline(n)
		b.WaitLog(0, "the service manager cannot be told how we are")
		b.Signal(syscall.SIGTERM)
		if code := b.WaitExit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}
