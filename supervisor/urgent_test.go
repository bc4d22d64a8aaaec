package supervisor

import (
	"testing"
	"time"
)

// TestLoneServer: a server whose first check passes while no other's runs is rendered at once, without a quiet period; TestCoalesce has several.
func TestLoneServer(t *testing.T) {
	inBubble(t, func(w *world) {
		w.s.o.WaitMin, w.s.o.WaitMax = 5*time.Second, 10*time.Second
		w.run()
		w.put("a=10.0.0.1:80")
		w.after(time.Second)
		w.put("a=10.0.0.1:80", "b=10.0.0.2:80")
		w.after(time.Second)
		if got := w.health(); got != "a:up b:up" {
			t.Errorf("alone: %s", got)
		}
	})
}
