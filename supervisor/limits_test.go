package supervisor

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
)

// gated is a process whose owner hangs while the gate is shut.
type gated struct {
	*fakeProcess
	gate atomic.Pointer[chan struct{}]
}

func (g *gated) Exited() <-chan error {
	<-*g.gate.Load()
	return g.fakeProcess.Exited()
}

// TestBeat: the owner gives a sign of life as often as was asked, before HAProxy runs, in the steady state and while it stops, and none
// while it hangs.
func TestBeat(t *testing.T) {
	inBubble(t, func(w *world) {
		var beats atomic.Int64
		open := make(chan struct{})
		close(open)
		p := &gated{fakeProcess: (*fakeProcess)(w)}
		p.gate.Store(&open)
		w.s.o.Process = p
		w.s.o.Beat, w.s.o.BeatEvery = func() { beats.Add(1) }, 500*time.Millisecond
		w.stopTakes = 10 * time.Second
		w.run()
		during := func(what string, least int64) {
			t.Helper()
			before := beats.Load()
			w.after(10 * time.Second)
			if n := beats.Load() - before; n < least {
				t.Errorf("%s: %d beats in 10 s", what, n)
			}
		}
		during("without a State", 19)
		w.put("a=192.0.2.1:80")
		during("serving", 19)
		gate := make(chan struct{})
		p.gate.Store(&gate) // the owner sleeps, and looks at it when it wakes
		w.after(time.Second)
		before := beats.Load()
		w.after(time.Minute)
		if n := beats.Load() - before; n > 1 {
			t.Errorf("%d beats of an owner that hangs", n)
		}
		close(gate)
		during("after that", 19)
		w.soft()
		before = beats.Load()
		w.after(9 * time.Second)
		if n := beats.Load() - before; n < 17 {
			t.Errorf("%d beats in 9 s of a stop", n)
		}
	})
}

// TestDrainLimit: a HAProxy that hangs is waited for until hard-stop-after and a grace, also when there is no --shutdown-timeout.
func TestDrainLimit(t *testing.T) {
	for _, test := range []struct{ shutdown, hard, want time.Duration }{
		{0, 0, 0},
		{time.Minute, 0, time.Minute},
		{time.Minute, time.Hour, time.Minute},
		{0, time.Minute, time.Minute + hardStopGrace},
		{time.Hour, time.Minute, time.Minute + hardStopGrace},
	} {
		o := Options{ShutdownTimeout: test.shutdown, HardStop: test.hard}
		if got := o.drainLimit(); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
	inBubble(t, func(w *world) {
		w.s.o.HardStop = 30 * time.Minute
		w.stopTakes = 100 * time.Hour
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		begin := time.Now()
		w.soft()
		if err := <-w.done; err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took != 30*time.Minute+hardStopGrace {
			t.Errorf("the stop took %s", took)
		}
		w.soft = nil
	})
}

// hanging is a check that nothing ends, as one whose files lie on a disk that does not answer.
type hanging struct{ release chan struct{} }

func (c hanging) Check(context.Context, ...string) (string, error) {
	<-c.release
	return "", nil
}

// TestStopWithHungApply: HAProxy is drained although an apply never returns, and the owner does not spin meanwhile.
func TestStopWithHungApply(t *testing.T) {
	inBubble(t, func(w *world) {
		var rounds atomic.Int64
		w.s.o.Beat = func() { rounds.Add(1) }
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		c := hanging{make(chan struct{})}
		w.s.o.Checker = c // the owner sleeps; the next apply reads it
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		w.soft()
		before := rounds.Load()
		w.after(applyGrace + abandonGrace - time.Second)
		w.set(func() {
			if w.stops != 0 {
				t.Error("it did not wait for the apply")
			}
		})
		w.after(2 * time.Second)
		w.set(func() {
			if w.stops != 1 {
				t.Errorf("%d stops", w.stops)
			}
		})
		if n := rounds.Load() - before; n > 200 { // HAProxy is still looked at
			t.Errorf("the owner went round %d times in 11 s", n)
		}
		if w.lines("an apply hangs") != 1 {
			t.Error("it is not told")
		}
		close(c.release)
		if err := <-w.done; err != nil {
			t.Error(err)
		}
		w.soft = nil
	})
}
