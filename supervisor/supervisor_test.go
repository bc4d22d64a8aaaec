package supervisor

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/model"
)

func TestMain(m *testing.M) {
	if os.Getenv("SUPERVISOR_TEST_CHILD") != "" {
		if err := playKilled(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Those with a real HAProxy wait most of their time, so that more of them run side by side than there are processors.
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("6"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

// inBubble runs a test in fake time, with a world that is stopped at the end.
func inBubble(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		f(w)
		if w.soft != nil {
			if err := w.stop(); err != nil {
				t.Errorf("the supervisor ended with %v", err)
			}
		}
	})
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// TestAdmission: the ports open at once; a server joins with its first passing probe, however long that takes.
func TestAdmission(t *testing.T) {
	inBubble(t, func(w *world) {
		w.healthy["192.0.2.2:80"] = check.Result{Reason: "connection refused"}
		w.run()
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		want(t, "servers", w.servers(), "a@192.0.2.1:80")
		want(t, "health", w.health(), "a:up b:pending")
		if len(w.startTimes()) != 1 {
			t.Errorf("%d starts", len(w.startTimes()))
		}
		w.after(10 * time.Second)
		if n := w.probed("192.0.2.2:80"); n < 10 || n > 12 {
			t.Errorf("%d probes in 11 s at an interval of 1 s", n)
		}
		if n := w.probed("192.0.2.1:80"); n != 1 {
			t.Errorf("%d probes of an admitted server", n)
		}
		if n := w.lines("is unhealthy", "b"); n != 1 {
			t.Errorf("%d lines about b", n)
		}
		w.set(func() { delete(w.healthy, "192.0.2.2:80") })
		w.after(2 * time.Second)
		want(t, "servers", w.servers(), "a@192.0.2.1:80 b@192.0.2.2:80")
		want(t, "health", w.health(), "a:up b:up")
		if st := w.s.Status(); st.Applied != 1 || st.Phase != model.Serving || st.HAProxy.MaxConn != 1234 {
			t.Errorf("status %+v", st)
		}
	})
}

// TestCoalesce: a burst becomes one reload after quiet, a removal does not wait.
func TestCoalesce(t *testing.T) {
	inBubble(t, func(w *world) {
		w.reloadTakes = 20 * time.Millisecond
		w.run()
		w.put()
		w.after(time.Second)
		for i := range 20 {
			nodes := []string{}
			for j := range i + 1 {
				nodes = append(nodes, fmt.Sprintf("n%02d=192.0.2.%d:80", j, j+1))
			}
			w.put(nodes...)
			w.after(5 * time.Millisecond)
		}
		w.after(time.Second)
		if n := len(w.reloadTimes()); n == 0 || n > 5 {
			t.Errorf("%d reloads for a burst of 100 ms", n)
		}
		if n := strings.Count(w.servers(), "@"); n != 20 {
			t.Errorf("%d servers", n)
		}
		before := time.Now()
		w.put("n00=192.0.2.1:80")
		w.after(time.Second)
		if got := w.reloadTimes()[len(w.reloadTimes())-1]; got != before.Add(20*time.Millisecond) {
			t.Errorf("a removal was applied after %s", got.Sub(before))
		}
		// The same State again, and one that only adds what is not admitted: nothing to do.
		n := len(w.reloadTimes())
		w.set(func() { w.healthy["192.0.2.9:80"] = check.Result{Reason: "no"} })
		w.put("n00=192.0.2.1:80")
		w.after(time.Second)
		w.put("n00=192.0.2.1:80", "x=192.0.2.9:80")
		w.after(time.Second)
		if len(w.reloadTimes()) != n {
			t.Error("reloaded where nothing changed")
		}
		if st := w.s.Status(); st.Applied != w.revisions {
			t.Errorf("applied %d of %d", st.Applied, w.revisions)
		}
	})
}

// TestNames is fault row 26: no DNS at start, an answer, another answer, no answer again.
func TestNames(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("n=name:80", "a=192.0.2.1:80")
		w.after(2 * time.Second)
		want(t, "without DNS", w.servers(), "a@192.0.2.1:80")
		want(t, "health", w.health(), "a:up n:pending")
		w.set(func() { w.names["name"] = []string{"192.0.2.5", "192.0.2.4"} })
		w.after(2 * time.Second)
		want(t, "the first answer", w.servers(), "a@192.0.2.1:80 n_192.0.2.4@192.0.2.4:80")
		w.set(func() { w.names["name"] = []string{"192.0.2.4", "192.0.2.3"} })
		w.after(20 * time.Second)
		want(t, "a further address", w.servers(), "a@192.0.2.1:80 n_192.0.2.4@192.0.2.4:80")
		w.set(func() {
			w.names["name"] = []string{"192.0.2.9"}
			w.healthy["192.0.2.9:80"] = check.Result{Reason: "no"}
		})
		w.after(20 * time.Second)
		want(t, "a new address that does not pass", w.servers(), "a@192.0.2.1:80 n_192.0.2.4@192.0.2.4:80")
		w.set(func() { delete(w.healthy, "192.0.2.9:80") })
		w.after(20 * time.Second)
		want(t, "a new address", w.servers(), "a@192.0.2.1:80 n_192.0.2.9@192.0.2.9:80")
		w.set(func() { delete(w.names, "name") })
		n := len(w.reloadTimes())
		w.after(time.Minute)
		want(t, "DNS gone", w.servers(), "a@192.0.2.1:80 n_192.0.2.9@192.0.2.9:80")
		if len(w.reloadTimes()) != n {
			t.Error("reloaded although nothing changed")
		}
	})
}

// TestRefusedAddress: what a name leads to is judged as what is written by hand.
func TestRefusedAddress(t *testing.T) {
	inBubble(t, func(w *world) {
		w.s.o.Allowed = model.Policy{}.Check
		w.names["name"] = []string{"169.254.169.254"}
		w.run()
		w.put("n=name:80")
		w.after(3 * time.Second)
		want(t, "servers", w.servers(), "")
		if w.probed("169.254.169.254:80") != 0 {
			t.Error("a refused address was probed")
		}
		if p := w.s.Status().Problems; len(p) != 1 || !strings.Contains(p[0].Reason, "link-local") {
			t.Errorf("problems %+v", p)
		}
	})
}

// TestDeath: the first restart is at once, further ones are spaced, and calm forgets.
func TestDeath(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		begin := time.Now()
		w.die("killed by SIGKILL")
		w.after(0)
		if len(w.startTimes()) != 2 || w.startTimes()[1] != begin {
			t.Fatalf("starts %v, died at %v", w.startTimes(), begin)
		}
		if w.lines("haproxy died", "killed by SIGKILL") != 1 || w.lines("haproxy started", "haproxy died") != 1 {
			t.Error(w.logged())
		}
		w.set(func() { w.failStart = errors.New("cannot bind") })
		w.die("again")
		w.after(time.Minute)
		if n := len(w.startTimes()) - 2; n < 12 || n > 25 {
			t.Errorf("%d attempts in a minute", n)
		}
		if st := w.s.Status(); st.Phase != model.Broken || len(st.Degraded) == 0 {
			t.Errorf("status %+v", st)
		}
		w.set(func() { w.failStart = nil })
		w.after(10 * time.Second)
		if st := w.s.Status(); st.Phase != model.Serving {
			t.Errorf("status %+v", st)
		}
		want(t, "servers", w.servers(), "a@192.0.2.1:80")
		// What changed while it was dead is applied after the restart.
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.die("once more")
		w.after(5 * time.Second)
		want(t, "servers", w.servers(), "a@192.0.2.1:80 b@192.0.2.2:80")
	})
}

// TestShelved: a template that could not be applied for another reason than its text is applied by itself when that is over. It is told
// once, States go on meanwhile, and a newer one takes its place.
func TestShelved(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		fail := func(title string) {
			w.set(func() {
				w.judge = func(text string) error {
					if strings.HasPrefix(text, "# "+title) {
						return errors.New("too many open files")
					}
					return nil
				}
			})
		}
		fail("two")
		w.s.SetRenderer(&textRenderer{w: w, title: "two"}, "SIGHUP")
		w.after(time.Minute)
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		if st := w.s.Status(); !strings.HasPrefix(w.text(), "# one") || len(st.Degraded) == 0 || w.lines("refused", "too many open files") != 1 {
			t.Errorf("status %+v, text %s, %s", st, w.text(), w.logged())
		}
		want(t, "servers", w.servers(), "a@192.0.2.1:80 b@192.0.2.2:80")
		fail("nothing")
		w.after(shelfTime + time.Second)
		if st := w.s.Status(); !strings.HasPrefix(w.text(), "# two") || len(st.Degraded) != 0 {
			t.Errorf("status %+v, text %s", st, w.text())
		}
		fail("three")
		w.s.SetRenderer(&textRenderer{w: w, title: "three"}, "SIGHUP")
		w.after(time.Second)
		fail("nothing")
		w.s.SetRenderer(&textRenderer{w: w, title: "four"}, "SIGHUP")
		w.after(time.Minute)
		if st := w.s.Status(); !strings.HasPrefix(w.text(), "# four") || len(st.Degraded) != 0 {
			t.Errorf("status %+v, text %s", st, w.text())
		}
	})
}

// TestRefused: a text that HAProxy refuses changes nothing; a bad renderer is dropped, and States go on with the one in force.
func TestRefused(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		before, err := os.ReadFile(filepath.Join(w.dir, "haproxy.cfg"))
		if err != nil {
			t.Fatal(err)
		}
		w.set(func() { w.checkErr = &process.CheckError{Output: "unknown keyword"} })
		w.s.SetRenderer(&textRenderer{w: w, title: "two"}, "SIGHUP")
		w.after(time.Minute)
		if n := w.lines("refused", "unknown keyword"); n != 1 {
			t.Errorf("%d lines, want 1: what is refused once is not tried again", n)
		}
		if st := w.s.Status(); len(st.Degraded) == 0 || len(st.Problems) == 0 || len(w.reloadTimes()) != 1 {
			t.Errorf("status %+v, %d reloads", st, len(w.reloadTimes()))
		}
		if after, err := os.ReadFile(filepath.Join(w.dir, "haproxy.cfg")); err != nil || string(after) != string(before) {
			t.Errorf("the file in force changed: %v", err)
		}
		if _, err := os.Stat(filepath.Join(w.dir, "haproxy.cfg.refused")); err != nil {
			t.Error(err)
		}
		w.set(func() { w.checkErr = nil })
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		want(t, "servers", w.servers(), "a@192.0.2.1:80 b@192.0.2.2:80")
		if !strings.HasPrefix(w.text(), "# one") {
			t.Errorf("the refused template came back: %s", w.text())
		}
		w.s.SetRenderer(&textRenderer{w: w, title: "three"}, "SIGHUP")
		w.after(time.Second)
		if st := w.s.Status(); !strings.HasPrefix(w.text(), "# three") || len(st.Degraded) != 0 {
			t.Errorf("%s %v", w.text(), st.Degraded)
		}
	})
}

// TestFailedReload: the last good text is put back, and the reload is tried again until it succeeds.
func TestFailedReload(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		w.set(func() { w.failReload = errors.New("could not bind") })
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(9 * time.Second)
		data, err := os.ReadFile(filepath.Join(w.dir, "haproxy.cfg"))
		if err != nil || strings.Contains(string(data), "server b") {
			t.Errorf("the refused text is in place: %s, %v", data, err)
		}
		// Each failed reload pauses the ports: whatever comes, the next one waits.
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80", "c=192.0.2.3:80")
		w.after(500 * time.Millisecond)
		if n := len(w.reloadTimes()); n != 2 {
			t.Errorf("%d reloads in 10 s, want the first and the failed one", n)
		}
		w.after(5 * time.Minute)
		if n := len(w.reloadTimes()); n < 4 || n > 12 {
			t.Errorf("%d reloads in 5 min", n)
		}
		if n := w.lines("refused", "could not bind"); n != 1 {
			t.Errorf("told %d times", n)
		}
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.set(func() { w.failReload = nil })
		w.after(10 * time.Minute)
		want(t, "servers", w.servers(), "a@192.0.2.1:80 b@192.0.2.2:80")
		if st := w.s.Status(); len(st.Degraded) != 0 {
			t.Errorf("degraded %v", st.Degraded)
		}
	})
}

// TestDeathDuringReload: a reload of what is gone is not waited for.
func TestDeathDuringReload(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		w.set(func() { w.reloadTakes = time.Hour })
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		begin := time.Now()
		w.die("OOM")
		w.after(0)
		if n := len(w.startTimes()); n != 2 || w.startTimes()[1] != begin {
			t.Errorf("starts %v, died at %v", w.startTimes(), begin)
		}
		w.set(func() { w.reloadTakes = 0 })
		w.after(5 * time.Second)
		want(t, "servers", w.servers(), "a@192.0.2.1:80 b@192.0.2.2:80")
	})
}

// TestBadRendererBlocksNothing: while a new template cannot be loaded, for whatever reason, States go on with the old one.
func TestBadRendererBlocksNothing(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		w.set(func() { w.checkErr = errors.New("no space left") })
		w.s.SetRenderer(&textRenderer{w: w, title: "two"}, "SIGHUP")
		w.after(time.Second)
		w.set(func() { w.checkErr = nil })
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		want(t, "servers", w.servers(), "a@192.0.2.1:80")
		if st := w.s.Status(); len(st.Degraded) != 1 || !strings.Contains(st.Degraded[0], "no space left") {
			t.Errorf("degraded %v", st.Degraded)
		}
	})
}

// TestUnreadable: a template that could not be read stays told, whatever becomes of an older one that is being loaded meanwhile.
func TestUnreadable(t *testing.T) {
	inBubble(t, func(w *world) {
		w.reloadTakes = time.Second
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(5 * time.Second)
		w.s.SetRenderer(&textRenderer{w: w, title: "two"}, "SIGHUP")
		w.after(500 * time.Millisecond) // it is being loaded
		w.s.Unreadable(model.Problem{Reason: "half of it", Place: model.Place{Template: "/t.tmpl", TemplateLine: 3}})
		w.after(5 * time.Second)
		st := w.s.Status()
		if len(st.Degraded) != 1 || len(st.Problems) != 1 || st.Problems[0].Place.TemplateLine != 3 || !strings.Contains(w.text(), "# two") {
			t.Errorf("%v, %+v, in force is\n%s", st.Degraded, st.Problems, w.text())
		}
		w.s.SetRenderer(&textRenderer{w: w, title: "three"}, "SIGHUP")
		w.after(5 * time.Second)
		if st := w.s.Status(); len(st.Degraded) != 0 || !strings.Contains(w.text(), "# three") {
			t.Errorf("%v, in force is\n%s", st.Degraded, w.text())
		}
	})
}

// TestRefusedStateTakenBack: a refusal is told for as long as what was refused is wanted.
func TestRefusedStateTakenBack(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		w.set(func() { w.checkErr = &process.CheckError{Output: "unknown keyword"} })
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		if st := w.s.Status(); len(st.Degraded) != 1 {
			t.Errorf("degraded %v", st.Degraded)
		}
		w.die("killed")
		w.after(time.Second)
		if st := w.s.Status(); len(st.Degraded) != 1 {
			t.Errorf("after a restart of the text in force: degraded %v", st.Degraded)
		}
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		if st := w.s.Status(); len(st.Degraded) != 0 || st.Applied != 3 {
			t.Errorf("taken back: degraded %v, applied %d", st.Degraded, st.Applied)
		}
	})
}

// TestStopDuringDeath: once the stop has begun nothing makes it ready again.
func TestStopDuringDeath(t *testing.T) {
	inBubble(t, func(w *world) {
		w.s.o.StopDelay = 10 * time.Second
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		w.soft()
		w.after(time.Second)
		w.die("killed")
		w.after(time.Second)
		if st := w.s.Status(); st.Phase != model.Stopping || len(w.startTimes()) != 2 {
			t.Errorf("phase %s, %d starts", st.Phase, len(w.startTimes()))
		}
	})
}

// TestOldWorkers: with eight old workers alive further reloads wait.
func TestOldWorkers(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		w.set(func() { w.old = maxOldWorkers })
		w.after(time.Second)
		n := len(w.reloadTimes())
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Minute)
		if len(w.reloadTimes()) != n {
			t.Error("reloaded with eight old workers alive")
		}
		w.set(func() { w.old = maxOldWorkers - 1 })
		w.after(time.Second)
		want(t, "servers", w.servers(), "a@192.0.2.1:80 b@192.0.2.2:80")
	})
}

// TestHealth: what HAProxy finds is told once for each change.
func TestHealth(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		w.set(func() { w.down["b"] = true })
		w.after(5 * time.Second)
		want(t, "health", w.health(), "a:up b:down")
		if w.lines("is unhealthy", "node=b", "Connection refused") != 1 {
			t.Error(w.logged())
		}
		w.set(func() { delete(w.down, "b") })
		w.after(5 * time.Second)
		want(t, "health", w.health(), "a:up b:up")
		if w.lines("is healthy", "node=b") != 2 { // at the beginning, and now
			t.Error(w.logged())
		}
		w.set(func() { w.silent = true })
		w.after(10 * time.Second)
		if st := w.s.Status(); len(st.Degraded) != 1 || w.lines("does not answer, traffic") != 1 {
			t.Errorf("a silent worker: %v", st.Degraded)
		}
		w.set(func() { w.silent = false })
		w.after(2 * time.Minute)
		if st := w.s.Status(); len(st.Degraded) != 0 {
			t.Errorf("degraded %v", st.Degraded)
		}
	})
}

// TestStop: readiness goes first, then the delay, then the drain with its limit, or at once by the second signal.
func TestStop(t *testing.T) {
	for name, test := range map[string]struct {
		delay, limit, takes, hardAfter, want time.Duration
	}{
		"at once":        {want: 0},
		"drain":          {takes: 7 * time.Second, want: 7 * time.Second},
		"delay":          {delay: 3 * time.Second, takes: time.Second, want: 4 * time.Second},
		"limit":          {limit: 2 * time.Second, takes: time.Hour, want: 2 * time.Second},
		"second signal":  {takes: time.Hour, hardAfter: 5 * time.Second, want: 5 * time.Second},
		"signal in both": {delay: 3 * time.Second, takes: time.Hour, hardAfter: 4 * time.Second, want: 4 * time.Second},
		"no more delay":  {delay: time.Hour, takes: time.Hour, hardAfter: 2 * time.Second, want: 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.s.o.StopDelay, w.s.o.ShutdownTimeout, w.stopTakes = test.delay, test.limit, test.takes
				w.run()
				w.put("a=192.0.2.1:80")
				w.after(time.Second)
				begin := time.Now()
				w.soft()
				synctest.Wait()
				if st := w.s.Status(); st.Phase != model.Stopping {
					t.Errorf("phase %s", st.Phase)
				}
				if test.hardAfter > 0 {
					time.AfterFunc(test.hardAfter, w.hard)
				}
				if err := <-w.done; err != nil {
					t.Error(err)
				}
				if took := time.Since(begin); took != test.want {
					t.Errorf("stopped after %s, want %s", took, test.want)
				}
				w.hard()
			})
		})
	}
}

// TestFirstStartFails: what cannot be started in the first place is the caller's to tell.
func TestFirstStartFails(t *testing.T) {
	for name, break_ := range map[string]func(w *world){
		"start": func(w *world) { w.failStart = errors.New("bad luck") },
		"check": func(w *world) { w.checkErr = errors.New("bad luck") },
		"binds": func(w *world) { w.bindsErr = errors.New("bad luck") },
		"text":  func(w *world) { w.renderer.broken = errors.New("bad luck") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				break_(w)
				w.run()
				w.put("a=192.0.2.1:80")
				if err := <-w.done; err == nil || !strings.Contains(err.Error(), "bad luck") {
					t.Errorf("got %v", err)
				}
				w.soft()
				w.hard()
			})
		})
	}
}
