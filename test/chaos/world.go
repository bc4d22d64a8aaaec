package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor"
	"github.com/fnlb/fnlb/test/e2e"
)

// world is one balancer with its nodes, to which faults happen.
type world struct {
	t    *testing.T
	h    haproxytest.HAProxy
	r    *rand.Rand
	b    *e2e.Balancer
	args []string // its flags

	run, config *e2e.Disk        // what its run directory and its configuration file lie on; nil in a world for one fault
	memory      *e2e.MemoryGroup // its memory, where that is bounded
	first       *e2e.First       // it, where it is process 1
	dns         *e2e.NameServer  // what it asks, where its nodes have names

	nodes  []*e2e.Node // all that may be in the pool
	in     map[*e2e.Node]bool
	wishes map[*e2e.Node]wish // of those that are in the pool, and not as at first
	last   *e2e.Node          // that was changed last
	tmpl   string             // the template file
	edits  int                // of the template so far
	mark   int                // length of the log when the fault began
	struck time.Time          // when the fault began
	cost   step               // of the fault so far
	master *runtime.Client
	pid    int // of the master that was seen last
}

// pooled is how many nodes are always in the pool; the others come and go.
const pooled = 3

// prepare makes nodes and a template, and a balancer that is not started.
func prepare(t *testing.T, h haproxytest.HAProxy, r *rand.Rand, dir string) *world {
	t.Helper()
	w := &world{t: t, h: h, r: r, in: map[*e2e.Node]bool{}, wishes: map[*e2e.Node]wish{}, b: e2e.New(t, dir)}
	w.tmpl = filepath.Join(e2e.TempDir(t), "haproxy.tmpl")
	w.template("")
	var fixed []string
	for i := range 2 * pooled {
		n := w.node(string(rune('a'+i)), "127.0.0.1:0")
		w.nodes = append(w.nodes, n)
		if i < pooled {
			w.in[n] = true
			fixed = append(fixed, n.Addr)
		}
	}
	w.args = []string{"--nodes", strings.Join(fixed, ","), "--template", w.tmpl}
	return w
}

// node starts a node that takes WebSockets as well.
func (w *world) node(name, addr string) *e2e.Node {
	w.t.Helper()
	n := e2e.NewNodeAt(w.t, name, addr)
	talk := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			e2e.Echo(rw, r)
			return
		}
		fmt.Fprintf(rw, "hello from %s", name)
	})
	n.Handler.Store(&talk)
	return n
}

// newWorld is the one to which most faults happen. Its disks are its own, so that they can go wrong.
func newWorld(t *testing.T, h haproxytest.HAProxy, r *rand.Rand) *world {
	t.Helper()
	run, config := e2e.NewDisk(t), e2e.NewDisk(t)
	w := prepare(t, h, r, run.Dir)
	w.run, w.config = run, config
	w.b.Config = filepath.Join(config.Dir, "haproxy.cfg")
	w.b.Env = []string{"LOG_LEVEL=debug"} // it can be made to log much
	t.Cleanup(func() {                    // where the test fails between fnlb's death and its next start
		if e2e.Alive(w.pid) {
			w.signal(w.pid, syscall.SIGTERM)
		}
	})
	w.b.Run(h, w.args...)
	w.begin()
	return w
}

// begin waits until a balancer that has been started serves.
func (w *world) begin() {
	w.t.Helper()
	w.master = runtime.New(filepath.Join(w.b.Dir, "private", "master.sock"))
	w.b.WaitLog(0, "haproxy started")
	w.settle()
}

// tell sends a signal to fnlb.
func (w *world) tell(sig syscall.Signal) {
	w.t.Helper()
	if w.first != nil {
		w.first.Signal(sig)
		return
	}
	w.b.Signal(sig)
}

// stop ends fnlb, which must end well.
func (w *world) stop() {
	w.t.Helper()
	w.tell(syscall.SIGTERM)
	w.ended()
}

func (w *world) ended() {
	w.t.Helper()
	if code := w.b.WaitExit(); code != 0 {
		w.t.Errorf("fnlb ended with exit code %d", code)
	}
	if !e2e.Free(w.b.Traffic) || !e2e.Free(w.b.Mgmt) {
		w.t.Error("a port is taken after the stop")
	}
}

// template writes the built-in template with an empty backend of another name each time, so that it takes a reload, and more behind it.
func (w *world) template(more string) {
	w.t.Helper()
	builtin, err := os.ReadFile("../../templates/haproxy.tmpl")
	if err != nil {
		w.t.Fatal(err)
	}
	w.edits++
	w.write(w.tmpl, fmt.Sprintf("%s\nbackend edit%d\n%s\n", builtin, w.edits, more))
}

// write replaces a file as an editor does.
func (w *world) write(path, text string) {
	w.t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		w.t.Fatal(err)
	}
}

// change adds or removes one of the nodes that come and go.
func (w *world) change() {
	w.t.Helper()
	w.changeBy(&client)
}

func (w *world) changeBy(c *http.Client) {
	w.t.Helper()
	// Without one that is in maintenance nothing that is rendered changes.
	some := slices.DeleteFunc(slices.Clone(w.nodes[pooled:]), func(n *e2e.Node) bool { return w.wishes[n].state == "maint" })
	if len(some) == 0 {
		some = w.nodes[pooled:]
	}
	n := some[w.r.IntN(len(some))]
	method := http.MethodPut
	if w.in[n] {
		method = http.MethodDelete
	}
	if err := call(c, w.b.Mgmt, method, n.Addr); err != nil {
		w.t.Fatal(err)
	}
	w.in[n], w.last = !w.in[n], n
	delete(w.wishes, n) // forgotten with the node
}

// wish is what was asked for about a node.
type wish struct {
	weight int
	state  string
}

// ask gives one of the nodes that come and go another weight or state, and adds it where it is not there.
func (w *world) ask() {
	w.t.Helper()
	n := w.nodes[pooled+w.r.IntN(len(w.nodes)-pooled)]
	x, ok := w.wishes[n]
	if !ok {
		x = wish{1, "ready"}
	}
	body := map[string]any{"node": n.Addr}
	if w.r.IntN(2) == 0 {
		x.weight = 1 + w.r.IntN(256)
		body["weight"] = x.weight
	} else {
		x.state = []string{"drain", "ready", "maint"}[w.r.IntN(3)]
		body["state"] = x.state
	}
	text, err := json.Marshal(body)
	if err != nil {
		w.t.Fatal(err)
	}
	if status, err := send(&client, w.b.Mgmt, http.MethodPut, "/1/lb/nodes", string(text)); err != nil || status != http.StatusOK {
		w.t.Fatalf("%s: status %d %v", text, status, err)
	}
	w.in[n], w.wishes[n], w.last = true, x, n
}

// wanted are the weights of the pool by address, 0 where a node drains. One in maintenance is not there.
func (w *world) wanted() map[string]int {
	want := map[string]int{}
	for n, in := range w.in {
		if !in {
			continue
		}
		switch x, ok := w.wishes[n]; {
		case !ok:
			want[n.Addr] = 1
		case x.state == "drain":
			want[n.Addr] = 0
		case x.state == "ready":
			want[n.Addr] = x.weight
		}
	}
	return want
}

// settle waits until nothing drifts.
func (w *world) settle() {
	w.t.Helper()
	last := ""
	w.b.Eventually(func() string {
		why := w.drift()
		if why != "" && why != last {
			w.t.Logf("%s %s", time.Now().Format("05.000"), why)
		}
		last = why
		return why
	})
}

// drift says what is not yet as it should be: what is wanted, what HAProxy's worker serves, what its file says and what fnlb tells
// must be the same, with nothing degraded.
func (w *world) drift() string {
	var st model.Status
	if err := w.b.Get("/1/lb/status", &st); err != nil {
		return err.Error()
	}
	if st.Phase != model.Serving || st.Wanted != st.Applied || len(st.Degraded) > 0 {
		return fmt.Sprintf("phase %s, wanted %d, applied %d, degraded %q", st.Phase, st.Wanted, st.Applied, st.Degraded)
	}
	want := w.wanted()
	told := map[string]model.Health{}
	for _, s := range st.Servers {
		if s.Health == model.Up || s.Health == model.Draining {
			told[s.Address] = s.Health
		}
	}
	healths := map[string]model.Health{}
	for addr, weight := range want {
		healths[addr] = model.Up
		if weight == 0 {
			healths[addr] = model.Draining
		}
	}
	if !maps.Equal(told, healths) {
		return fmt.Sprintf("fnlb says %v, wanted are %v", told, want)
	}
	text, err := os.ReadFile(w.b.Config)
	if err != nil {
		return err.Error()
	}
	parsed, err := conf.Parse(text)
	if err != nil {
		return err.Error()
	}
	file := map[string]int{}
	for _, p := range parsed.Pools() {
		for _, m := range p.Members {
			if p.Name == "nodes" {
				file[m.Addr.String()] = m.Weight
			}
		}
	}
	if !maps.Equal(file, want) {
		return fmt.Sprintf("the file has %v, wanted are %v", file, want)
	}
	if why := w.driftOfKept(); why != "" {
		return why
	}
	return w.driftOfWorker(st, text, want)
}

// driftOfKept compares what would be known after a kill of fnlb. Where the run directory's disk is slow, what is in force may be ahead of it.
func (w *world) driftOfKept() string {
	if w.dns != nil { // then its nodes are no calls
		return ""
	}
	text, err := os.ReadFile(filepath.Join(w.b.Dir, "sources", "nodes.json"))
	var file struct{ Snapshot model.Snapshot }
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) { // it comes with the first call
		return err.Error()
	}
	kept := map[string]bool{}
	for _, o := range file.Snapshot.Offers {
		kept[o.Owner.Name] = true
	}
	for _, n := range w.nodes[pooled:] {
		if kept[n.Addr] != w.in[n] {
			return fmt.Sprintf("%s is in the pool: %v, and kept are %v", n.Addr, w.in[n], kept)
		}
	}
	return ""
}

func (w *world) driftOfWorker(st model.Status, text []byte, want map[string]int) string {
	ctx, cancel := context.WithTimeout(w.t.Context(), 250*time.Millisecond) // it is asked again
	defer cancel()
	// The worker itself says what it has loaded.
	noted, err := (supervisor.Files{Dir: w.b.Dir}).Noted()
	if err != nil {
		return err.Error()
	}
	if revision := (conf.Bundle{Main: text}).Revision(); noted.Revision != revision {
		return fmt.Sprintf("revision %s lies on disk, %s is noted", revision, noted.Revision)
	}
	master, worker, err := w.master.Loaded(ctx, noted.Loaded)
	if err != nil {
		return err.Error()
	}
	w.pid = master
	if master != st.HAProxy.Master || worker != st.HAProxy.Worker {
		return fmt.Sprintf("master %d and worker %d serve, fnlb says %d and %d", master, worker, st.HAProxy.Master, st.HAProxy.Worker)
	}
	_, rows, err := w.master.ServersState(ctx, worker)
	if err != nil {
		return err.Error()
	}
	serves := map[string]int{}
	for _, row := range rows {
		if row.Backend == "nodes" && row.Up && !row.Maint {
			serves[row.Addr.String()] = row.Weight
		}
	}
	if !maps.Equal(serves, want) {
		return fmt.Sprintf("the worker serves %v, wanted are %v", serves, want)
	}
	return ""
}

// calm reports whether HAProxy has run for so long that its next death counts as the first: a second one soon after waits on purpose.
func calm(st model.Status) bool { return time.Since(st.HAProxy.Started) > 6*time.Second }

// until waits until the status is as it should be, also of a fnlb that only starts.
func (w *world) until(ok func(model.Status) bool) {
	w.t.Helper()
	w.b.Eventually(func() string {
		var st model.Status
		if err := w.b.Get("/1/lb/status", &st); err != nil {
			return err.Error()
		}
		if !ok(st) {
			return fmt.Sprintf("the status is %+v", st)
		}
		return ""
	})
}

// signal sends a signal to a process of HAProxy.
func (w *world) signal(pid int, sig syscall.Signal) {
	w.t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		w.t.Fatal(err)
	}
}

// served waits until a request over a new connection gets a good answer.
func (w *world) served() {
	w.t.Helper()
	begin := time.Now()
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var last error
	for time.Since(begin) < e2e.Patience {
		req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "http://"+w.b.Traffic+"/", nil)
		if err != nil {
			w.t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err == nil {
			err = resp.Body.Close()
			if resp.StatusCode == http.StatusOK && err == nil {
				return
			}
			err = fmt.Errorf("status %d", resp.StatusCode)
		}
		last = err
		time.Sleep(time.Millisecond) // a port that opens tells nobody
	}
	w.t.Fatalf("nothing is served: %v", last)
}
