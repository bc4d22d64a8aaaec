package supervisor

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/model"
)

// TestStopped is fault row 11: a stopped worker is told, told to go on, and no reload is made before it does.
func TestStopped(t *testing.T) {
	for name, pid := range map[string]int{"worker": 0, "master": 99} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				w.run()
				w.put("a=192.0.2.1:80")
				w.after(10 * time.Second)
				n := len(w.reloadTimes())
				w.set(func() {
					if pid == 0 {
						pid = w.worker
					}
					w.halted[pid] = true
				})
				began := time.Now()
				w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
				w.after(500 * time.Millisecond)
				st := w.s.Status()
				if len(w.reloadTimes()) != n || !st.HAProxy.Silent || len(st.Degraded) != 1 || !strings.Contains(st.Degraded[0], "is stopped (SIGSTOP)") {
					t.Errorf("%d reloads, status %+v", len(w.reloadTimes())-n, st)
				}
				if name == "worker" {
					_, err := w.s.Rollback(admin)
					refusedAs(t, err, model.Unavailable, "is stopped")
				}
				w.after(5 * time.Second)
				want(t, "servers", w.servers(), "a@192.0.2.1:80 b@192.0.2.2:80")
				st = w.s.Status()
				if !slices.Equal(w.continued, []int{pid}) || st.HAProxy.Silent || st.HAProxy.Continued != 1 || len(st.Degraded) != 0 {
					t.Errorf("continued %v, status %+v", w.continued, st)
				}
				if w.lines("level=WARN", "somebody stopped "+name, "; continued") != 1 || w.lines("is stopped (SIGSTOP): it serves nobody") != 1 {
					t.Error(w.logged())
				}
				if last := w.reloadTimes()[len(w.reloadTimes())-1]; last.Sub(began) > 3*time.Second {
					t.Errorf("applied after %s", last.Sub(began))
				}
				for _, c := range st.Changes {
					if c.Error != "" {
						t.Errorf("told as an error: %+v", c)
					}
				}
			})
		})
	}
}

// TestCannotContinue: what cannot be told to go on is told once, and reloads wait for as long as it takes.
func TestCannotContinue(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(10 * time.Second)
		n := len(w.reloadTimes())
		w.set(func() { w.halted[w.worker], w.cannot = true, errors.New("not permitted") })
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(2 * time.Minute)
		if len(w.reloadTimes()) != n || w.lines("cannot be told to go on", "not permitted") != 1 {
			t.Errorf("%d reloads\n%s", len(w.reloadTimes())-n, w.logged())
		}
		w.set(func() { clear(w.halted) }) // by whoever stopped it
		w.after(10 * time.Second)
		want(t, "servers", w.servers(), "a@192.0.2.1:80 b@192.0.2.2:80")
	})
}

// TestSilentWorker: reloads wait for a worker that is silent and not stopped, and not for ever.
func TestSilentWorker(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(10 * time.Second)
		n := len(w.reloadTimes())
		w.set(func() { w.silent = true })
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(9 * time.Second)
		if len(w.reloadTimes()) != n {
			t.Error("reloaded while the worker is silent")
		}
		w.after(5 * time.Second)
		want(t, "servers", w.servers(), "a@192.0.2.1:80 b@192.0.2.2:80")
		if len(w.continued) != 0 || w.lines("health is forgotten") != 1 {
			t.Errorf("continued %v\n%s", w.continued, w.logged())
		}
	})
}

// TestDamagedAnswers: a few answers that are damaged are no silence, and hold nothing up; when no good one comes it is told.
func TestDamagedAnswers(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(10 * time.Second)
		w.set(func() { w.damaged = garbledMost })
		w.after(observeMost)
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		want(t, "servers", w.servers(), "a@192.0.2.1:80 b@192.0.2.2:80")
		left := 0
		w.set(func() { left = w.damaged })
		if left != 0 || w.lines("does not answer") != 0 {
			t.Errorf("%d damaged answers were not asked for\n%s", left, w.logged())
		}
		w.set(func() { w.damaged = garbledMost + 1 })
		w.after(observeMost)
		if w.lines("does not answer") != 1 {
			t.Errorf("it is not told\n%s", w.logged())
		}
	})
}
