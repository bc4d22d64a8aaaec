package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/model"
)

// world is everything around a supervisor, in memory: a HAProxy that loads what the file says, nodes, names. The fields may be
// changed between two steps of a test, under mu.
type world struct {
	t   *testing.T
	dir string
	s   *Supervisor

	mu           sync.Mutex
	alive        bool
	exited       chan error
	worker       int
	loaded       string // text of haproxy.cfg at the last start or reload
	revision     string // of own.cfg then
	stopping     bool   // the worker only finishes its requests
	superseded   int
	ticks        uint64   // when the master was started
	strangers    []string // who shares our ports
	portsTake    time.Duration
	starts       []time.Time
	reloads      []time.Time
	stops        int
	stopTakes    time.Duration
	reloadTakes  time.Duration
	failStart    error
	failReload   error
	changes      []string // at run time
	failApply    error
	asleep       map[string]string // server in maintenance → its line
	busy         map[string]bool   // server that cannot be deleted yet
	old          int               // workers of earlier configurations
	down         map[string]bool   // server name → HAProxy finds it down
	silent       bool              // the worker does not answer
	damaged      int               // its next answers, which are cut
	halted       map[int]bool      // processes that somebody stopped
	continued    []int
	maps         map[string][]string // entries by file; nil: HAProxy does not show them
	stats        []runtime.Stat
	counts       int // questions for Stats
	observations int // questions for the state of servers

	probes  map[string]int          // by address
	healthy map[string]check.Result // by address; absent: passes
	names   map[string][]string     // host → IPs; absent: NXDOMAIN
	log     *strings.Builder

	soft, hard         context.CancelFunc
	done               chan error
	revisions          uint64
	by                 map[string]string // who asked for a node
	asked              []model.Asked     // what the next States say was taken away on purpose
	renderer           *textRenderer
	bindsErr, checkErr error
	judge              func(text string) error // HAProxy's opinion of a text, where checkErr is nil
	cannot             error                   // why Continue fails
}

// textRenderer renders the smallest text that the plan can read.
type textRenderer struct {
	w      *world
	title  string
	broken error
	files  map[string]conf.File
	failAt string // a server here cannot be rendered
	equal  bool   // no weights
	live   bool   // servers can come and go at run time; else each change is a reload
}

func (r *textRenderer) Render(st model.State, _ conf.Abilities) (conf.Bundle, error) {
	if r.broken != nil {
		return conf.Bundle{}, r.broken
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\nfrontend f\n  bind :80\nbackend s\n", r.title)
	if !r.live {
		b.WriteString("  balance static-rr\n")
	}
	for _, s := range st.Servers {
		if r.failAt == s.Addr().String() {
			return conf.Bundle{}, errors.New("template: no such field")
		}
		fmt.Fprintf(&b, "  server %s %s", s.Name, s.Addr())
		if s.Share() != 1 && !r.equal {
			fmt.Fprintf(&b, " weight %d", s.Share())
		}
		b.WriteString("\n")
	}
	return conf.Bundle{Main: []byte(b.String()), Files: r.files}, nil
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, dir: t.TempDir(), exited: make(chan error, 1), worker: 100, down: map[string]bool{}, probes: map[string]int{},
		healthy: map[string]check.Result{}, names: map[string][]string{}, halted: map[int]bool{}, asleep: map[string]string{}, log: &strings.Builder{}, done: make(chan error, 1),
	}
	w.renderer = &textRenderer{w: w, title: "one"}
	w.s = New(Options{
		Files: Files{Dir: w.dir, Config: filepath.Join(w.dir, "haproxy.cfg")}, Abilities: conf.Abilities{Version: "3.0", Major: 3},
		Renderer: w.renderer, Process: (*fakeProcess)(w), Runtime: (*fakeRuntime)(w), Checker: (*fakeChecker)(w),
		Binds: func(_, _ []conf.Bind, _ []int) ([]conf.Bind, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return nil, w.bindsErr
		},
		Stopped: func(pid int) bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.halted[pid]
		},
		Continue: func(pid, _ int) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.cannot != nil {
				return w.cannot
			}
			w.continued = append(w.continued, pid)
			delete(w.halted, pid)
			return nil
		},
		Gone: func() string {
			if _, err := os.Stat(w.s.o.Files.Dir); err != nil {
				return w.s.o.Files.Dir
			}
			return ""
		},
		Rebuild: func() error { return os.Mkdir(w.s.o.Files.Dir, 0o755) },
		Reopen: func(int) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.worker++
			w.load()
			return nil
		},
		Sharing: func([]conf.Bind, []int) ([]string, error) {
			w.mu.Lock()
			found, takes := w.strangers, w.portsTake
			w.mu.Unlock()
			time.Sleep(takes)
			return found, nil
		},
		Prober: (*fakeProber)(w), Resolver: (*fakeResolver)(w),
		WaitMin: 10 * time.Millisecond, WaitMax: 250 * time.Millisecond, Probes: 4,
		Log: slog.New(slog.NewTextHandler((*lockedLog)(w), &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	return w
}

// run starts the supervisor; the test ends it with stop, or leaves that to the cleanup.
func (w *world) run() {
	soft, cancelSoft := context.WithCancel(context.Background())
	hard, cancelHard := context.WithCancel(context.Background())
	w.soft, w.hard = cancelSoft, cancelHard
	go func() { w.done <- w.s.Run(soft, hard) }()
}

func (w *world) stop() error {
	w.soft()
	w.hard()
	return <-w.done
}

// put hands a State of these nodes over: NAME=ADDRESS or NAME=HOST:PORT, then weight=N and state=ADMIN. A star before NAME stands for all
// addresses of HOST.
func (w *world) put(nodes ...string) {
	w.t.Helper()
	w.revisions++
	pool := model.Offer{Owner: model.Owner{Source: "flags", Name: "pool"}, Rows: model.Rows{Services: []model.Service{{
		Name: "s", Check: model.Check{Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 2, Asks: []model.Ask{{Path: "/v"}}},
	}}}}
	offers := []model.Offer{pool}
	for _, n := range nodes {
		words := strings.Fields(n)
		name, addr, _ := strings.Cut(words[0], "=")
		srv := model.Server{Service: "s", Name: name, Many: strings.HasPrefix(name, "*")}
		for _, word := range words[1:] {
			w.wish(&srv, word)
		}
		if ap, err := netip.ParseAddrPort(addr); err == nil {
			srv.IP, srv.Port = ap.Addr(), ap.Port()
		} else {
			host, _, _ := strings.Cut(addr, ":")
			srv.Host, srv.Port = host, 80
		}
		offers = append(offers, model.Offer{Owner: model.Owner{Source: "nodes", Name: name}, By: w.by[name], Rows: model.Rows{Servers: []model.Server{srv}}})
	}
	st, problems := model.Merge(offers)
	if len(problems) > 0 {
		w.t.Fatal(problems)
	}
	st.Revision, st.Asked = w.revisions, w.asked
	w.s.Put(st)
}

func (w *world) wish(srv *model.Server, word string) {
	w.t.Helper()
	var err error
	if n, ok := strings.CutPrefix(word, "weight="); ok {
		err = srv.Weight.UnmarshalJSON([]byte(n))
	} else if n, ok := strings.CutPrefix(word, "state="); ok {
		err = srv.Admin.UnmarshalText([]byte(n))
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// after lets time pass until everything has settled again.
func (w *world) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// servers lists what HAProxy has loaded.
func (w *world) servers() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for line := range strings.Lines(w.loaded) {
		if f := strings.Fields(line); len(f) >= 3 && f[0] == "server" {
			names = append(names, strings.Join(append([]string{f[1] + "@" + f[2]}, f[3:]...), "/"))
		}
	}
	return strings.Join(names, " ")
}

func (w *world) reloadTimes() []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.reloads)
}

func (w *world) startTimes() []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.starts)
}

// ran lists the changes at run time.
func (w *world) ran() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.changes)
}

func (w *world) probed(addr string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.probes[addr]
}

func (w *world) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.loaded
}

func (w *world) health() string {
	var out []string
	for _, s := range w.s.Status().Servers {
		out = append(out, s.Name+":"+s.Health.String())
	}
	return strings.Join(out, " ")
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

// lines counts the lines of the log that have all of the parts.
func (w *world) lines(parts ...string) int {
	n := 0
	for line := range strings.Lines(w.logged()) {
		ok := true
		for _, p := range parts {
			ok = ok && strings.Contains(line, p)
		}
		if ok {
			n++
		}
	}
	return n
}

// die ends HAProxy as a crash would.
func (w *world) die(why string) {
	w.set(func() { w.alive = false })
	w.exited <- errors.New(why)
}

type lockedLog world

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Write(p)
}

type fakeProcess world

func (p *fakeProcess) Start(_ context.Context, _ string) (process.Identity, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.starts = append(p.starts, time.Now())
	if p.failStart != nil {
		return process.Identity{}, p.failStart
	}
	p.alive = true
	p.worker++
	(*world)(p).load()
	return process.Identity{Master: 99, Worker: p.worker, Started: time.Now(), Ticks: p.ticks}, nil
}

// load reads the file as HAProxy does; mu is held.
func (w *world) load() {
	data, err := os.ReadFile(filepath.Join(w.dir, "haproxy.cfg"))
	if err != nil {
		w.t.Error(err)
	}
	w.loaded = string(data)
	own, err := os.ReadFile(filepath.Join(w.dir, "own.cfg"))
	if err != nil {
		w.t.Error(err)
	}
	_, w.revision, _ = strings.Cut(strings.TrimSpace(string(own)), "FNLB_REVISION ")
}

func (p *fakeProcess) Supersede() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.superseded++
}

func (p *fakeProcess) TrimLog() error { return nil }

func (p *fakeProcess) Exited() <-chan error { return p.exited }

func (p *fakeProcess) Stop(ctx context.Context) error {
	p.mu.Lock()
	p.stops++
	takes := p.stopTakes
	p.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
	}
	p.mu.Lock()
	p.alive = false
	p.mu.Unlock()
	return nil
}

type fakeRuntime world

func (r *fakeRuntime) Reload(ctx context.Context, _ string) (int, error) {
	r.mu.Lock()
	takes := r.reloadTakes
	r.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reloads = append(r.reloads, time.Now())
	if !r.alive {
		return 0, errors.New("no master")
	}
	if r.failReload != nil {
		return 0, r.failReload
	}
	r.worker++
	(*world)(r).load()
	return r.worker, nil
}

// Apply keeps what it was told, and does it to what is loaded.
func (r *fakeRuntime) Apply(_ context.Context, worker int, list []runtime.Change) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range list {
		r.changes = append(r.changes, c.String())
	}
	if r.failApply != nil || !r.alive || worker != r.worker {
		return cmp.Or(r.failApply, errors.New("no such worker"))
	}
	for _, c := range list {
		(*world)(r).obey(strings.Fields(c.String()))
	}
	return nil
}

// obey does to what is loaded what a worker does with these commands; mu is held. Servers stand at the end of a text, by name.
func (w *world) obey(cmd []string) {
	_, name, _ := strings.Cut(cmd[2], "/")
	var lines, servers []string
	for line := range strings.Lines(w.loaded) {
		switch f := strings.Fields(line); {
		case len(f) < 3 || f[0] != "server":
			lines = append(lines, line)
		case f[1] == name && cmd[len(cmd)-1] == "maint":
			w.asleep[name] = line
		case f[1] == name && cmd[3] == "addr":
			servers = append(servers, fmt.Sprintf("  server %s %s\n", name, net.JoinHostPort(cmd[4], cmd[6])))
		case f[1] == name && cmd[len(cmd)-2] == "weight":
			servers = append(servers, strings.TrimSuffix(fmt.Sprintf("  server %s %s weight %s", name, f[2], cmd[len(cmd)-1]), " weight 1")+"\n")
		default:
			servers = append(servers, line)
		}
	}
	switch {
	case cmd[0] == "add":
		w.asleep[name] = fmt.Sprintf("  server %s %s\n", name, cmd[3])
	case cmd[len(cmd)-1] == "ready" && w.asleep[name] != "":
		servers = append(servers, w.asleep[name])
		delete(w.asleep, name)
	}
	slices.Sort(servers)
	w.loaded = strings.Join(append(lines, servers...), "")
}

func (r *fakeRuntime) SetCert(_ context.Context, _ int, name string, _ []byte) error {
	return r.setFile("set ssl cert " + name)
}

func (r *fakeRuntime) SetMap(_ context.Context, _ int, name string, _, _ []byte) error {
	return r.setFile("commit map " + name)
}

func (r *fakeRuntime) Map(_ context.Context, _ int, name string) ([]string, error) {
	w := (*world)(r)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.maps == nil {
		return nil, errors.New("it does not say")
	}
	return slices.Clone(w.maps[name]), nil
}

func (r *fakeRuntime) setFile(what string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes = append(r.changes, what)
	return r.failApply
}

func (r *fakeRuntime) DelServer(_ context.Context, _ int, backend, server string) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy[server] {
		return false, nil
	}
	r.changes = append(r.changes, "del server "+backend+"/"+server)
	return true, nil
}

func (r *fakeRuntime) Processes(context.Context) (runtime.Processes, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.alive {
		return runtime.Processes{}, errors.New("no master")
	}
	p := runtime.Processes{Master: runtime.Process{PID: 99}, Workers: []runtime.Process{{PID: r.worker}}}
	for i := range r.old {
		p.Old = append(p.Old, runtime.Process{PID: 1000 + i})
	}
	return p, nil
}

// Serving tells the revision that own.cfg had at the last load.
func (r *fakeRuntime) Serving(ctx context.Context) (runtime.Processes, int, string, error) {
	p, err := r.Processes(ctx)
	if err != nil {
		<-ctx.Done()
		return p, 0, "", ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return p, r.worker, r.revision, nil
}

func (r *fakeRuntime) ServersState(ctx context.Context, _ int) ([]byte, []runtime.ServerState, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.observations++
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if r.silent || r.halted[r.worker] {
		return nil, nil, fmt.Errorf("timeout: %w", context.DeadlineExceeded)
	}
	if r.damaged > 0 {
		r.damaged--
		return nil, nil, runtime.ErrCut
	}
	var rows []runtime.ServerState
	for line := range strings.Lines(r.loaded) {
		if f := strings.Fields(line); len(f) >= 3 && f[0] == "server" {
			row := runtime.ServerState{Backend: "s", Server: f[1], Addr: netip.MustParseAddrPort(f[2]), Up: !r.down[f[1]], Weight: 1}
			if len(f) == 5 {
				if _, err := fmt.Sscan(f[4], &row.Weight); err != nil {
					return nil, nil, err
				}
			}
			rows = append(rows, row)
		}
	}
	return []byte("1\n"), rows, nil
}

func (r *fakeRuntime) Stats(context.Context, int) ([]runtime.Stat, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts++
	if r.silent {
		return nil, fmt.Errorf("timeout: %w", context.DeadlineExceeded)
	}
	out := slices.Clone(r.stats)
	for name := range r.down {
		out = append(out, runtime.Stat{Backend: "s", Server: name, CheckStatus: "L4CON", LastCheck: "Connection refused"})
	}
	return out, nil
}

func (r *fakeRuntime) Info(context.Context, int) (runtime.Info, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return runtime.Info{MaxConn: 1234, Version: "3.0", Stopping: r.stopping}, nil
}

type fakeChecker world

func (c *fakeChecker) Check(_ context.Context, files ...string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range files {
		if _, err := os.Stat(f); err != nil {
			return "", err
		}
	}
	if c.judge != nil && c.checkErr == nil {
		text, err := os.ReadFile(files[0])
		if err != nil {
			return "", err
		}
		return "", c.judge(string(text))
	}
	return "", c.checkErr
}

type fakeProber world

func (p *fakeProber) Probe(_ context.Context, _ model.Check, at netip.AddrPort, _ string) check.Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.probes[at.String()]++
	if r, ok := p.healthy[at.String()]; ok {
		return r
	}
	return check.Result{OK: true}
}

type fakeResolver world

func (r *fakeResolver) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list, ok := r.names[host]
	if !ok {
		return nil, errors.New("no such host")
	}
	var out []netip.Addr
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out, nil
}
