package chaos

import (
	"context"
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

	nodes  []*e2e.Node // all that may be in the pool
	in     map[*e2e.Node]bool
	last   *e2e.Node // that was added or removed last
	tmpl   string    // the template file
	edits  int       // of the template so far
	mark   int       // length of the log when the fault began
	master *runtime.Client
	pid    int // of the master that was seen last
}

// pooled is how many nodes are always in the pool; the others come and go.
const pooled = 3

func newWorld(t *testing.T, h haproxytest.HAProxy, seed uint64) *world {
	t.Helper()
	w := &world{t: t, h: h, r: rand.New(rand.NewPCG(seed, 0)), in: map[*e2e.Node]bool{}}
	w.tmpl = filepath.Join(e2e.TempDir(t), "haproxy.tmpl")
	w.template("")
	var fixed []string
	for i := range 2 * pooled {
		n := e2e.NewNode(t, string(rune('a'+i)))
		w.nodes = append(w.nodes, n)
		if i < pooled {
			w.in[n] = true
			fixed = append(fixed, n.Addr)
		}
	}
	t.Cleanup(func() { // where the test fails between fnlb's death and its next start
		if e2e.Alive(w.pid) {
			w.signal(w.pid, syscall.SIGTERM)
		}
	})
	w.args = []string{"--nodes", strings.Join(fixed, ","), "--template", w.tmpl}
	w.b = e2e.Start(t, h, w.args...)
	w.master = runtime.New(filepath.Join(w.b.Dir, "private", "master.sock"))
	w.b.WaitLog(0, "haproxy started")
	w.settle()
	return w
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
	n := w.nodes[pooled+w.r.IntN(len(w.nodes)-pooled)]
	if w.in[n] {
		w.b.Delete(n.Addr)
	} else {
		w.b.Put(n.Addr)
	}
	w.in[n], w.last = !w.in[n], n
}

// wanted is the pool by address.
func (w *world) wanted() map[string]bool {
	want := map[string]bool{}
	for n, in := range w.in {
		if in {
			want[n.Addr] = true
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
	told := map[string]bool{}
	for _, s := range st.Servers {
		if s.Health == model.Up {
			told[s.Address] = true
		}
	}
	if !maps.Equal(told, want) {
		return fmt.Sprintf("fnlb says that %v are up, wanted are %v", keys(told), keys(want))
	}
	text, err := os.ReadFile(filepath.Join(w.b.Dir, "haproxy.cfg"))
	if err != nil {
		return err.Error()
	}
	parsed, err := conf.Parse(text)
	if err != nil {
		return err.Error()
	}
	file := map[string]bool{}
	for _, s := range parsed.Servers() {
		if s.Backend == "nodes" {
			file[s.Addr.String()] = true
		}
	}
	if !maps.Equal(file, want) {
		return fmt.Sprintf("the file has %v, wanted are %v", keys(file), keys(want))
	}
	return w.driftOfWorker(st, text, want)
}

func (w *world) driftOfWorker(st model.Status, text []byte, want map[string]bool) string {
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
	serves := map[string]bool{}
	for _, row := range rows {
		if row.Backend == "nodes" && row.Up && !row.Maint {
			serves[row.Addr.String()] = true
		}
	}
	if !maps.Equal(serves, want) {
		return fmt.Sprintf("the worker serves %v, wanted are %v", keys(serves), keys(want))
	}
	return ""
}

func keys(m map[string]bool) []string { return slices.Sorted(maps.Keys(m)) }

// calm waits until HAProxy has run for so long that its next death counts as the first: a second one soon after waits on purpose.
func (w *world) calm() {
	w.t.Helper()
	w.until(func(st model.Status) bool { return time.Since(st.HAProxy.Started) > 6*time.Second })
}

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
