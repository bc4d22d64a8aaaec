package supervisor

import (
	"context"
	"testing"
	"time"
)

// TestPace: when the next look is, after what was heard and found.
func TestPace(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	start := time.Unix(1e9, 0)
	// A step happens at its time; begin and end are those of a look, which gives what comes next.
	type step struct {
		at   time.Duration
		do   string // hear, stir, look, or news: a look that finds some
		took time.Duration
		next time.Duration // until the next look; 0: none is arranged
	}
	for name, c := range map[string]struct {
		deaf  bool // nobody tells of lines
		steps []step
	}{
		"nobody tells":          {true, []step{{0, "look", ms, 250 * ms}, {time.Hour, "look", ms, 250 * ms}, {2 * time.Hour, "look", time.Second, 250 * ms}}},
		"one that becomes slow": {true, []step{{0, "look", 20 * ms, 400 * ms}, {time.Second, "look", time.Second, 800 * ms}, {2 * time.Second, "look", time.Second, 1600 * ms}}},
		"rest":                  {false, []step{{0, "look", ms, restLeast}, {2 * time.Second, "look", 1 * ms, restLeast}, {4 * time.Second, "look", 2 * ms, 4 * time.Second}, {8 * time.Second, "look", 2200 * time.Microsecond, 4400 * ms}}},
		"rest of a slow one":    {false, []step{{0, "look", 100 * ms, 5 * time.Second}}},
		"a line": {false, []step{
			{0, "look", ms, restLeast}, {time.Second, "hear", 0, 5 * ms},
			{1005 * ms, "news", ms, 250 * ms}, {1255 * ms, "look", ms, 250 * ms}, {2005 * ms, "look", ms, restLeast},
		}},
		"a line before its state": {false, []step{
			{0, "look", ms, restLeast}, {time.Second, "hear", 0, 5 * ms},
			{1005 * ms, "look", ms, 250 * ms}, {1255 * ms, "news", ms, 250 * ms}, {3 * time.Second, "look", ms, restLeast},
		}},
		"a state before its line": {false, []step{
			{0, "look", ms, restLeast}, {time.Second, "news", ms, 250 * ms}, {1001 * ms, "hear", 0, 249 * ms},
			{1250 * ms, "look", ms, 250 * ms}, {3 * time.Second, "look", ms, restLeast},
		}},
		"many lines": {false, []step{
			{0, "look", ms, restLeast}, {time.Second, "hear", 0, 5 * ms}, {1001 * ms, "hear", 0, 5 * ms},
			{1006 * ms, "look", ms, 250 * ms}, {1100 * ms, "hear", 0, 156 * ms}, {1256 * ms, "look", ms, 250 * ms},
		}},
		"of our own doing": {false, []step{
			{0, "stir", 0, 0}, {0, "look", ms, 250 * ms}, {250 * ms, "news", ms, 250 * ms}, {500 * ms, "look", ms, 250 * ms},
			{4900 * ms, "look", ms, 250 * ms}, {5000 * ms, "look", ms, restLeast},
		}},
		"news without a line": {false, []step{
			{0, "look", ms, restLeast}, {2 * time.Second, "news", ms, 250 * ms}, {2250 * ms, "look", ms, 250 * ms},
			{10 * time.Minute, "look", ms, 250 * ms}, {10*time.Minute + 3*time.Second, "look", ms, restLeast},
		}},
		"heard again": {false, []step{
			{0, "look", ms, restLeast}, {2 * time.Second, "news", ms, 250 * ms}, {2250 * ms, "look", ms, 250 * ms},
			{time.Minute, "hear", 0, 5 * ms}, {time.Minute + 5*ms, "news", ms, 250 * ms}, {time.Minute + 2*time.Second, "look", ms, restLeast},
		}},
	} {
		p := pace{listens: !c.deaf}
		for i, s := range c.steps {
			now := start.Add(s.at)
			var next time.Time
			switch s.do {
			case "hear":
				next = p.hear(now)
			case "stir":
				p.stir(now, actStirs)
				next = now
			default:
				p.begin(now)
				next = p.end(now, s.took, s.do == "news")
			}
			if got := next.Sub(now); got != s.next {
				t.Errorf("%s, step %d: the next look is after %s, want %s", name, i, got, s.next)
			}
		}
	}
}

// hears makes the world's HAProxy write lines that are heard; say writes one.
func (w *world) hears() (say func()) {
	lines := make(chan struct{})
	w.s.o.Listen = func(ctx context.Context, heard func()) {
		for {
			select {
			case <-ctx.Done():
				return
			case <-lines:
				heard()
			}
		}
	}
	return func() { lines <- struct{}{} }
}

// looks counts the observations during a time.
func (w *world) looks(d time.Duration) int {
	var before, after int
	w.set(func() { before = w.observations })
	w.after(d)
	w.set(func() { after = w.observations })
	return after - before
}

// TestLinesTellWhenToLook: HAProxy is looked at when its log has a line, at most four times a second, and seldom else; what no line tells is found
// all the same, and then lines are not relied upon.
func TestLinesTellWhenToLook(t *testing.T) {
	inBubble(t, func(w *world) {
		say := w.hears()
		w.run()
		w.put("a=10.0.0.1:80")
		w.after(time.Second)
		if h := w.health(); h != "a:up" {
			t.Errorf("soon after the start: %s", h)
		}
		w.after(2 * actStirs)
		if n := w.looks(time.Minute); n > 31 {
			t.Errorf("%d looks in a minute of rest", n)
		}
		change := func(down bool, want string) {
			t.Helper()
			w.set(func() { w.down["a"] = down })
			say()
			w.after(observeLeast + 10*time.Millisecond) // a look may just have been
			if h := w.health(); h != want {
				t.Errorf("after a line: %s, want %s", h, want)
			}
		}
		change(true, "a:down")
		w.after(time.Minute)
		change(false, "a:up")
		w.after(time.Minute)
		n := 0
		for range 1000 { // a storm of lines
			say()
			n += w.looks(10 * time.Millisecond)
		}
		if n > 42 {
			t.Errorf("%d looks in ten seconds of lines", n)
		}
		w.after(time.Minute)
		if n := w.looks(time.Minute); n > 31 {
			t.Errorf("%d looks in a minute of rest after the storm", n)
		}
		w.set(func() { delete(w.down, "a"); w.down["a"] = true })
		w.after(observeMost + observeLeast) // no line tells it
		if h := w.health(); h != "a:down" {
			t.Errorf("without a line: %s", h)
		}
		w.after(time.Minute)
		w.set(func() { w.down["a"] = false })
		w.after(2 * observeLeast) // none is expected any more
		if h := w.health(); h != "a:up" {
			t.Errorf("without a line again: %s", h)
		}
	})
}

// TestStoppedAtRest: who stops HAProxy while nothing happens is noticed within a second, though it is looked at less often.
func TestStoppedAtRest(t *testing.T) {
	inBubble(t, func(w *world) {
		w.hears()
		w.run()
		w.put("a=10.0.0.1:80")
		w.after(time.Minute)
		w.set(func() { w.halted[w.worker] = true })
		w.after(glanceEvery + stoppedAgain + observeLeast)
		var told []int
		w.set(func() { told = w.continued })
		if len(told) != 1 {
			t.Errorf("continued %v; the log: %s", told, w.logged())
		}
	})
}
