package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/runtime"
)

const (
	externalLook = 100 * time.Millisecond // between two looks for a HAProxy that is not there
	externalAsk  = time.Second            // between two questions to one whose process we cannot see
	externalGone = 5 * time.Second        // without an answer on its socket: a master that re-executes itself is away for a moment
)

// External is a HAProxy that somebody else starts and ends: a unit or a container of its own. We share its master socket and its files,
// see it come and go, and never signal it.
type External struct {
	socket string
	client *runtime.Client
	binary string // of the same kind, for haproxy -c; "" when there is none here
	log    *slog.Logger

	watched sync.WaitGroup

	mu        sync.Mutex
	exited    chan error
	cancel    context.CancelFunc
	sees      bool   // it shares our network and our process numbers
	unchecked string // why texts are not checked
}

// NewExternal makes an External for the master socket at this path; binary may be "".
func NewExternal(socket, binary string, log *slog.Logger) *External {
	return &External{socket: socket, client: runtime.New(socket), binary: binary, log: log, unchecked: "none runs yet"}
}

// Start waits until a HAProxy listens on the master socket, for as long as it takes, and begins to watch it. The revision is not
// looked at.
func (e *External) Start(ctx context.Context, _ string) (Identity, error) {
	told := false
	for {
		pid, err := SocketOwner(e.socket)
		if err == nil {
			return e.attach(pid), nil
		}
		if !told {
			told = true
			e.log.Warn("waiting for the HAProxy of --haproxy-master", "socket", e.socket, "error", err)
		}
		select {
		case <-ctx.Done():
			return Identity{}, fmt.Errorf("wait for the HAProxy of %s: %w, last seen: %w", e.socket, ctx.Err(), err)
		case <-time.After(externalLook):
		}
	}
}

// attach begins to watch the HAProxy that has the socket now.
func (e *External) attach(pid int) Identity {
	id := Identity{Master: pid, Started: time.Now()}
	_, st, known := describe(pid)
	if pid > 0 && known {
		id.Ticks, id.Started = st.ticks, startTime(st.ticks)
	}
	e.release()
	ctx, cancel := context.WithCancel(context.Background())
	exited := make(chan error, 1)
	e.mu.Lock()
	e.exited, e.cancel, e.sees = exited, cancel, pid > 0 && known && sameNamespaces(pid)
	e.mu.Unlock()
	e.watched.Go(func() {
		if err := e.watch(ctx, pid); err != nil {
			exited <- err
		}
	})
	return id
}

// release ends the watching.
func (e *External) release() {
	e.mu.Lock()
	cancel := e.cancel
	e.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	e.watched.Wait()
}

// watch returns when the HAProxy is gone: its process has ended; or, where that lives where we cannot see it, its master has become
// younger, or nobody has answered for long. It gives nil when ctx ends.
func (e *External) watch(ctx context.Context, pid int) error {
	if pid > 0 {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("process %d has ended", pid)
		}
		if err == nil {
			return watchEnd(ctx, pid, fd)
		}
	}
	tick := time.NewTicker(externalAsk)
	defer tick.Stop()
	answered, before := time.Now(), time.Duration(0)
	for {
		p, err := e.client.Processes(ctx)
		age := uptime(p.Master.Uptime)
		switch {
		case err == nil && age < before:
			return errors.New("its master is another one")
		case err == nil:
			answered, before = time.Now(), age
		case ctx.Err() == nil && time.Since(answered) > externalGone:
			return fmt.Errorf("nobody has answered on %s for %s: %w", e.socket, externalGone, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// watchEnd returns when a process has ended, or nil when ctx ends. It closes the pidfd.
func watchEnd(ctx context.Context, pid, fd int) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer context.AfterFunc(ctx, func() { _ = f.Close() })() // that ends the waiting
	err := awaitPidfd(f)
	if ctx.Err() != nil {
		return nil
	}
	_ = f.Close() // nothing was written to it
	if err != nil {
		return err
	}
	return fmt.Errorf("process %d has ended", pid)
}

// uptime reads such as 0d00h00m01s (management manual, section 9.4, show proc); what is none counts as old.
func uptime(text string) time.Duration {
	var d, h, m, s int64
	if _, err := fmt.Sscanf(text, "%dd%dh%dm%ds", &d, &h, &m, &s); err != nil {
		return math.MaxInt64
	}
	return time.Duration(((d*24+h)*60+m)*60+s) * time.Second
}

// Exited gives one value when the HAProxy that Start returned last is gone. Ask for the channel again after each Start.
func (e *External) Exited() <-chan error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.exited
}

// Stop leaves HAProxy running and ends the watching.
func (e *External) Stop(context.Context) error {
	e.release()
	return nil
}

// Supersede does nothing: somebody else starts the next one.
func (*External) Supersede() {}

// TrimLog does nothing: the log is somebody else's.
func (*External) TrimLog() error { return nil }

// Running tells the version of the HAProxy that runs, on which it depends whether our binary can check texts for it.
func (e *External) Running(version string) {
	why := "there is no HAProxy here to check texts with"
	if e.binary != "" {
		switch a, err := ReadAbilities(context.Background(), e.binary); {
		case err != nil:
			why = err.Error()
		case a.Version != version:
			why = fmt.Sprintf("%s is HAProxy %s, and %s runs", e.binary, a.Version, version)
		default:
			why = ""
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unchecked = why
}

// Unchecked says why texts are not checked before a reload; "" when they are.
func (e *External) Unchecked() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.unchecked
}

// Check asks our own binary about a text, when it is of the version that runs; else the reload itself is the check.
func (e *External) Check(ctx context.Context, files ...string) (warnings string, err error) {
	if e.Unchecked() != "" {
		return "", nil
	}
	return Checker{Binary: e.binary}.Check(ctx, files...)
}

// CheckBinds is the function CheckBinds where HAProxy lives in our network; elsewhere nothing can be tried.
func (e *External) CheckBinds(inForce, wanted []conf.Bind, pids []int) (untried []conf.Bind, err error) {
	e.mu.Lock()
	sees := e.sees
	e.mu.Unlock()
	if !sees {
		return wanted, nil
	}
	return CheckBinds(inForce, wanted, pids)
}

// Watcher is Sharing.Look where HAProxy lives in our network; elsewhere it sees nothing.
func (e *External) Watcher() func(inForce []conf.Bind, pids []int) ([]string, error) {
	var s Sharing
	return func(inForce []conf.Bind, pids []int) ([]string, error) {
		e.mu.Lock()
		sees := e.sees
		e.mu.Unlock()
		if !sees {
			return nil, nil
		}
		return s.Look(inForce, pids)
	}
}

// sameNamespaces reports whether a process lives in our network and counts processes as we do.
func sameNamespaces(pid int) bool {
	for _, ns := range []string{"net", "pid"} {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		own, errOwn := os.Readlink("/proc/self/ns/" + ns)
		if err != nil || errOwn != nil || own != theirs {
			return false
		}
	}
	return true
}
