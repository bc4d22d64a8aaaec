package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// Patience bounds every wait of these tests; it is for a machine that is busy, not a figure to meet.
const Patience = 30 * time.Second

// Balancer is one running fnlb.
type Balancer struct {
	T       *testing.T
	Dir     string // run directory, and the configuration file's folder
	Traffic string // HOST:PORT
	Mgmt    string
	Cmd     *exec.Cmd

	log    *logBuffer
	exited chan struct{} // closed when the process has ended
}

var binary = sync.OnceValues(func() (string, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return "", err
	}
	path := filepath.Join(os.TempDir(), fmt.Sprintf("fnlb-e2e-%d", os.Getpid()))
	out, err := exec.Command("go", "build", "-C", root, "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build fnlb: %w\n%s", err, out)
	}
	return path, nil
})

// Binary builds fnlb once for all tests of the package.
func Binary(t *testing.T) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Main runs the tests of a package that builds the binary, and removes it afterwards; for TestMain.
//
// These tests wait most of their time, so that more of them run side by side than there are processors.
func Main(m *testing.M) (code int) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("6"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	code = m.Run()
	if err := removeBinary(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

func removeBinary() error {
	path, err := binary()
	if err != nil {
		return err
	}
	return os.Remove(path)
}

// TempDir is a folder whose path is short enough for sockets.
func TempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	// HAProxy's worker, which is another user, must reach the management socket inside.
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Start runs fnlb with a run directory of its own, free ports, and args behind the flags for those. It does not wait for anything but
// the process; see WaitReady and WaitNodes.
func Start(t *testing.T, h haproxytest.HAProxy, args ...string) *Balancer {
	t.Helper()
	ports := haproxytest.FreePorts(t, 2)
	b := &Balancer{T: t, Dir: TempDir(t), Traffic: fmt.Sprintf("127.0.0.1:%d", ports[0]), Mgmt: fmt.Sprintf("127.0.0.1:%d", ports[1])}
	b.Run(h, args...)
	return b
}

// Run starts the process, again after an earlier one has ended.
func (b *Balancer) Run(h haproxytest.HAProxy, args ...string) {
	b.T.Helper()
	all := append([]string{
		"--listen", b.Traffic, "--mgmt-listen", b.Mgmt, "--run-dir", b.Dir, "--haproxy", h.Path,
		"--haproxy-config", filepath.Join(b.Dir, "haproxy.cfg"), "--hc-interval", "200ms", "--hc-timeout", "1",
	}, args...)
	b.Cmd = exec.Command(Binary(b.T), all...)
	b.start()
}

func (b *Balancer) start() {
	b.T.Helper()
	if b.log == nil {
		b.log = &logBuffer{more: make(chan struct{})}
	}
	b.Cmd.Stderr = b.log
	b.exited = make(chan struct{})
	if err := b.Cmd.Start(); err != nil {
		b.T.Fatal(err)
	}
	cmd, exited := b.Cmd, b.exited
	go func() {
		_ = cmd.Wait() // how it ended stands in cmd.ProcessState
		close(exited)
	}()
	b.T.Cleanup(func() {
		select {
		case <-exited:
		default:
			b.Signal(syscall.SIGTERM)
			select { // two signals of a kind that wait at the same time are one
			case <-exited:
			case <-time.After(200 * time.Millisecond):
				b.Signal(syscall.SIGTERM)
			}
			b.WaitExit()
		}
		if b.T.Failed() {
			b.T.Logf("log of fnlb:\n%s", b.log)
			if data, err := os.ReadFile(filepath.Join(b.Dir, "haproxy.log")); err == nil {
				b.T.Logf("log of HAProxy:\n%s", data)
			}
		}
	})
}

// Signal sends a signal to fnlb.
func (b *Balancer) Signal(sig os.Signal) {
	b.T.Helper()
	if err := b.Cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		b.T.Fatal(err)
	}
}

// WaitExit waits for the end of fnlb and gives its exit code; -1 after a signal.
func (b *Balancer) WaitExit() int {
	b.T.Helper()
	select {
	case <-b.exited:
	case <-time.After(Patience):
		b.T.Fatalf("fnlb does not end; its log:\n%s", b.log)
	}
	return b.Cmd.ProcessState.ExitCode()
}

// Exited is closed when fnlb has ended.
func (b *Balancer) Exited() <-chan struct{} { return b.exited }

// Log is what fnlb has logged so far.
func (b *Balancer) Log() string { return b.log.String() }

// WaitLog waits until the log has a line with all of the parts, from the byte on that mark says, and returns the end of that line.
func (b *Balancer) WaitLog(mark int, parts ...string) int {
	b.T.Helper()
	end := time.After(Patience)
	for {
		text, more := b.log.state()
		at := mark
		for line := range strings.Lines(text[mark:]) {
			at += len(line)
			if containsAll(line, parts) {
				return at
			}
		}
		select {
		case <-more:
		case <-b.exited:
			text, _ := b.log.state()
			for line := range strings.Lines(text[mark:]) {
				if containsAll(line, parts) {
					return len(text)
				}
			}
			b.T.Fatalf("fnlb ended, and its log has no line with %q:\n%s", parts, text)
		case <-end:
			b.T.Fatalf("no line with %q in the log:\n%s", parts, text[mark:])
		}
	}
}

func containsAll(line string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(line, p) {
			return false
		}
	}
	return true
}

// Get asks the management API and decodes the answer into v.
func (b *Balancer) Get(path string, v any) error {
	return call(b.Mgmt, http.MethodGet, path, "", v)
}

// Put adds a node, Delete removes one; both fail the test unless they are answered with 200.
func (b *Balancer) Put(node string) { b.T.Helper(); b.change(http.MethodPut, node) }

// Delete removes a node.
func (b *Balancer) Delete(node string) { b.T.Helper(); b.change(http.MethodDelete, node) }

func (b *Balancer) change(method, node string) {
	b.T.Helper()
	if err := call(b.Mgmt, method, "/1/lb/nodes", fmt.Sprintf(`{"node":%q}`, node), nil); err != nil {
		b.T.Fatal(err)
	}
}

func call(addr, method, path, body string, v any) error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: status %d: %s", method, path, resp.StatusCode, data)
	}
	if v != nil {
		return json.Unmarshal(data, v)
	}
	return nil
}

// Status asks for /1/lb/status.
func (b *Balancer) Status() model.Status {
	b.T.Helper()
	var st model.Status
	if err := b.Get("/1/lb/status", &st); err != nil {
		b.T.Fatal(err)
	}
	return st
}

// Eventually waits until ok gives "", and fails with what it gave last. The API tells no events, so it is asked again and again.
func (b *Balancer) Eventually(ok func() string) {
	b.T.Helper()
	end := time.Now().Add(Patience)
	for {
		why := ok()
		if why == "" {
			return
		}
		if time.Now().After(end) {
			b.T.Fatalf("it does not come: %s", why)
		}
		select {
		case <-b.exited:
			b.T.Fatalf("fnlb ended while waiting: %s", why)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Nodes gives the list with the states.
func (b *Balancer) Nodes() (map[string]string, error) {
	var list struct{ Nodes map[string]string }
	err := b.Get("/1/lb/nodes", &list)
	return list.Nodes, err
}

// WaitOnline waits until exactly these nodes are listed, all online, and the State that the supervisor has is that of the list: a
// removal is listed before it gets there.
func (b *Balancer) WaitOnline(nodes ...*Node) {
	b.T.Helper()
	b.Eventually(func() string {
		list, err := b.Nodes()
		if err != nil {
			return err.Error()
		}
		for _, n := range nodes {
			if list[n.Addr] != "online" {
				return fmt.Sprintf("%s is %q in %v", n.Addr, list[n.Addr], list)
			}
		}
		if len(list) != len(nodes) {
			return fmt.Sprintf("%d nodes are wanted, listed are %v", len(nodes), list)
		}
		var st model.Status
		if err := b.Get("/1/lb/status", &st); err != nil {
			return err.Error()
		}
		if len(st.Servers) != len(nodes) {
			return fmt.Sprintf("%d nodes are wanted, the State has %v", len(nodes), st.Servers)
		}
		return ""
	})
}

// WaitApplied waits until the newest State is in force, and the files hold it.
func (b *Balancer) WaitApplied() model.Status {
	b.T.Helper()
	var st model.Status
	b.Eventually(func() string {
		if st = b.Status(); st.Wanted != st.Applied || st.Wanted == 0 || st.HAProxy.Behind {
			return fmt.Sprintf("wanted %d, applied %d, files behind: %v", st.Wanted, st.Applied, st.HAProxy.Behind)
		}
		return ""
	})
	return st
}

// WaitStatus waits until the status is as it should be.
func (b *Balancer) WaitStatus(ok func(model.Status) bool) {
	b.T.Helper()
	b.Eventually(func() string {
		if st := b.Status(); !ok(st) {
			return fmt.Sprintf("the status is %+v", st)
		}
		return ""
	})
}

// logBuffer collects what fnlb writes and tells when there is more.
type logBuffer struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{}
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.more)
	l.more = make(chan struct{})
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	text, _ := l.state()
	return text
}

func (l *logBuffer) state() (string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String(), l.more
}

// Alive reports whether a process runs; one that has ended and waits for its parent does not.
func Alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(data), ") Z ")
}

// Free reports whether an address can be listened on.
func Free(addr string) bool {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	return l.Close() == nil
}
