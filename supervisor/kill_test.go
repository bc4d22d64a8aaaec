package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/test/load"
)

// patience bounds every wait of these tests; it is for a machine that is busy, not a figure to meet.
const patience = 30 * time.Second

// killPlan is what a child of TestKilledAtEachStep does: it has the first nodes applied, then the second, and kills itself at a step.
type killPlan struct {
	dir, binary, listen string
	first, second       []string // addresses of nodes
	step                string   // of the second, or of the first where there is no second; "STEP+DELAY": so long after it
	reload              bool     // the second takes a reload
}

func (p killPlan) environ() []string {
	return append(os.Environ(), "SUPERVISOR_TEST_CHILD=1", "KILL_DIR="+p.dir, "KILL_BINARY="+p.binary, "KILL_LISTEN="+p.listen,
		"KILL_FIRST="+strings.Join(p.first, ","), "KILL_SECOND="+strings.Join(p.second, ","), "KILL_STEP="+p.step, fmt.Sprint("KILL_RELOAD=", p.reload))
}

// liveText renders a text with which HAProxy loses nothing at a reload.
type liveText struct {
	listen, state string
	reload        bool // from the second State on another setting stands in it
}

func (r liveText) Render(st model.State, _ conf.Abilities) (conf.Bundle, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "global\n  httpclient.ssl.verify none\n  server-state-file %s\ndefaults\n  mode http\n  load-server-state-from-file global\n  option idle-close-on-response\n"+
		"  timeout connect 2s\n  timeout client 1m\n  timeout server 1m\nfrontend f\n  bind %s\n  default_backend s\nbackend s\n", r.state, r.listen)
	if r.reload && st.Revision > 1 {
		b.WriteString("  timeout queue 9s\n")
	}
	for _, s := range st.Servers {
		fmt.Fprintf(&b, "  server %s %s\n", s.Name, s.Addr())
	}
	return conf.Bundle{Main: []byte(b.String())}, nil
}

type passing struct{}

func (passing) Probe(context.Context, model.Check, netip.AddrPort, string) check.Result {
	return check.Result{OK: true}
}

// playKilled is the child: a whole supervisor with a real HAProxy.
func playKilled() error {
	p := killPlan{dir: os.Getenv("KILL_DIR"), binary: os.Getenv("KILL_BINARY"), listen: os.Getenv("KILL_LISTEN"), step: os.Getenv("KILL_STEP")}
	abilities, err := process.ReadAbilities(context.Background(), p.binary)
	if err != nil {
		return err
	}
	files := Files{Dir: p.dir, Config: filepath.Join(p.dir, "haproxy.cfg")}
	socket := filepath.Join(p.dir, "m.sock")
	client := runtime.New(socket)
	child := process.New(process.Options{Binary: p.binary, Files: []string{files.Config, files.Own()}, Socket: socket, Log: filepath.Join(p.dir, "log")}, client)
	lock, err := os.OpenFile(filepath.Join(p.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600) // as app does: it outlives us by the moment of a fork
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	found, err := child.Adopt()
	if err != nil {
		return err
	}
	var armed atomic.Bool
	step, delay, _ := strings.Cut(p.step, "+")
	s := New(Options{
		Files: files, Abilities: abilities, Renderer: liveText{p.listen, files.State(), os.Getenv("KILL_RELOAD") == "true"}, Process: child, Found: found, Runtime: client,
		Checker: process.Checker{Binary: p.binary}, Binds: process.CheckBinds, Sharing: new(process.Sharing).Look, Prober: passing{}, Resolver: net.DefaultResolver, Probes: 10,
		Stopped: process.Stopped, Continue: func(pid, master int) error { return process.Continue(pid, master, socket) },
		Gone: func() string { return "" }, Rebuild: func() error { return nil }, Reopen: func(master int) error { return process.Reopen(master, socket) },
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Step: func(name string) {
			if name != step || !armed.Load() {
				return
			}
			if after, err := time.ParseDuration(delay); err == nil {
				time.AfterFunc(after, func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) })
				return
			}
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until the signal arrives
		},
	})
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, context.Background()) }()
	if err := playTexts(s, files, &armed, ended); err != nil {
		return err
	}
	fmt.Println("applied")
	return <-ended
}

// playTexts has the one State applied after the other, until the files hold it too.
func playTexts(s *Supervisor, files Files, armed *atomic.Bool, ended <-chan error) error {
	for i, list := range []string{os.Getenv("KILL_FIRST"), os.Getenv("KILL_SECOND")} {
		if list == "" {
			continue
		}
		if i == 1 {
			fmt.Println("first")
			if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
				return err
			}
		}
		armed.Store(i == 1 || os.Getenv("KILL_SECOND") == "")
		addrs := strings.Split(list, ",")
		s.Put(stateOf(uint64(i+1), addrs))
		inForce := func() bool {
			st := s.Status()
			text, errText := os.ReadFile(files.Config)
			noted, errNoted := files.Noted()
			return st.Applied == uint64(i+1) && !slices.ContainsFunc(addrs, func(a string) bool { return !strings.Contains(string(st.Config), " "+a+"\n") }) &&
				errors.Join(errText, errNoted) == nil && string(text) == string(st.Config) && noted.Revision == conf.Bundle{Main: text}.Revision()
		}
		for !inForce() {
			select {
			case err := <-ended:
				return fmt.Errorf("it ended: %w", err)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	return nil
}

func stateOf(revision uint64, addrs []string) model.State {
	pool := model.Offer{Owner: model.Owner{Source: "flags", Name: "pool"}, Rows: model.Rows{Services: []model.Service{{Name: "s"}}}}
	for i, a := range addrs {
		at := netip.MustParseAddrPort(a)
		pool.Servers = append(pool.Servers, model.Server{Service: "s", Name: fmt.Sprintf("n%d", i), IP: at.Addr(), Port: at.Port()})
	}
	st, _ := model.Merge([]model.Offer{pool})
	st.Revision = revision
	return st
}

// player is a child that plays a plan.
type player struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	log *strings.Builder
}

func (p killPlan) start(t *testing.T) *player {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &player{t: t, cmd: exec.Command(self), log: &strings.Builder{}}
	c.cmd.Env, c.cmd.Stderr = p.environ(), c.log
	out, errOut := c.cmd.StdoutPipe()
	c.out = bufio.NewReader(out)
	c.in, err = c.cmd.StdinPipe()
	if err := errors.Join(err, errOut, c.cmd.Start()); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { _ = c.cmd.Process.Kill() })
	t.Cleanup(func() { timer.Stop() })
	return c
}

// says reads a line.
func (c *player) says(want string) {
	c.t.Helper()
	if line, err := c.out.ReadString('\n'); line != want+"\n" {
		_ = c.cmd.Wait()
		c.t.Fatalf("it says %q, not %q: %v, %s\n%s", line, want, err, c.cmd.ProcessState, c.log)
	}
}

// goOn lets it apply what comes second.
func (c *player) goOn() {
	c.t.Helper()
	if _, err := c.in.Write([]byte("\n")); err != nil {
		c.t.Fatal(err)
	}
}

// killed waits until it has been, or has come to the end of its plan before, and then kills it.
func (c *player) killed() {
	c.t.Helper()
	if line, err := c.out.ReadString('\n'); err == nil {
		if line != "applied\n" {
			c.t.Fatalf("it says %q\n%s", line, c.log)
		}
		_ = c.cmd.Process.Kill()
	}
	_ = c.cmd.Wait()
	if ws, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		c.t.Fatalf("%s\n%s", c.cmd.ProcessState, c.log)
	}
}

// TestKilledAtEachStep is fault row 8: the process is killed between each two steps of an apply, and while HAProxy starts and reloads.
// The next one converges, one HAProxy runs, no request is lost, and the file is what it has loaded.
func TestKilledAtEachStep(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		var nodes []string
		for range 2 {
			node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
			t.Cleanup(node.Close)
			nodes = append(nodes, node.Listener.Addr().String())
		}
		for _, kind := range []struct {
			name  string
			steps []string
		}{
			{"run time", []string{"changed", "changed+20ms", "staged", "kept", "own", "committed", "noted"}},
			{"reload", []string{"staged", "tried", "kept", "own", "committed", "health", "health+5ms", "health+20ms", "health+50ms", "loaded", "noted"}},
			{"start", []string{"staged", "own", "committed", "health+1ms", "health+10ms", "health+40ms", "loaded"}}, // nothing is there that could be lost
		} {
			for _, step := range kind.steps {
				t.Run(kind.name+" "+step, func(t *testing.T) {
					t.Parallel()
					p := killPlan{binary: h.Path, listen: fmt.Sprintf("127.0.0.1:%d", haproxytest.FreePort(t)), first: nodes[:1], second: nodes, step: step, reload: kind.name == "reload"}
					if kind.name == "start" {
						p.first, p.second = nodes, nil
					}
					killedAt(t, p, nodes)
				})
			}
		}
	})
}

// serves compares the servers of the worker that takes new connections with the nodes.
func serves(t *testing.T, client *runtime.Client, nodes []string) {
	t.Helper()
	_, worker, _, err := client.Serving(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, rows, err := client.ServersState(t.Context(), worker)
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, r := range rows {
		if !r.Maint {
			have = append(have, r.Addr.String())
		}
	}
	slices.Sort(have)
	if want := slices.Sorted(slices.Values(nodes)); !slices.Equal(have, want) {
		t.Errorf("the worker serves %v, wanted are %v", have, want)
	}
}

func killedAt(t *testing.T, p killPlan, nodes []string) {
	dir, err := os.MkdirTemp("", "su") // short, for the socket
	if err != nil {
		t.Fatal(err)
	}
	p.dir = dir
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}()
	client := runtime.New(filepath.Join(dir, "m.sock"))
	defer endLeft(t, dir, client)
	again := p
	again.first, again.second, again.step, again.reload = nodes, nil, "", false
	first, second := p.start(t), (*player)(nil)
	master := 0
	if p.second == nil {
		first.killed()
		second = again.start(t)
		second.says("applied")
	} else {
		first.says("first")
		procs, err := client.Processes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		master = procs.Master.PID
		underLoad(t, p.listen, func() {
			first.goOn()
			first.killed()
			second = again.start(t)
			second.says("applied")
		})
	}
	checkSettled(t, p, client, nodes, master)
	cmd := second.cmd
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", p.listen); err == nil {
		t.Error("somebody still listens")
	}
}

// endLeft ends the HAProxy that a test that failed leaves behind.
func endLeft(t *testing.T, dir string, client *runtime.Client) {
	files := Files{Dir: dir, Config: filepath.Join(dir, "haproxy.cfg")}
	child := process.New(process.Options{Files: []string{files.Config, files.Own()}, Socket: filepath.Join(dir, "m.sock"), Log: filepath.Join(dir, "log")}, client)
	if id, err := child.Adopt(); err != nil || id == nil {
		return // nothing is left, as it should be
	}
	now, cancel := context.WithCancel(context.Background())
	cancel()
	if err := child.Stop(now); err != nil {
		t.Error(err)
	}
}

// checkSettled: HAProxy, the file and the note agree, on what is wanted.
func checkSettled(t *testing.T, p killPlan, client *runtime.Client, nodes []string, master int) {
	t.Helper()
	procs, _, revision, err := client.Serving(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if master != 0 && procs.Master.PID != master {
		t.Errorf("master %d where %d was", procs.Master.PID, master)
	}
	files := Files{Dir: p.dir, Config: filepath.Join(p.dir, "haproxy.cfg")}
	want, err := liveText{listen: p.listen, state: files.State()}.Render(stateOf(1, nodes), conf.Abilities{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(files.Config)
	if err != nil || string(text) != string(want.Main) {
		t.Errorf("wanted is %s; the file is\n%s %v", want.Revision(), text, err)
	}
	if noted, err := files.Noted(); err != nil || noted.Revision != want.Revision() || noted.Loaded != revision || noted.Master != procs.Master.PID {
		t.Errorf("HAProxy has %s, wanted is %s, noted %+v, %v", revision, want.Revision(), noted, err)
	}
	serves(t, client, nodes)
}

func underLoad(t *testing.T, addr string, f func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ready := make(chan struct{})
	var result load.Result
	var err error
	var wg sync.WaitGroup
	wg.Go(func() {
		result, err = load.Run(ctx, load.Options{
			Address: addr, Paths: []string{"/a", "/b"}, Timeout: patience, Ready: func() { close(ready) },
			Groups: []load.Group{{Name: "fresh", Workers: 2, Think: 2 * time.Millisecond}, {Name: "keep-alive", KeepAlive: true, Workers: 2, Think: 2 * time.Millisecond}},
		})
	})
	<-ready
	f()
	stop()
	wg.Wait()
	if err != nil || result.Failed > 0 {
		t.Errorf("%v: %s, %v", err, result, result.Failures)
	}
}
