package haproxytest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	startLimit = 10 * time.Second // from the start to the first answer of the worker
	askLimit   = 2 * time.Second
	drainLimit = 5 * time.Second // between SIGUSR1 and SIGTERM, and between SIGTERM and SIGKILL
)

// Instance is a running HAProxy: a master with one worker.
type Instance struct {
	HAProxy
	Dir    string // short folder of its own, removed at the end of the test
	Socket string // master socket
	Config string // the main text; own.cfg beside it carries the revision
	PID    int    // of the master

	exited chan struct{}
	state  *os.ProcessState
}

// Start runs HAProxy as a child with cfg and, in a second file, the revision, and waits until its worker confirms it. It is
// stopped gracefully at the end of the test; what it said is logged if the test failed.
func (h HAProxy) Start(t *testing.T, cfg, revision string) *Instance {
	t.Helper()
	i := h.Spawn(t, cfg, revision)
	deadline := time.NewTimer(startLimit)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := 50 * time.Millisecond // 3.2 swallows a question that comes in the moment when its worker gets ready
	for {
		began := time.Now()
		if got, err := i.ask("@1 show env FNLB_REVISION", limit); err == nil && strings.Contains(got, "FNLB_REVISION="+revision+"\n") {
			return i
		}
		if time.Since(began) >= limit {
			limit = min(2*limit, askLimit)
		}
		select {
		case <-tick.C:
		case <-i.exited:
			t.Fatalf("haproxy %s ended at its start: %s\n%s", h.Version, i.state, i.Output())
		case <-deadline.C:
			t.Fatalf("haproxy %s did not load revision %s within %s\n%s", h.Version, revision, startLimit, i.Output())
		}
	}
}

// Spawn is Start without waiting.
func (h HAProxy) Spawn(t *testing.T, cfg, revision string) *Instance {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "hap") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	i := &Instance{
		HAProxy: h,
		Dir:     dir,
		Socket:  filepath.Join(dir, "master.sock"),
		Config:  filepath.Join(dir, "haproxy.cfg"),
		exited:  make(chan struct{}),
	}
	i.Write(t, cfg, revision)
	out, err := os.Create(filepath.Join(dir, "output")) // a file: a pipe of ours could block HAProxy
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(h.Path, "-W", "-db", "-S", i.Socket, "-f", i.Config, "-f", i.own())
	cmd.Env = []string{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := errors.Join(cmd.Start(), out.Close()); err != nil {
		t.Fatal(err)
	}
	i.PID = cmd.Process.Pid
	go func() {
		defer close(i.exited)
		_ = cmd.Wait() // the tests read state; a killed HAProxy is no error here
		i.state = cmd.ProcessState
	}()
	t.Cleanup(func() {
		i.stop(t, cmd.Process)
		if t.Failed() {
			t.Logf("haproxy %s said:\n%s", h.Version, i.Output())
		}
	})
	return i
}

func (i *Instance) own() string { return filepath.Join(i.Dir, "own.cfg") }

// Write replaces the text and the revision on disk; a reload makes HAProxy read them.
func (i *Instance) Write(t *testing.T, cfg, revision string) {
	t.Helper()
	// Without the HTTP client that nobody uses here, HAProxy starts in a third of the time: it reads no certificate authorities.
	for file, text := range map[string]string{i.Config: cfg, i.own(): "global\n  httpclient.ssl.verify none\n  setenv FNLB_REVISION " + revision + "\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Output is all that HAProxy has printed so far.
func (i *Instance) Output() string {
	b, err := os.ReadFile(filepath.Join(i.Dir, "output"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Exited is closed when the master has ended.
func (i *Instance) Exited() <-chan struct{} { return i.exited }

// State says how the master ended; only after Exited.
func (i *Instance) State() *os.ProcessState { return i.state }

// Ask sends one line to the master socket and reads the whole reply, within two seconds.
func (i *Instance) Ask(line string) (reply string, err error) { return i.ask(line, askLimit) }

func (i *Instance) ask(line string, limit time.Duration) (reply string, err error) {
	c, err := net.DialTimeout("unix", i.Socket, limit)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	worker := strings.HasPrefix(line, "@")
	if worker { // 3.0 and 3.2 may keep the connection for ever if it names an unknown worker before it is closed for writing
		line = "show version\n" + line
	}
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return "", err
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	if worker {
		_, b, _ = bytes.Cut(b, []byte("\n\n"))
	}
	return string(b), err
}

// stop lets running requests finish, then insists. Signals go by pid, and to the group only when the master would not end.
func (i *Instance) stop(t *testing.T, p *os.Process) {
	kill := func() error { return syscall.Kill(-i.PID, syscall.SIGKILL) }
	for _, try := range []struct {
		name string
		send func() error
	}{
		{"SIGUSR1", func() error { return p.Signal(syscall.SIGUSR1) }},
		{"SIGTERM", func() error { return p.Signal(syscall.SIGTERM) }},
		{"SIGKILL to its group", kill},
	} {
		if err := try.send(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(fmt.Errorf("stop haproxy by %s: %w", try.name, err))
		}
		timer := time.NewTimer(drainLimit)
		select {
		case <-i.exited:
			timer.Stop()
			if err := kill(); err != nil && !errors.Is(err, syscall.ESRCH) { // a worker that outlived its master
				t.Error(fmt.Errorf("kill what haproxy left behind: %w", err))
			}
			return
		case <-timer.C:
		}
	}
	t.Errorf("haproxy %s, process %d, did not end", i.Version, i.PID)
}
