package supervisor

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/model"
)

// Renderer makes the configuration of a State. It must be pure: equal States give equal bundles.
type Renderer interface {
	Render(model.State, conf.Abilities) (conf.Bundle, error)
}

// Process is HAProxy as a process: haproxy/process.Child.
type Process interface {
	Start(ctx context.Context, revision string) (process.Identity, error)
	Exited() <-chan error
	Supersede()                     // the one in charge has closed its ports: another may be started beside it
	Stop(ctx context.Context) error // graceful until ctx ends, then at once
	TrimLog() error                 // keeps HAProxy's own log within bounds
}

// Runtime is HAProxy's master socket: haproxy/runtime.Client.
type Runtime interface {
	Reload(ctx context.Context, revision string) (worker int, err error) // verified
	Apply(ctx context.Context, worker int, changes []runtime.Change) error
	SetCert(ctx context.Context, worker int, name string, pem []byte) error
	SetMap(ctx context.Context, worker int, name string, was, now []byte) error
	Map(ctx context.Context, worker int, name string) (entries []string, err error)
	DelServer(ctx context.Context, worker int, backend, server string) (gone bool, err error)
	Processes(ctx context.Context) (runtime.Processes, error)
	Serving(ctx context.Context) (p runtime.Processes, worker int, revision string, err error)
	ServersState(ctx context.Context, worker int) (raw []byte, rows []runtime.ServerState, err error)
	Stats(ctx context.Context, worker int) ([]runtime.Stat, error)
	Info(ctx context.Context, worker int) (runtime.Info, error)
}

// Checker asks the real HAProxy about a text: haproxy/process.Checker.
type Checker interface {
	Check(ctx context.Context, files ...string) (warnings string, err error)
}

// Prober is our own health check: check.Prober.
type Prober interface {
	Probe(ctx context.Context, rule model.Check, at netip.AddrPort, host string) check.Result
}

// Resolver looks names up: net.Resolver.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// BindChecker tries listen addresses: haproxy/process.CheckBinds.
type BindChecker func(inForce, wanted []conf.Bind, pids []int) (untried []conf.Bind, err error)

// PortWatcher names the processes besides ours that listen where HAProxy does: haproxy/process.Sharing.
type PortWatcher func(inForce []conf.Bind, pids []int) (found []string, err error)

// Options are the supervisor's parts and limits. All are needed but Allowed, Words, Listen, External, Running, Unchecked, Found and Step.
type Options struct {
	Files     Files
	Abilities conf.Abilities
	Renderer  Renderer
	Process   Process
	Runtime   Runtime
	Checker   Checker
	Binds     BindChecker
	Sharing   PortWatcher
	Prober    Prober
	Resolver  Resolver
	Launch    Launch
	External  bool                        // somebody else starts and ends HAProxy: Process.Start waits for it, Stop leaves it running
	Running   func(version string)        // with External, is told which HAProxy was found; nil: nobody asks
	Unchecked func() string               // says why the Checker cannot check; nil: it can
	Found     *process.Identity           // a HAProxy that Process is in charge of already, and that is to be adopted; nil: none
	Step      func(name string)           // is told each step of an apply as it is done; nil, and only tests have one
	Allowed   func(netip.AddrPort) error  // asked about every address that a name gave; nil: all are allowed
	Stopped   func(pid int) bool          // whether somebody stopped this process
	Continue  func(pid, master int) error // lets it go on; it must be one of this master's
	Gone      func() string               // what of the run directory's folders and sockets is missing; "" nothing
	Rebuild   func() error                // makes again what of it is ours
	Reopen    func(master int) error      // makes a master open its socket again, by a reload
	// Words are those for a server's becoming healthy and unhealthy in the log; nil: is healthy, is unhealthy.
	Words func(model.Server) (healthy, unhealthy string)
	// Listen calls heard after HAProxy has written lines into its log, a bounded number of times a second, until ctx ends; nil: nobody
	// tells that, and HAProxy is asked often.
	Listen func(ctx context.Context, heard func())

	WaitMin, WaitMax time.Duration // quiet period before a change is applied, and its upper bound
	StopDelay        time.Duration // from the stop's begin until the ports close
	ShutdownTimeout  time.Duration // for running requests to end; 0 no limit
	DrainTimeout     time.Duration // after which connections of a server that was removed are cut; 0: HardStop
	HardStop         time.Duration // the text's hard-stop-after, which bounds the drain as well; 0 none
	Probes           int           // probes at a time
	Log              *slog.Logger

	Beat      func()        // the owner's sign of life, after Status is up to date; it must not block; nil: not wanted
	BeatEvery time.Duration // the longest time between two of them; 0: only when something happens
}

// Supervisor runs one HAProxy. Put, SetRenderer and Status may be called from anywhere at any time.
type Supervisor struct {
	o Options

	mu    sync.Mutex // guards inbox
	inbox inbox
	wake  chan struct{}

	orders chan order
	ended  chan struct{} // closed when Run takes no more of them

	writing sync.Mutex // guards the files of a configuration, disk and kept
	disk    *accepted  // what they hold: haproxy -c has accepted it; nil: nothing that is known
	keptOf  *accepted  // whose files kept lists
	kept    []kept
	written atomic.Uint64 // how often they were replaced; who waited for the lock may be late

	status    atomic.Pointer[Status]
	published atomic.Uint64                 // how often status was replaced
	renewed   atomic.Pointer[chan struct{}] // closed when it is replaced next
	counted   counted
}

// inbox holds the newest of what came from outside; what it held before is superseded.
type inbox struct {
	state      *model.State
	renderer   Renderer
	why        string // there is another renderer
	unreadable *model.Problem
}

// New makes a Supervisor; Run starts it.
func New(o Options) *Supervisor {
	if o.Allowed == nil {
		o.Allowed = func(netip.AddrPort) error { return nil }
	}
	if o.Words == nil {
		o.Words = func(model.Server) (string, string) { return "is healthy", "is unhealthy" }
	}
	o.Files.step = o.Step
	s := &Supervisor{o: o, wake: make(chan struct{}, 1), orders: make(chan order), ended: make(chan struct{})}
	s.status.Store(&Status{Phase: model.Starting})
	s.renewed.Store(new(make(chan struct{})))
	return s
}

// Put hands over the newest State. It does not block.
func (s *Supervisor) Put(st model.State) {
	s.deliver(func(in *inbox) { in.state = &st })
}

// SetRenderer replaces the renderer, after a template or a certificate was read again; why says what made it so ("SIGHUP",
// "template /haproxy.tmpl"). When its text is refused, the renderer in force stays. It does not block.
func (s *Supervisor) SetRenderer(r Renderer, why string) {
	s.deliver(func(in *inbox) { in.renderer, in.why, in.unreadable = r, why, nil })
}

// Unreadable tells that a template or a certificate was to be read again and could not be: the renderer in force stays, and
// Status shows the problem until a good one comes. It does not block.
func (s *Supervisor) Unreadable(p model.Problem) {
	s.deliver(func(in *inbox) { in.renderer, in.unreadable = nil, &p })
}

func (s *Supervisor) deliver(put func(*inbox)) {
	s.mu.Lock()
	put(&s.inbox)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Supervisor) collect() inbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.inbox
	s.inbox = inbox{}
	return in
}

// Status is what the supervisor knows. It is replaced, never changed.
func (s *Supervisor) Status() *Status { return s.status.Load() }

// Changed gives a channel that is closed when Status is replaced next. A reader takes it before it calls Status, so that it misses nothing;
// any number of readers may wait.
func (s *Supervisor) Changed() <-chan struct{} { return *s.renewed.Load() }
