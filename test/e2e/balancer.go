package e2e

import (
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
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	Config  string   // the configuration file
	Behind  []string // in front of fnlb's own command line: what sets a limit or makes a namespace, and then runs it
	Env     []string // besides that of the test
	Cmd     *exec.Cmd

	log    *logBuffer
	reads  *os.File      // our end of the pipe that fnlb logs into
	exited chan struct{} // closed when the process has ended
}

// binaryDir is the folder with the binary; nil: none was built.
var binaryDir atomic.Pointer[string]

var binary = sync.OnceValues(func() (string, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return "", err
	}
	// Not named by our pid: that is the same in the process namespaces of two packages' tests, and they share the temporary folder.
	dir, err := os.MkdirTemp("", "fnlb-e2e-")
	if err != nil {
		return "", err
	}
	binaryDir.Store(&dir)
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // other users of the tests run what is in it
		return "", err
	}
	path := filepath.Join(dir, "fnlb")
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
		if err := f.Value.Set("8"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	code = m.Run()
	if err := RemoveBinary(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// RemoveBinary removes what Binary has built.
func RemoveBinary() error {
	if dir := binaryDir.Load(); dir != nil {
		return os.RemoveAll(*dir)
	}
	return nil
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
	b := New(t, TempDir(t))
	b.Run(h, args...)
	return b
}

// New is a balancer with free ports that Run starts.
func New(t *testing.T, dir string) *Balancer {
	t.Helper()
	ports := haproxytest.FreePorts(t, 2)
	return &Balancer{
		T: t, Dir: dir, Traffic: fmt.Sprintf("127.0.0.1:%d", ports[0]), Mgmt: fmt.Sprintf("127.0.0.1:%d", ports[1]),
		Config: filepath.Join(dir, "haproxy.cfg"),
	}
}

// Shell is a Behind: a line of shell that fnlb's process runs before it becomes fnlb.
func Shell(line string) []string { return []string{"sh", "-c", line + `; exec "$@"`, "sh"} }

// Run starts the process, again after an earlier one has ended.
func (b *Balancer) Run(h haproxytest.HAProxy, args ...string) {
	b.T.Helper()
	config := b.Config
	if config == "" {
		config = filepath.Join(b.Dir, "haproxy.cfg")
	}
	all := slices.Concat(b.Behind, []string{
		Binary(b.T), "--listen", b.Traffic, "--mgmt-listen", b.Mgmt, "--run-dir", b.Dir, "--haproxy", h.Path,
		"--haproxy-config", config, "--hc-interval", "200ms", "--hc-timeout", "1",
	}, args)
	b.Cmd = exec.Command(all[0], all[1:]...)
	// The engine of whoever runs the tests is not asked, and what a test looks for in the log is not told twice.
	b.Cmd.Env = append(append(os.Environ(), "FNLB_DOCKER=off", "FNLB_FIRST_SCREEN=off"), b.Env...)
	b.start()
}

func (b *Balancer) start() {
	b.T.Helper()
	if b.log == nil {
		b.log = &logBuffer{more: make(chan struct{})}
	}
	r, w, err := os.Pipe()
	if err != nil {
		b.T.Fatal(err)
	}
	b.reads, b.Cmd.Stderr = r, w
	b.exited = make(chan struct{})
	if err := errors.Join(b.Cmd.Start(), w.Close()); err != nil {
		b.T.Fatal(err)
	}
	cmd, exited := b.Cmd, b.exited
	go func() {
		_, _ = io.Copy(b.log, r) // ends with the last writer, or with CloseLog
		_ = cmd.Wait()           // how it ended stands in cmd.ProcessState
		_ = r.Close()            // a second time after CloseLog
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
	data, err := exchange(addr, method, path, body)
	if err != nil || v == nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// exchange gives the body of an answer; one that is not 200 is an error.
func exchange(addr, method, path, body string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: status %d: %s", method, path, resp.StatusCode, data)
	}
	return data, nil
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

// WaitClosed waits until the traffic port is closed.
func (b *Balancer) WaitClosed() {
	b.T.Helper()
	for end := time.Now().Add(Patience); !Free(b.Traffic); {
		if time.Now().After(end) {
			b.T.Fatal("the traffic port is open")
		}
		select {
		case <-b.Exited():
		case <-time.After(10 * time.Millisecond):
		}
	}
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
