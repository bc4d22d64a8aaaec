package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/model"
)

// stubborn is a worker that refuses to add a server at one address; as HAProxy does, it takes the commands behind that all the same.
type stubborn struct {
	*fakeRuntime
	addr string
}

func (r stubborn) Apply(_ context.Context, _ int, list []runtime.Change) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	for _, c := range list {
		if cmd := strings.Fields(c.String()); cmd[0] != "add" || cmd[3] != r.addr {
			(*world)(r.fakeRuntime).obey(cmd)
			continue
		}
		err = errors.Join(err, &runtime.ChangeError{Command: c.String(), Reply: "no"})
	}
	return err
}

// refuses makes haproxy -c refuse texts that bad reports, and HAProxy not start on them.
func (w *world) refuses(bad func(text string) bool) {
	w.set(func() {
		w.judge = func(text string) error {
			if bad(text) {
				return &process.CheckError{Output: "bad"}
			}
			return nil
		}
	})
	w.s.o.Process = picky{(*fakeProcess)(w), bad}
}

type picky struct {
	*fakeProcess
	bad func(text string) bool
}

func (p picky) Start(ctx context.Context, revision string) (process.Identity, error) {
	if p.bad((*world)(p.fakeProcess).file()) {
		return process.Identity{}, errors.New("bad")
	}
	return p.fakeProcess.Start(ctx, revision)
}

// TestPartlyThenQuarantined: one of two servers of an owner was taken before the other was refused. The owner is left out, and the worker
// keeps none of them.
func TestPartlyThenQuarantined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := liveWorld(t)
		w.s.o.Runtime = stubborn{(*fakeRuntime)(w), "192.0.2.3:80"}
		w.names["pool.x"] = []string{"192.0.2.2", "192.0.2.3"}
		w.refuses(func(text string) bool { return strings.Contains(text, "192.0.2.3") })
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		w.put("a=192.0.2.1:80", "*x=pool.x:80")
		w.after(time.Minute)
		st := w.s.Status()
		if w.servers() != "a@192.0.2.1:80" || w.file() != w.text() || len(w.reloadTimes()) != 1 || st.HAProxy.Behind || len(st.Degraded) != 1 {
			t.Errorf("servers %q, %d reloads, degraded %q, and the file is\n%s", w.servers(), len(w.reloadTimes()), st.Degraded, w.file())
		}
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestPartlyThenRefused: what was in force is loaded again where nobody can be left out.
func TestPartlyThenRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := liveWorld(t)
		w.s.o.Runtime = stubborn{(*fakeRuntime)(w), "192.0.2.3:80"}
		w.refuses(func(text string) bool { return strings.Count(text, "server ") > 1 })
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		nodes := []string{"a=192.0.2.1:80"}
		for i := range 14 {
			nodes = append(nodes, fmt.Sprintf("n%02d=192.0.2.%d:80", i, i+2))
		}
		w.put(nodes...)
		w.after(10 * time.Minute)
		if st := w.s.Status(); w.servers() != "a@192.0.2.1:80" || len(w.reloadTimes()) != 1 || len(st.Degraded) == 0 {
			t.Errorf("servers %q, %d reloads, degraded %q", w.servers(), len(w.reloadTimes()), st.Degraded)
		}
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		if st := w.s.Status(); len(st.Degraded) != 0 {
			t.Errorf("degraded %q", st.Degraded)
		}
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestDeathBeforeFiles: HAProxy dies before the files have followed a change. It is started on what haproxy -c accepts.
func TestDeathBeforeFiles(t *testing.T) {
	for name, wait := range map[string]time.Duration{"not asked yet": 20 * time.Millisecond, "refused, and nobody is at fault": 10 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := liveWorld(t)
				var named atomic.Bool // z has to be there from then on, as where use-server names it
				w.refuses(func(text string) bool {
					return strings.Contains(text, "192.0.2.2") || named.Load() && !strings.Contains(text, "192.0.2.9")
				})
				w.run()
				w.put("a=192.0.2.1:80", "z=192.0.2.9:80")
				w.after(time.Second)
				named.Store(wait > time.Second)
				if named.Load() {
					w.put("a=192.0.2.1:80")
				} else {
					w.put("a=192.0.2.1:80", "b=192.0.2.2:80", "z=192.0.2.9:80")
				}
				w.after(wait)
				w.die("signal: segmentation fault")
				w.after(10 * time.Minute)
				st := w.s.Status()
				if n := len(w.startTimes()); st.Phase != model.Serving || n > 4 || !strings.Contains(w.servers(), "a@192.0.2.1:80") {
					t.Errorf("phase %s after %d starts, servers %q, degraded %q", st.Phase, n, w.servers(), st.Degraded)
				}
				if err := w.stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestBackWhileReaped: servers that come back while those that left are deleted one by one cost no reload.
func TestBackWhileReaped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := liveWorld(t)
		w.s.o.Runtime = slowReaper{(*fakeRuntime)(w)}
		w.run()
		var all []string
		for i := range 50 {
			all = append(all, fmt.Sprintf("n%02d=192.0.2.%d:80", i, i+1))
		}
		w.put(all...)
		w.after(2 * time.Second)
		w.put(all[0])
		for !slices.ContainsFunc(strings.Split(w.told(), "; "), func(c string) bool { return strings.HasPrefix(c, "del ") }) {
			w.after(time.Millisecond)
		}
		w.put(all...)
		w.after(3 * time.Second)
		if n := len(w.reloadTimes()); n != 0 || len(strings.Fields(w.servers())) != len(all) {
			t.Errorf("%d reloads, servers %q", n, w.servers())
		}
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
}

// slowReaper is a worker whose deletions take 3 ms each.
type slowReaper struct{ *fakeRuntime }

func (r slowReaper) DelServer(_ context.Context, _ int, backend, server string) (bool, error) {
	time.Sleep(3 * time.Millisecond)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.asleep, server)
	r.changes = append(r.changes, "del server "+backend+"/"+server)
	return true, nil
}

func (r slowReaper) Apply(ctx context.Context, worker int, list []runtime.Change) error {
	r.mu.Lock()
	for _, c := range list {
		cmd := strings.Fields(c.String())
		_, name, _ := strings.Cut(cmd[2], "/")
		if cmd[len(cmd)-1] == "ready" && r.asleep[name] == "" && !slices.ContainsFunc(list, func(c runtime.Change) bool {
			return strings.HasPrefix(c.String(), "add server s/"+name+" ")
		}) {
			r.mu.Unlock()
			return &runtime.ChangeError{Command: c.String(), Reply: "No such server."}
		}
	}
	r.mu.Unlock()
	return r.fakeRuntime.Apply(ctx, worker, list)
}
