package dockertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"
)

const (
	startLimit = 60 * time.Second // from the start of dockerd to its first answer; a healthy one needs 1 s
	stopLimit  = 30 * time.Second // between SIGTERM and SIGKILL; dockerd gives its containers 10 s
	removed    = 30 * time.Second // for the engine to remove what a test has made
)

// Engine is a running Docker Engine.
type Engine struct {
	Socket string         // path of its Unix socket
	Host   string         // the same, as DOCKER_HOST names it
	Client *client.Client // outlives restarts of the engine

	folder string
	config map[string]any

	mu     sync.Mutex // guards what follows
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
	relay  *relay
	images map[string]*image
}

// shared is the engine of this test binary.
var shared lazily

// lazily is an engine that starts when it is first asked for.
type lazily struct {
	folder string // empty outside of the namespaces
	once   sync.Once
	engine *Engine
	err    error
}

// Shared is the engine of the package's tests, started by the first one that asks. Whoever stops or changes it must not run beside
// others, and leaves it running.
func Shared(t *testing.T) *Engine {
	t.Helper()
	if shared.folder == "" {
		t.Fatal("dockertest: the package's TestMain must call dockertest.Main")
	}
	shared.once.Do(func() { shared.engine, shared.err = newEngine(shared.folder) })
	if shared.err != nil {
		t.Fatalf("Docker Engine: %v", shared.err)
	}
	return shared.engine
}

// end stops the engine if there is one; that it is not asked for afterwards is Main's business.
func (l *lazily) end() error {
	if l.engine == nil {
		return nil
	}
	if l.engine.relay != nil {
		l.engine.relay.stop()
	}
	return errors.Join(l.engine.stop(), l.engine.Client.Close())
}

func newEngine(folder string) (*Engine, error) {
	e := &Engine{Socket: filepath.Join(folder, "docker.sock"), folder: folder, images: map[string]*image{}}
	e.Host = "unix://" + e.Socket
	e.config = map[string]any{"shutdown-timeout": 10}
	var err error
	if e.Client, err = client.New(client.WithHost(e.Host)); err != nil {
		return nil, err
	}
	if err := e.start(); err != nil {
		return nil, err
	}
	return e, nil
}

// Start starts the engine after a Stop or Kill and waits for its first answer. Its socket is a new one.
func (e *Engine) Start(t *testing.T) {
	t.Helper()
	if err := e.start(); err != nil {
		t.Fatal(err)
	}
}

func (e *Engine) start() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.writeConfig(); err != nil {
		return err
	}
	log, err := os.OpenFile(e.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	cmd := exec.Command("dockerd", "--config-file", filepath.Join(e.folder, "daemon.json"), "--host", e.Host,
		"--data-root", filepath.Join(e.folder, "data"), "--exec-root", filepath.Join(e.folder, "exec"), "--pidfile", filepath.Join(e.folder, "dockerd.pid"),
		"--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", groupOf(e.folder))
	cmd.Stdout, cmd.Stderr = log, log
	if err := errors.Join(cmd.Start(), log.Close()); err != nil {
		return fmt.Errorf("start dockerd: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // stop reads the state
	}()
	e.cmd, e.exited = cmd, exited

	deadline := time.NewTimer(startLimit)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, err := e.Client.Ping(ctx, client.PingOptions{})
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-exited:
			return fmt.Errorf("dockerd ended at its start: %s\n%s", cmd.ProcessState, e.Log())
		case <-deadline.C:
			return errors.Join(fmt.Errorf("dockerd did not answer within %s: %w\n%s", startLimit, err, e.Log()), cmd.Process.Kill())
		}
	}
}

func (e *Engine) writeConfig() error {
	data, err := json.Marshal(e.config)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(e.folder, "daemon.json"), data, 0o600)
}

func (e *Engine) logFile() string { return filepath.Join(e.folder, "dockerd.log") }

// Log is the end of what the engine has logged.
func (e *Engine) Log() string {
	data, err := os.ReadFile(e.logFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(data), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

// Stop ends the engine as a service manager does, and with it its containers unless they live on (LiveRestore).
func (e *Engine) Stop(t *testing.T) {
	t.Helper()
	if err := e.stop(); err != nil {
		t.Fatal(err)
	}
}

func (e *Engine) stop() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop dockerd: %w", err)
	}
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	select {
	case <-e.exited:
		return nil
	case <-limit.C:
	}
	err := e.cmd.Process.Kill()
	<-e.exited
	return errors.Join(fmt.Errorf("dockerd did not end within %s of SIGTERM\n%s", stopLimit, e.Log()), err)
}

// Kill ends the engine by SIGKILL. Its containers run on until it is started again.
func (e *Engine) Kill(t *testing.T) {
	t.Helper()
	e.Signal(t, syscall.SIGKILL)
	<-e.exited
}

// Signal sends a signal to the engine; SIGSTOP makes it stall without a byte, until SIGCONT.
func (e *Engine) Signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := e.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// LiveRestore says whether containers outlive the engine. It is off in the beginning, because Swarm does not allow it.
func (e *Engine) LiveRestore(t *testing.T, on bool) {
	t.Helper()
	e.mu.Lock()
	e.config["live-restore"] = on
	err := e.writeConfig()
	e.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	e.Signal(t, syscall.SIGHUP)
	e.Eventually(t, func() (string, error) {
		info, err := e.Client.Info(t.Context(), client.InfoOptions{})
		if err != nil || info.Info.LiveRestoreEnabled != on {
			return "the engine has not read its settings", err
		}
		return "", nil
	})
}

// Eventually waits until check says nothing.
func (*Engine) Eventually(t *testing.T, check func() (string, error)) {
	t.Helper()
	deadline := time.NewTimer(startLimit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		wrong, err := check()
		if wrong == "" && err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("after %s: %s (%v)", startLimit, wrong, err)
		}
	}
}
