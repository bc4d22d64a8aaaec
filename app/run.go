package app

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fnlb/fnlb/api/access"
	"github.com/fnlb/fnlb/api/metrics"
	"github.com/fnlb/fnlb/api/rest"
	"github.com/fnlb/fnlb/assets"
	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/discovery/kubernetes"
	nodesource "github.com/fnlb/fnlb/discovery/nodes"
	poolsource "github.com/fnlb/fnlb/discovery/pools"
	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/supervisor"
	"github.com/fnlb/fnlb/watch"
)

// barrier is how long the first State waits for a source that says nothing.
const barrier = 5 * time.Second

// leastHeap is what our own heap may always have, in bytes; a soft limit below its live size would only cost time.
const leastHeap = 16 << 20

// balancer is the running program.
type balancer struct {
	s      config.Settings
	log    *slog.Logger
	lost   func() uint64 // lines of the log that nobody got
	dirs   dirs
	worker identity
	files  supervisor.Files

	program    *Program
	store      *store.Mirror
	nodes      *nodesource.Source // nil: a driver without nodes
	pods       *kubernetes.Source // nil: no pods
	pools      *poolsource.Source // nil: no pools
	parts      []running          // that run beside the others until the end
	panics     atomic.Uint64      // of calls
	kept       []discovery.Kept   // the sources whose truth is kept in files
	certs      *assets.Certificates
	collector  *discovery.Collector
	supervisor *supervisor.Supervisor
	notify     *notifier
	servers    []server
	held       *locks
	serve      func(server)      // serves one more listener until the end
	open       []reopened        // how the sockets of the run directory are made
	watched    []string          // files that are read again when they change
	touched    chan struct{}     // one of them is another one
	read       [sha256.Size]byte // sum of what was read last; since the start the signals' goroutine owns it
	closers    []func() error    // what must be undone at the end, in reverse order
}

// running is a part of the program: it ends with its context, or fails.
type running struct {
	name string
	run  func(context.Context) error
}

// server is one listener of the management API.
type server struct {
	l net.Listener
	h http.Handler
}

// runBalancer is the command without a name.
func runBalancer(c *call) error {
	log := slog.New(slog.NewTextHandler(c.Stderr, &slog.HandlerOptions{Level: c.settings.LogLevel}))
	for _, w := range c.settings.Warnings {
		log.Warn(w)
	}
	signals := c.Signals() // from here on: a start that is interrupted cleans up as well
	b := &balancer{program: &c.Program, s: c.settings, log: log, lost: c.log.Dropped, dirs: dirsOf(&c.settings)}
	b.files = filesOf(&b.s)
	defer b.close()
	if err := b.build(c); err != nil {
		return err
	}
	if err := b.run(signals, c); err != nil {
		return err
	}
	log.Info("stopped")
	if b.s.HAProxyMaster != "" { // it runs on, with the nodes that only we know
		return nil
	}
	for _, k := range b.kept {
		if err := k.Remove(); err != nil {
			log.Warn("not all was cleaned up", "error", err)
		}
	}
	return nil
}

// build does everything that can fail before anything live is touched.
func (b *balancer) build(c *call) error {
	external := b.s.HAProxyMaster != ""
	binary, abilities, err := localHAProxy(b.s.HAProxy, external)
	if err != nil {
		return err
	}
	if b.worker, err = workerIdentity(&b.s); err != nil {
		return err
	}
	b.certs = b.certificates()
	render, unreadable := b.renderer()
	if unreadable != nil && !exists(b.files.Frozen()) {
		return unreadable
	}
	b.touched = make(chan struct{}, 1)
	if b.watched, err = watchedFiles(&b.s); err != nil {
		return err
	}
	rules, err := accessRules(&b.s, b.log)
	if err != nil {
		return err
	}
	limit, err := setLimits(c, !external, b.log) // an external one has its own
	if err != nil {
		return err
	}
	if err := b.claim(); err != nil {
		return err
	}
	accessLog, err := b.openAccessLog(c)
	if err != nil {
		return err
	}
	o := supervisor.Options{
		Files: b.files, Abilities: abilities, Renderer: render, Prober: check.NewProber(), Resolver: net.DefaultResolver, Allowed: b.s.NodePolicy.Check,
		WaitMin: b.s.WaitMin, WaitMax: b.s.WaitMax, StopDelay: b.s.StopDelay, ShutdownTimeout: b.s.ShutdownTimeout, HardStop: b.s.HardStopAfter, DrainTimeout: b.s.DrainTimeout,
		Probes: int(min(limit/4, 512)), Log: b.log,
	}
	o.Gone, o.Rebuild, o.Words = b.gone, b.rebuild, healthWords
	if err := b.haproxy(&o, binary, accessLog, render); err != nil {
		return err
	}
	b.notify = newNotifier(c.Env, b.log)
	b.notify.watch(&o)
	b.supervisor = supervisor.New(o)
	if unreadable != nil { // what is frozen is started without it
		b.unreadable(unreadable)
	}
	serves := external || o.Found != nil
	sources, err := b.sources(serves)
	if err != nil {
		return err
	}
	wait := barrier
	if serves {
		wait = math.MaxInt64 // something serves: no source that is late may take it away
	}
	b.collector = discovery.New(discovery.Options{
		Sources: sources,
		Min:     b.s.WaitMin, Max: b.s.WaitMax, Barrier: wait, Out: b.supervisor.Put, Log: b.log,
	})
	report := &report{b: b}
	if err := b.listenPools(rules, limit, report); err != nil {
		return err
	}
	return b.listen(rules, report)
}

// localHAProxy finds the binary here. Where HAProxy is somebody else's there may be none: the one that runs tells what it can.
func localHAProxy(name string, external bool) (binary string, a conf.Abilities, err error) {
	if binary, err = findHAProxy(name); err == nil {
		a, err = process.ReadAbilities(context.Background(), binary)
	}
	if err != nil && external {
		return "", oldestHAProxy, nil
	}
	return binary, a, err
}

// findHAProxy gives the absolute path: the master executes it again at every reload, from whatever folder.
func findHAProxy(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", fmt.Errorf("haproxy: %w; install it (apt-get install haproxy) or name it with --haproxy", err)
	}
	return path, nil
}

// setLimits says how many files we may open, and sets that limit for a HAProxy that is our child, which derives its maxconn from it. It
// also sets how much memory our own heap takes before it is cleaned more eagerly: in a small control group garbage would otherwise
// be what the kernel kills us for.
func setLimits(c *call, child bool, log *slog.Logger) (files uint64, err error) {
	if child {
		if files, err = process.FileLimit(); err == nil {
			err = process.SetFileLimit(files)
		}
	} else {
		files, err = process.OpenFiles()
	}
	if err != nil {
		return 0, err
	}
	if child && files < process.EnoughFiles {
		log.Warn("so few open files are allowed that HAProxy may refuse reloads, which need more than a start", "limit", files,
			"mend", "raise the limit (ulimit -n, docker run --ulimit nofile=, LimitNOFILE=)")
	}
	memory, err := process.MemoryLimit()
	if err != nil {
		return 0, err
	}
	if _, ok := c.Env("GOMEMLIMIT"); !ok { // who has set it knows better
		debug.SetMemoryLimit(int64(max(memory/4, leastHeap)))
	}
	log.Debug("limits", "open_files", files, "memory_mib", memory>>20)
	return files, nil
}

// claim makes the run directory ours.
func (b *balancer) claim() error {
	if err := b.dirs.prepare(b.worker); err != nil {
		return err
	}
	held, err := b.dirs.lock(b.files.Config)
	if err != nil {
		return err
	}
	b.held = held
	b.closers = append(b.closers, held.release)
	if err := os.WriteFile(b.dirs.pidFile(), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		return fmt.Errorf("run directory: %w; free some space, or choose another with --run-dir", err)
	}
	b.closers = append(b.closers, func() error { return os.Remove(b.dirs.pidFile()) })
	return nil
}

// openAccessLog opens what HAProxy writes its access log to. Our own standard output is opened anew, because HAProxy makes its
// file description non-blocking, and ours is shared with whoever started us.
func (b *balancer) openAccessLog(c *call) (*os.File, error) {
	path := b.s.AccessLog
	switch path {
	case "off":
		return nil, nil
	case "stdout":
		path = "/proc/self/fd/1"
	}
	// Without O_NONBLOCK the open of a named pipe would wait for somebody who reads it.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o640)
	if out, ok := c.Stdout.(*os.File); err != nil && ok && b.s.AccessLog == "stdout" {
		f, err = dup(out) // a socket cannot be opened anew
	}
	if err != nil {
		return nil, fmt.Errorf("access log: %w; correct --access-log", err)
	}
	b.closers = append(b.closers, f.Close)
	return f, nil
}

func dup(f *os.File) (*os.File, error) {
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// listen opens the management API: the admin socket always, then the socket behind HAProxy or a port of our own.
func (b *balancer) listen(rules access.Rules, report *report) error {
	handler := func(own bool) http.Handler {
		return rest.New(rest.Options{
			Nodes: b.apiNodes(), Brake: b.supervisor, Reporter: report, Traffic: b.supervisor, Own: own, Panics: &b.panics, Log: b.log,
			Metrics: metrics.New(metrics.Options{Reporter: report, Version: config.Version, Panics: b.panics.Load, LogDropped: b.lost, Log: b.log}),
		})
	}
	b.open = append(b.open, reopened{path: b.dirs.adminSocket(), open: func() (server, error) {
		l, err := unixListener(b.dirs.adminSocket(), 0o600, -1)
		return server{l, rules.Wrap(handler(false), access.Admin)}, err
	}})
	if b.s.SharedPort() {
		b.open = append(b.open, reopened{path: b.dirs.managementSocket(), open: func() (server, error) {
			l, err := unixListener(b.dirs.managementSocket(), 0o660, b.worker.gid)
			if err != nil {
				return server{}, err
			}
			return server{access.FromHAProxy(l), rules.Wrap(handler(false), access.Traffic)}, nil
		}})
	}
	for _, o := range b.open {
		s, err := o.open()
		if err != nil {
			return err
		}
		b.add(s.l, s.h)
	}
	if b.s.SharedPort() || b.s.Management.Port == 0 {
		return nil
	}
	l, err := net.Listen("tcp", b.s.Management.String())
	if err != nil {
		return fmt.Errorf("management: %w; free the port, or choose another with --mgmt-listen", err)
	}
	b.add(l, rules.Wrap(handler(true), access.Port))
	return nil
}

func (b *balancer) add(l net.Listener, h http.Handler) {
	b.servers = append(b.servers, server{l, h})
	b.closers = append(b.closers, func() error {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
}

// unixListener opens a socket; the locks are held, so a file that is there is a dead fnlb's.
func unixListener(path string, mode fs.FileMode, gid int) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("management socket: %w", err)
	}
	// Made under another name, so that nobody connects before the rights are right.
	hidden := path + ".new"
	if err := os.Remove(hidden); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("management socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("management socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(hidden, mode)
	if err == nil && gid >= 0 {
		err = os.Chown(hidden, -1, gid)
	}
	if err == nil {
		err = os.Rename(hidden, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("management socket: %w", err), l.Close())
	}
	return &socketFile{l, path}, nil
}

// socketFile removes its file when it is closed.
type socketFile struct {
	*net.UnixListener
	path string
}

func (s *socketFile) Close() error {
	err := s.UnixListener.Close()
	if rmErr := os.Remove(s.path); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
		err = errors.Join(err, rmErr)
	}
	return err
}

// run runs the parts side by side until the supervisor has stopped HAProxy or a part fails.
func (b *balancer) run(signals <-chan os.Signal, c *call) error {
	soft, stop := context.WithCancel(context.Background())
	defer stop()
	hard, stopNow := context.WithCancel(context.Background())
	defer stopNow()
	others, end := context.WithCancel(context.Background())
	defer end()

	var g errgroup.Group
	part := func(name string, f func() error) {
		g.Go(func() error {
			err := f()
			if err != nil && others.Err() == nil {
				b.log.Error("a part failed, stopping", "part", name, "error", err)
				stop()
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	b.serve = func(s server) {
		part("management", func() error { return rest.Serve(others, s.l, s.h, b.log) })
	}
	for _, s := range b.servers {
		b.serve(s)
	}
	for _, p := range b.parts {
		part(p.name, func() error { return p.run(others) })
	}
	part("watch", func() error { return watch.New(b.log, b.watched...).Run(others, b.touch) })
	part("store", func() error { return b.store.Run(others) })
	part("sources", func() error { return b.collector.Run(others) })
	g.Go(func() error {
		b.notify.run(others, b.supervisor.Status)
		return nil
	})
	if greets(&b.s) {
		g.Go(func() error {
			b.greet(others, c.Stderr, c.at)
			return nil
		})
	}
	g.Go(func() error {
		b.obey(others, signals, stop, stopNow)
		return nil
	})
	g.Go(func() error {
		defer end()
		return b.supervisor.Run(soft, hard)
	})
	b.log.Info("fnlb", "version", config.FullVersion(), "listen", shown(b.s.Listen), "mgmt", shown(b.s.Management), "nodes", len(b.s.Nodes), "run_dir", b.s.RunDir)
	return g.Wait()
}

// shown is an address in the log.
func shown(b model.Bind) string {
	if b.Port == 0 {
		return "off"
	}
	return b.String()
}

// obey turns signals, and changes of watched files, into what they mean until ctx ends.
func (b *balancer) obey(ctx context.Context, signals <-chan os.Signal, stop, stopNow func()) {
	stopping := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.touched:
			b.reread(false)
		case sig := <-signals:
			switch {
			case sig == syscall.SIGHUP:
				b.notify.reload(func() { b.reread(true) })
			case stopping:
				b.log.Warn("second signal, stopping at once", "signal", sig)
				stopNow()
			default:
				b.log.Info("signal", "signal", sig)
				stopping = true
				stop()
			}
		}
	}
}

// close undoes what build did, in reverse order.
func (b *balancer) close() {
	for i := len(b.closers) - 1; i >= 0; i-- {
		if err := b.closers[i](); err != nil {
			b.log.Warn("not all was cleaned up", "error", err)
		}
	}
}
