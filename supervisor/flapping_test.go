package supervisor

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestFlaps: whatever the pace, a minute holds at most flapMost single changes, one beginning and one summary, and all changes are
// told or counted.
func TestFlaps(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		var f flaps
		now := time.Unix(0, 0)
		changes, told := 0, 0
		lines := map[int64]int{}
		pace := time.Duration(1+rng.IntN(30_000)) * time.Millisecond
		for next := now; now.Before(time.Unix(3600, 0)); now = now.Add(250 * time.Millisecond) {
			v, n := f.look(now)
			told += n
			if v != silence {
				lines[now.Unix()/60]++
			}
			if now.Before(next) || now.After(time.Unix(3000, 0)) {
				continue
			}
			next = now.Add(pace)
			changes++
			if v := f.change(now); v != silence {
				told++
				lines[now.Unix()/60]++
			}
		}
		for minute, n := range lines {
			if n > 2*flapMost+2 { // two windows may share a minute
				t.Errorf("pace %s: %d lines in minute %d", pace, n, minute)
			}
		}
		if f.flapping || told > changes || changes-told > int(flapWindow/pace)+1 {
			t.Errorf("pace %s: %d changes, told %d, %+v", pace, changes, told, f)
		}
	}
}

// TestFlapping is fault row 30: a health check that flaps at 10 Hz for 20 minutes fills neither log nor Status, and nothing is applied.
func TestFlapping(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Minute)
		n, lines, published := len(w.reloadTimes()), w.lines("node=b"), w.s.published.Load()
		for range 10 * 1200 {
			w.set(func() { w.down["b"] = !w.down["b"] })
			time.Sleep(100 * time.Millisecond)
		}
		w.set(func() { clear(w.down) })
		if got := w.lines("node=b") - lines; got < 20 || got > 35 || w.lines("is flapping", "changes=") < 15 {
			t.Errorf("%d lines in 20 minutes", got)
		}
		if got := w.s.published.Load() - published; got > 4*1200+10 {
			t.Errorf("published %d times in 20 minutes", got)
		}
		if len(w.reloadTimes()) != n {
			t.Error("health was applied")
		}
		lines = w.lines("node=b")
		w.after(10 * time.Minute)
		if w.lines("flaps no longer", "node=b") != 1 || w.lines("node=b")-lines > 4 {
			t.Error("its calm is not told in a few lines")
		}
		want(t, "health", w.health(), "a:up b:up")
		w.set(func() { w.down["b"] = true })
		w.after(5 * time.Second)
		if w.lines("is unhealthy", "node=b") < 1 {
			t.Error("the next change is not told")
		}
	})
}
