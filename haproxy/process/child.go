package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	killAfter = 5 * time.Second // how long a process may ignore SIGTERM
	lookEvery = time.Second     // how often a drain is looked at
)

// Master is what tells that HAProxy is ready: haproxy/runtime.Client.
type Master interface {
	// Loaded waits until the worker that takes new connections says that it has loaded the revision.
	Loaded(ctx context.Context, revision string) (master, worker int, err error)
}

// Identity is one running HAProxy.
type Identity struct {
	Master, Worker int // pids
	Started        time.Time
	Ticks          uint64 // the master's start in the kernel's clock: with the pid it names a process for good (proc(5), stat, field 22)
}

// Options say what to start.
type Options struct {
	Binary    string   // absolute: the master executes it again at every reload
	Files     []string // configuration files, in order
	Socket    string   // path of the master socket
	Log       string   // file for HAProxy's own messages
	AccessLog *os.File // becomes HAProxy's file descriptor 3; may be nil
}

// Child is HAProxy in master-worker mode, as a child of ours or adopted. Adopt, Start and Stop exclude each other; Exited may be called
// at any time.
type Child struct {
	o        Options
	master   Master
	patience time.Duration // killAfter, but for tests
	look     time.Duration // lookEvery, but for tests

	acting sync.Mutex // held by Adopt, Start and Stop
	mu     sync.Mutex
	run    *run   // what Start or Adopt returned last; nil before
	former []*run // those that were superseded and finish their last requests
}

// run is one HAProxy from its start to its end.
type run struct {
	cmd     *exec.Cmd // nil when it was adopted
	pid     int       // of the master, and of its process group
	ticks   uint64
	logFrom int64
	exited  chan error    // gets err
	done    chan struct{} // closed when it was reaped
	err     *ExitError    // how it ended; read after done

	// Of one that was adopted:
	pidfd  *os.File // waits for its end
	fd     int      // the same as a number: File.Fd would make it blocking
	socket string
	args   []string

	mu     sync.Mutex
	reaped bool // then pid may be another's
}

// New makes a Child; nothing is started.
func New(o Options, m Master) *Child {
	return &Child{o: o, master: m, patience: killAfter, look: lookEvery}
}

// Exited gives one value, an *ExitError, when the HAProxy that Start returned last has ended and nothing of it is left. Ask for the
// channel again after each Start; it is nil before the first.
func (c *Child) Exited() <-chan error {
	if r := c.current(); r != nil {
		return r.exited
	}
	return nil
}

func (c *Child) current() *run {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.run
}

// Start starts HAProxy and waits until it has loaded the revision, has ended (then the error is an *ExitError with its own words),
// or ctx ends (then it is stopped at once). While another HAProxy runs that was started with the same master socket, and was not
// superseded, it does nothing but say so.
func (c *Child) Start(ctx context.Context, revision string) (Identity, error) {
	c.acting.Lock()
	defer c.acting.Unlock()
	if r := c.current(); r != nil && !r.ended() {
		return Identity{}, fmt.Errorf("start haproxy: it runs already, as process %d", r.pid)
	}
	if err := c.clear(); err != nil {
		return Identity{}, fmt.Errorf("start haproxy: %w", err)
	}
	began := time.Now()
	r, err := c.launch()
	if err != nil {
		return Identity{}, fmt.Errorf("start %s: %w", c.o.Binary, err)
	}
	worker, err := c.ready(ctx, r, revision)
	if err != nil {
		return Identity{}, errors.Join(fmt.Errorf("start haproxy: %w", err), c.removeSocket())
	}
	c.mu.Lock()
	c.run = r
	c.mu.Unlock()
	return Identity{Master: r.pid, Worker: worker, Started: began, Ticks: r.ticks}, nil
}

// ready waits until the process says that it has loaded the revision. After an error it has ended.
func (c *Child) ready(ctx context.Context, r *run, revision string) (worker int, err error) {
	wait, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-r.done:
			cancel()
		case <-wait.Done():
		}
	}()
	master, worker, err := c.master.Loaded(wait, revision)
	cancel()
	<-watched
	if err == nil && master != r.pid {
		err = fmt.Errorf("the master socket is answered by process %d, not by %d: a script as the binary must exec HAProxy", master, r.pid)
	}
	if err == nil && !r.ended() {
		return worker, nil
	}
	words := startWords(c.o.Log, r.logFrom)
	if r.ended() {
		return 0, exitError(r.cmd.ProcessState, words, r.err.Killed)
	}
	if words != "" {
		err = fmt.Errorf("%w: %s", err, words)
	}
	return 0, errors.Join(err, r.end(c.patience))
}

// args are what the binary is started with (management manual, section 3).
func (c *Child) args() []string {
	args := []string{"-W", "-db", "-S", c.o.Socket + ",mode,600"}
	for _, f := range c.o.Files {
		args = append(args, "-f", f)
	}
	return args
}

// launch starts the process.
func (c *Child) launch() (*run, error) {
	attributes, err := attributes()
	if err != nil {
		return nil, err
	}
	log, from, err := openLog(c.o.Log)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(c.o.Binary, c.args()...)
	cmd.Env = []string{} // nothing of ours; nil would be all of it
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = attributes
	if c.o.AccessLog != nil {
		cmd.ExtraFiles = []*os.File{c.o.AccessLog}
	}
	r := &run{cmd: cmd, logFrom: from, exited: make(chan error, 1), done: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	r.pid = cmd.Process.Pid
	if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.pid)); err == nil { // else it is not known to the next of us
		st, _ := parseStat(data)
		r.ticks = st.ticks
	}
	go r.watch(c.o.Log, c.patience) // ends with the process
	if err := log.Close(); err != nil {
		return nil, errors.Join(err, r.end(c.patience))
	}
	return r, nil
}

// watch sees the end of the process, ends what it left behind, and reaps it.
func (r *run) watch(log string, patience time.Duration) {
	var killed []int
	err := awaitExit(r.pid)
	if err == nil {
		killed, err = endRest(r, patience)
	} else { // an odd system: it is waited for in the usual way, and what it left ends by itself
		_, errWait := r.cmd.Process.Wait()
		err = errors.Join(err, errWait)
	}
	r.mu.Lock()
	_ = r.cmd.Wait() // what it returns stands in ProcessState
	r.reaped = true
	r.mu.Unlock()
	words := lastWords(log, r.logFrom)
	if err != nil {
		words = strings.TrimPrefix(words+"; "+err.Error(), "; ")
	}
	r.err = exitError(r.cmd.ProcessState, words, killed)
	close(r.done) // before it is told: who hears it may start the next at once
	r.exited <- r.err
}

func (r *run) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// Stop lets HAProxy finish its requests (SIGUSR1) until ctx ends, and then ends it at once (SIGTERM); also those that were superseded.
// It returns when nothing of it is left. That something had to be killed is the only error: a process that ignores SIGTERM is broken.
// Without a running process there is nothing to do.
func (c *Child) Stop(ctx context.Context) error {
	c.acting.Lock()
	defer c.acting.Unlock()
	runs := slices.Clone(c.former)
	if r := c.current(); r != nil {
		runs = append([]*run{r}, runs...)
	}
	if len(runs) == 0 {
		return nil
	}
	var errs []error
	for _, r := range runs {
		if r.ended() {
			continue
		}
		if ctx.Err() == nil {
			errs = append(errs, r.drain(ctx, c.look))
		}
		errs = append(errs, r.end(c.patience))
	}
	return errors.Join(append(errs, c.removeSocket())...)
}

// drain asks HAProxy to finish its requests, until it has ended, ctx ends, or nothing is left to finish.
//
// Two things were seen that would make it wait for ever. A worker that was forked some milliseconds ago misses the signal that its
// master hands on, and serves on (2.6 and 3.0): it is told again. A former worker has finished everything and does not end, its main
// thread waiting for another (3.2, some in a hundred under load): SIGTERM ends it, and by then cuts nothing.
func (r *run) drain(ctx context.Context, look time.Duration) error {
	// Whoever was stopped (SIGSTOP) finishes nothing until it goes on.
	if err := errors.Join(r.signal(unix.SIGUSR1), r.signalAll(unix.SIGCONT)); err != nil {
		return err
	}
	tick := time.NewTicker(look)
	defer tick.Stop()
	for idle := 0; idle < 2; {
		select {
		case <-r.done:
			return nil
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		listening, busy := r.sockets()
		if listening {
			if err := r.signal(unix.SIGUSR1); err != nil {
				return err
			}
		}
		if idle++; busy {
			idle = 0
		}
	}
	return nil
}

// sockets tells whether a worker listens, and whether one has a connection: its line to the master is the only socket of one that
// has nothing to do. Sockets that we may not see count as connections: then the drain only waits.
func (r *run) sockets() (listening, busy bool) {
	workers := r.members()
	for _, pid := range workers {
		found, err := inodes(pid)
		busy = busy || err != nil || len(found) > 1
	}
	t, err := readSockets(workers)
	if err != nil {
		return false, true
	}
	for _, row := range t.rows {
		listening = listening || t.ours[row.inode]
	}
	return listening, busy
}

// removeSocket removes the file that HAProxy leaves behind.
func (c *Child) removeSocket() error {
	if err := os.Remove(c.o.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the master socket: %w", err)
	}
	return nil
}

// end stops the process at once, if it runs.
func (r *run) end(patience time.Duration) error {
	if !r.ended() {
		// A stopped process takes no signal but these two.
		if err := errors.Join(r.signal(unix.SIGTERM), r.signalAll(unix.SIGCONT)); err != nil {
			return err
		}
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-r.done:
		case <-timer.C:
			if err := r.signalAll(unix.SIGKILL); err != nil {
				return err
			}
			<-r.done
			return fmt.Errorf("haproxy %d ignored SIGTERM for %s and was killed", r.pid, patience)
		}
	}
	if len(r.err.Killed) > 0 {
		return fmt.Errorf("processes %v of haproxy %d ignored SIGTERM for %s and were killed", r.err.Killed, r.pid, patience)
	}
	return nil
}

// signal goes to the master only, which tells its workers.
func (r *run) signal(sig unix.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.reaped:
		return nil
	case r.cmd == nil:
		return send(r.fd, r.pid, sig)
	}
	if err := unix.Kill(r.pid, sig); err != nil {
		return fmt.Errorf("send %s to haproxy %d: %w", unix.SignalName(sig), r.pid, err)
	}
	return nil
}

// signalAll goes to the master and its workers.
func (r *run) signalAll(sig unix.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.reaped:
		return nil
	case r.cmd == nil:
		return errors.Join(send(r.fd, r.pid, sig), r.signalRest(sig))
	}
	return signalGroup(r.pid, sig)
}

// signalRest goes to the group's processes but its leader. The leader of one that was adopted may be reaped by another at any moment,
// and the group's number become a stranger's, so each process is looked at while it is held.
func (r *run) signalRest(sig unix.Signal) error {
	if r.cmd != nil {
		return signalGroup(r.pid, sig) // an unreaped child of ours leads it
	}
	var errs []error
	for _, pid := range r.members() {
		errs = append(errs, signalOurs(pid, r.socket, sig))
	}
	return errors.Join(errs...)
}

// members lists the living processes of the group without its leader.
func (r *run) members() []int {
	pids := members(r.pid)
	if r.cmd != nil {
		return pids
	}
	return slices.DeleteFunc(pids, func(pid int) bool {
		args, _, ok := describe(pid)
		return !ok || !isOurs(pid, args, r.socket)
	})
}
