package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// killAfter is how long a process may ignore SIGTERM.
const killAfter = 5 * time.Second

// Master is what tells that HAProxy is ready: haproxy/runtime.Client.
type Master interface {
	// Loaded waits until the worker that takes new connections says that it has loaded the revision.
	Loaded(ctx context.Context, revision string) (master, worker int, err error)
}

// Identity is one running HAProxy.
type Identity struct {
	Master, Worker int // pids
	Started        time.Time
}

// Options say what to start.
type Options struct {
	Binary    string   // absolute: the master executes it again at every reload
	Files     []string // configuration files, in order
	Socket    string   // path of the master socket
	Log       string   // file for HAProxy's own messages
	AccessLog *os.File // becomes HAProxy's file descriptor 3; may be nil
}

// Child is HAProxy as a child of ours, in master-worker mode. Start and Stop are called by one goroutine at a time.
type Child struct {
	o      Options
	master Master
	exited chan error

	mu  sync.Mutex
	run *run // the newest; nil before the first
}

// run is one process from its start to its end.
type run struct {
	cmd     *exec.Cmd
	logFrom int64         // size of the log at its start
	done    chan struct{} // closed when it was reaped
	err     error         // how it ended; read after done
}

// New makes a Child; nothing is started.
func New(o Options, m Master) *Child {
	return &Child{o: o, master: m, exited: make(chan error, 1)}
}

// Exited gives one value, an *ExitError, each time that a HAProxy which Start had returned ends.
func (c *Child) Exited() <-chan error { return c.exited }

// Start starts HAProxy and waits until it has loaded the revision, has ended (then the error is an *ExitError with its own words),
// or ctx ends (then it is stopped at once).
func (c *Child) Start(ctx context.Context, revision string) (Identity, error) {
	if err := c.clear(ctx); err != nil {
		return Identity{}, err
	}
	began := time.Now()
	r, err := c.launch()
	if err != nil {
		return Identity{}, fmt.Errorf("start %s: %w", c.o.Binary, err)
	}
	c.mu.Lock()
	c.run = r
	c.mu.Unlock()

	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the process or with this call
		select {
		case <-r.done:
			cancel()
		case <-wait.Done():
		}
	}()
	master, worker, err := c.master.Loaded(wait, revision)
	if err == nil && master != r.cmd.Process.Pid {
		err = fmt.Errorf("the master socket is answered by process %d, not by %d", master, r.cmd.Process.Pid)
	}
	select {
	case <-r.done:
		return Identity{}, fmt.Errorf("start haproxy: %w", r.err)
	default:
	}
	if err != nil {
		words := logSince(c.o.Log, r.logFrom)
		return Identity{}, errors.Join(fmt.Errorf("start haproxy: %w", err), words, r.end())
	}
	go func() { // ends with the process
		<-r.done
		c.exited <- r.err
	}()
	return Identity{Master: master, Worker: worker, Started: began}, nil
}

// clear makes sure that nothing of an earlier run listens on: workers of a killed master need a moment to notice, and Linux
// would share the ports between them and the new ones. The process group has no number but ours while a member is alive.
func (c *Child) clear(ctx context.Context) error {
	c.mu.Lock()
	last := c.run
	c.mu.Unlock()
	if last != nil {
		if err := endGroup(ctx, last.cmd.Process.Pid); err != nil {
			return err
		}
	}
	return c.removeSocket()
}

// endGroup waits for the members of a group whose leader has ended; those that stay get SIGTERM, and SIGKILL if they ignore it.
func endGroup(ctx context.Context, pgid int) error {
	begin := time.Now()
	signals := []struct {
		after time.Duration
		sig   syscall.Signal
	}{{200 * time.Millisecond, syscall.SIGTERM}, {200*time.Millisecond + killAfter, syscall.SIGKILL}}
	for {
		err := syscall.Kill(-pgid, 0)
		if errors.Is(err, syscall.ESRCH) || zombies(pgid) {
			return nil
		}
		if len(signals) > 0 && time.Since(begin) > signals[0].after {
			if err := syscall.Kill(-pgid, signals[0].sig); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end what is left of haproxy %d: %w", pgid, err)
			}
			signals = signals[1:]
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for what is left of haproxy %d: %w", pgid, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond): // orphans are not ours to wait for
		}
	}
}

func (c *Child) launch() (*run, error) {
	log, from, err := openLog(c.o.Log)
	if err != nil {
		return nil, err
	}
	args := []string{"-W", "-db", "-S", c.o.Socket + ",mode,600"}
	for _, f := range c.o.Files {
		args = append(args, "-f", f)
	}
	cmd := exec.Command(c.o.Binary, args...)
	cmd.Env = []string{} // nothing of ours; nil would be all of it
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.o.AccessLog != nil {
		cmd.ExtraFiles = []*os.File{c.o.AccessLog}
	}
	r := &run{cmd: cmd, logFrom: from, done: make(chan struct{})}
	err = cmd.Start()
	if err = errors.Join(err, log.Close()); err != nil {
		return nil, err
	}
	go func() { // ends with the process
		defer close(r.done)
		_ = cmd.Wait() // what it returns stands in ProcessState
		r.err = exitError(cmd.ProcessState, logSince(c.o.Log, from))
	}()
	return r, nil
}

// Stop lets HAProxy finish its requests (SIGUSR1) until ctx ends, and then ends it at once (SIGTERM). That it had to be killed is
// the only error: a process that ignores SIGTERM is broken. Without a running process there is nothing to do.
func (c *Child) Stop(ctx context.Context) error {
	c.mu.Lock()
	r := c.run
	c.mu.Unlock()
	if r == nil {
		return nil
	}
	if err := r.signal(syscall.SIGUSR1); err != nil {
		return err
	}
	var err error
	select {
	case <-r.done:
	case <-ctx.Done():
		err = r.end()
	}
	return errors.Join(err, c.removeSocket())
}

// removeSocket removes the file that HAProxy leaves behind.
func (c *Child) removeSocket() error {
	if err := os.Remove(c.o.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the master socket: %w", err)
	}
	return nil
}

// end stops the process at once.
func (r *run) end() error {
	// A stopped process takes no signal but these two.
	if err := errors.Join(r.signal(syscall.SIGTERM), r.signal(syscall.SIGCONT)); err != nil {
		return err
	}
	timer := time.NewTimer(killAfter)
	defer timer.Stop()
	select {
	case <-r.done:
		return nil
	case <-timer.C:
	}
	err := syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
	if err == nil || errors.Is(err, syscall.ESRCH) {
		<-r.done
		return fmt.Errorf("haproxy %d ignored SIGTERM for %s and was killed", r.cmd.Process.Pid, killAfter)
	}
	return fmt.Errorf("kill haproxy %d: %w", r.cmd.Process.Pid, err)
}

// signal goes to the master only; os.Process knows when it was reaped, and then its pid may be another's.
func (r *run) signal(sig syscall.Signal) error {
	if err := r.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to haproxy %d: %w", sig, r.cmd.Process.Pid, err)
	}
	return nil
}
