package supervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/model"
)

// again is the world of the next fnlb: HAProxy, files and nodes are those of w, whose supervisor was killed.
func (w *world) again(found bool) *world {
	next := newWorld(w.t)
	next.dir, next.alive, next.worker, next.loaded, next.revision, next.down = w.dir, w.alive, w.worker, w.loaded, w.revision, w.down
	next.names, next.healthy, next.ticks, next.stopping = w.names, w.healthy, w.ticks, w.stopping
	o := next.s.o
	o.Files = Files{Dir: w.dir, Config: filepath.Join(w.dir, "haproxy.cfg")}
	if found {
		o.Found = &process.Identity{Master: 99, Ticks: w.ticks}
	}
	next.s = New(o)
	return next
}

// left lets a supervisor apply these nodes, and keeps aside what a clean stop deletes, so that it can be put back as a kill leaves it.
func left(w *world, nodes ...string) {
	w.run()
	w.put(nodes...)
	w.after(3 * time.Second)
	files := w.s.o.Files
	kept := map[string][]byte{}
	for _, name := range []string{files.Own(), files.Applied(), files.State()} {
		data, err := os.ReadFile(name)
		if err != nil {
			w.t.Fatal(err)
		}
		kept[name] = data
	}
	if err := w.stop(); err != nil {
		w.t.Fatal(err)
	}
	w.alive = true
	for name, data := range kept {
		if err := os.WriteFile(name, data, 0o640); err != nil {
			w.t.Fatal(err)
		}
	}
	w.soft = nil
}

// adoptIn runs f with the world after a kill.
func adoptIn(t *testing.T, damage func(w *world), f func(w *world)) {
	t.Helper()
	inBubble(t, func(w *world) {
		w.names["name"] = []string{"192.0.2.5"}
		left(w, "a=192.0.2.1:80", "b=192.0.2.2:80", "n=name:80")
		// After the kill nothing passes a probe any more, and names are not known: what serves must go on all the same.
		for _, addr := range []string{"192.0.2.1:80", "192.0.2.2:80", "192.0.2.5:80"} {
			w.healthy[addr] = check.Result{Reason: "no"}
		}
		delete(w.names, "name")
		if damage != nil {
			damage(w)
		}
		next := w.again(true)
		next.run()
		f(next)
		if err := next.stop(); err != nil {
			t.Error(err)
		}
	})
}

const all = "a@192.0.2.1:80 b@192.0.2.2:80 n_192.0.2.5@192.0.2.5:80"

// TestAdopt: what runs and agrees goes on without a start and a reload, its servers are admitted without a probe, by address and by
// name, and it is ready before any State has come.
func TestAdopt(t *testing.T) {
	adoptIn(t, nil, func(w *world) {
		w.after(100 * time.Millisecond)
		if st := w.s.Status(); st.Phase != model.Serving || st.HAProxy.Master != 99 || len(st.Config) == 0 || len(st.Degraded) > 0 {
			t.Errorf("before the first State: %+v", st)
		}
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80", "n=name:80")
		w.after(5 * time.Second)
		want(t, "servers", w.servers(), all)
		want(t, "health", w.health(), "a:up b:up n:up")
		if st := w.s.Status(); len(w.startTimes()) > 0 || len(w.reloadTimes()) > 0 || st.Applied != 1 {
			t.Errorf("%d starts, %d reloads, %+v", len(w.startTimes()), len(w.reloadTimes()), st)
		}
		if c := w.s.Status().Changes; len(c) != 1 || c[0].Method != model.Adopt {
			t.Errorf("changes %+v", c)
		}
		// A server that comes later is probed, at whatever address.
		w.put("a=192.0.2.1:80", "n=name:80")
		w.after(time.Second)
		w.put("a=192.0.2.1:80", "n=name:80", "c=192.0.2.2:80")
		w.after(time.Second)
		want(t, "servers", w.servers(), "a@192.0.2.1:80 n_192.0.2.5@192.0.2.5:80")
		w.die("a crash")
		w.after(2 * time.Second)
		want(t, "servers after a death", w.servers(), "a@192.0.2.1:80 n_192.0.2.5@192.0.2.5:80")
	})
}

// TestAdoptDisagrees: whatever does not agree with what was noted is one reload with the reason, and what serves goes on.
func TestAdoptDisagrees(t *testing.T) {
	path := func(w *world, name string) string { return filepath.Join(w.dir, name) }
	write := func(w *world, name, text string) {
		if err := os.WriteFile(path(w, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		damage func(w *world)
		why    string
	}{
		"not noted":           {func(w *world) { _ = os.Remove(path(w, "applied.json")) }, "what was applied is not known"},
		"noted badly":         {func(w *world) { write(w, "applied.json", "{") }, "what was applied is not known"},
		"another worker":      {func(w *world) { w.worker++ }, "other processes"},
		"another master":      {func(w *world) { w.ticks++ }, "other processes"},
		"another revision":    {func(w *world) { w.revision = "x" }, "was noted"},
		"the text was lost":   {func(w *world) { _ = os.Remove(path(w, "haproxy.cfg")) }, "not what HAProxy has loaded"},
		"the text was torn":   {func(w *world) { write(w, "haproxy.cfg", "backend s\n") }, "not what HAProxy has loaded"},
		"what cannot be read": {func(w *world) { write(w, "haproxy.cfg", "'") }, "not what HAProxy has loaded"},
	} {
		t.Run(name, func(t *testing.T) {
			adoptIn(t, test.damage, func(w *world) {
				w.put("a=192.0.2.1:80", "b=192.0.2.2:80", "n=name:80")
				w.after(5 * time.Second)
				want(t, "servers", w.servers(), all)
				if len(w.startTimes()) > 0 || len(w.reloadTimes()) != 1 || w.lines("msg=reloaded", test.why) != 1 {
					t.Errorf("%d starts, %d reloads:\n%s", len(w.startTimes()), len(w.reloadTimes()), w.logged())
				}
				if st := w.s.Status(); st.Applied != 1 || len(st.Degraded) > 0 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

// TestAdoptHalfDone: killed between the two renames, or before the worker was told, the files are put back to what HAProxy is known to
// have; in the second case it may have taken a part of the change at run time, so that it loads a text again.
func TestAdoptHalfDone(t *testing.T) {
	for name, half := range map[string]func(w *world, f Files) (reloads int){
		"own.cfg is ahead": func(w *world, f Files) int { return 0 },
		"both are ahead": func(w *world, f Files) int {
			if err := os.Rename(f.Config, f.Last()); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(f.Config, []byte("frontend f\n  bind :81\n"), 0o640); err != nil {
				t.Fatal(err)
			}
			return 1
		},
	} {
		t.Run(name, func(t *testing.T) {
			reloads := 0
			adoptIn(t, func(w *world) {
				f := w.s.o.Files
				reloads = half(w, f)
				if err := os.WriteFile(f.Own(), f.ownText("ahead"), 0o640); err != nil {
					t.Fatal(err)
				}
			}, func(w *world) {
				w.after(time.Second)
				text, err := os.ReadFile(w.s.o.Files.Config)
				if err != nil || string(text) != w.text() {
					t.Errorf("%s %v", text, err)
				}
				if own, err := os.ReadFile(w.s.o.Files.Own()); err != nil || string(own) != string(w.s.o.Files.ownText(w.revision)) {
					t.Errorf("%s %v", own, err)
				}
				w.put("a=192.0.2.1:80", "b=192.0.2.2:80", "n=name:80")
				w.after(5 * time.Second)
				want(t, "servers", w.servers(), all)
				if len(w.startTimes()) > 0 || len(w.reloadTimes()) != reloads {
					t.Errorf("%d starts, %d reloads, wanted %d", len(w.startTimes()), len(w.reloadTimes()), reloads)
				}
			})
		})
	}
}

// TestAdoptRefusedText: a text that is refused after an adoption changes nothing, and a good one afterwards is applied.
func TestAdoptRefusedText(t *testing.T) {
	adoptIn(t, nil, func(w *world) {
		w.set(func() { w.checkErr = &process.CheckError{Output: "bad"} })
		w.renderer.title = "other"
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80", "n=name:80")
		w.after(time.Second)
		want(t, "servers", w.servers(), all)
		if st := w.s.Status(); st.Phase != model.Serving || len(st.Degraded) != 1 {
			t.Errorf("%+v", st)
		}
		w.set(func() { w.checkErr = nil })
		w.s.SetRenderer(&textRenderer{w: w, title: "third"}, "SIGHUP")
		w.after(time.Second)
		if !strings.Contains(w.text(), "# third") || len(w.s.Status().Degraded) > 0 {
			t.Errorf("%s %+v", w.text(), w.s.Status().Degraded)
		}
	})
}

// TestAdoptTooLate: a HAProxy that ends before it was adopted, or that only finishes its requests, gets a successor; one that says
// nothing is left alone, with its files.
func TestAdoptTooLate(t *testing.T) {
	t.Run("it ends", func(t *testing.T) {
		adoptIn(t, func(w *world) { w.alive = false }, func(w *world) {
			w.after(time.Second)
			w.die("a crash")
			w.put("a=192.0.2.9:80")
			w.after(2 * time.Second)
			want(t, "servers", w.servers(), "a@192.0.2.9:80")
		})
	})
	t.Run("it finishes", func(t *testing.T) {
		adoptIn(t, func(w *world) { w.stopping = true }, func(w *world) {
			w.put("a=192.0.2.9:80")
			w.after(2 * time.Second)
			want(t, "servers", w.servers(), "a@192.0.2.9:80")
			if w.superseded != 1 || len(w.startTimes()) != 1 {
				t.Errorf("superseded %d times, %d starts", w.superseded, len(w.startTimes()))
			}
		})
	})
	t.Run("it is silent", func(t *testing.T) {
		inBubble(t, func(w *world) {
			left(w, "a=192.0.2.1:80")
			w.alive = false
			next := w.again(true)
			next.run()
			next.put("a=192.0.2.1:80")
			next.after(adoptLimit + 2*workerLimit)
			if err := <-next.done; err == nil || !strings.Contains(err.Error(), "kill -USR1 99") {
				t.Errorf("ended with %v", err)
			}
			if _, err := next.s.o.Files.Noted(); err != nil || len(next.startTimes()) > 0 {
				t.Errorf("%v, %d starts", err, len(next.startTimes()))
			}
		})
	})
}

// TestSharedPort: a stranger on our port is told once, shown while it is there, and told again when it is gone.
func TestSharedPort(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		w.set(func() { w.strangers = []string{"0.0.0.0:80: haproxy (pid 7)"} })
		w.after(time.Minute)
		if st := w.s.Status(); w.lines("listens on a port of ours", "pid 7") != 1 || len(st.Degraded) != 1 || len(st.Problems) != 1 {
			t.Errorf("%+v\n%s", st, w.logged())
		}
		w.set(func() { w.strangers = nil })
		w.after(time.Minute)
		if st := w.s.Status(); w.lines("nobody else listens") != 1 || len(st.Degraded) > 0 || len(st.Problems) > 0 {
			t.Errorf("%+v\n%s", st, w.logged())
		}
	})
}

// TestSlowLook: a kernel that takes long to say who listens makes nobody silent.
func TestSlowLook(t *testing.T) {
	inBubble(t, func(w *world) {
		w.portsTake = 2 * observeLimit
		w.run()
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Minute)
		w.set(func() { w.down["b"] = true })
		w.after(20 * time.Second)
		want(t, "health", w.health(), "a:up b:down")
		if w.lines("does not answer") > 0 {
			t.Error(w.logged())
		}
	})
}

// TestChangeDuringReload is fault row 13: what comes while HAProxy reloads lands in a worker after it, and what an earlier worker still
// says counts for nothing.
func TestChangeDuringReload(t *testing.T) {
	inBubble(t, func(w *world) {
		w.reloadTakes = time.Second
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(3 * time.Second)
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(500 * time.Millisecond)
		before := w.s.Status().HAProxy.Worker
		w.put("b=192.0.2.2:80", "c=192.0.2.3:80") // the reload for b is under way
		w.set(func() { w.down["b"] = true })
		w.after(10 * time.Second)
		want(t, "servers", w.servers(), "b@192.0.2.2:80 c@192.0.2.3:80")
		want(t, "health", w.health(), "b:down c:up")
		st := w.s.Status()
		if st.Applied != 3 || st.HAProxy.Worker != before+2 || w.worker != st.HAProxy.Worker {
			t.Errorf("applied %d, worker %d after %d", st.Applied, st.HAProxy.Worker, before)
		}
	})
}
