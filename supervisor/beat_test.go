package supervisor

import (
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
