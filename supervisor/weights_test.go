package supervisor

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/check"
)

// TestWeightsAndStates: a weight reaches the text, a server that drains stays there with none, one in maintenance is left out and comes
// back through its first check.
func TestWeightsAndStates(t *testing.T) {
	inBubble(t, func(w *world) {
		w.renderer.live = true
		w.by = map[string]string{"a": "API from 10.0.0.9"}
		w.run()
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		w.put("a=192.0.2.1:80 weight=50", "b=192.0.2.2:80")
		w.after(time.Second)
		want(t, "a weight", w.servers(), "a@192.0.2.1:80/weight/50 b@192.0.2.2:80")
		want(t, "its cause", fmt.Sprint(w.s.Status().Changes[0].Causes), "[nodes a set to weight 50 by API from 10.0.0.9]")
		w.put("a=192.0.2.1:80 weight=50 state=drain", "b=192.0.2.2:80")
		w.after(time.Second)
		want(t, "a drain", w.servers(), "a@192.0.2.1:80/weight/0 b@192.0.2.2:80")
		want(t, "health", w.health(), "a:draining b:up")
		want(t, "its cause", fmt.Sprint(w.s.Status().Changes[0].Causes), "[nodes a set to drain by API from 10.0.0.9]")
		w.set(func() { w.down["a"] = true })
		w.after(6 * time.Second)
		want(t, "its checks go on", w.health(), "a:down b:up")
		w.set(func() { delete(w.down, "a") })
		w.put("a=192.0.2.1:80 weight=50", "b=192.0.2.2:80")
		w.after(6 * time.Second)
		want(t, "ready again", w.servers(), "a@192.0.2.1:80/weight/50 b@192.0.2.2:80")
		want(t, "health", w.health(), "a:up b:up")
		if n := w.probed("192.0.2.1:80"); n != 1 {
			t.Errorf("%d probes of ours", n)
		}
		w.put("a=192.0.2.1:80 weight=50 state=maint", "b=192.0.2.2:80")
		w.after(time.Second)
		want(t, "maintenance", w.servers(), "b@192.0.2.2:80")
		want(t, "health", w.health(), "a:maintenance b:up")
		w.set(func() { w.healthy["192.0.2.1:80"] = check.Result{Reason: "not yet"} })
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(3 * time.Second)
		want(t, "before its first check", w.servers(), "b@192.0.2.2:80")
		want(t, "health", w.health(), "a:pending b:up")
		w.set(func() { delete(w.healthy, "192.0.2.1:80") })
		w.after(3 * time.Second)
		want(t, "after it", w.servers(), "a@192.0.2.1:80 b@192.0.2.2:80")
		if n := len(w.reloadTimes()); n != 0 {
			t.Errorf("%d reloads", n)
		}
	})
}

// TestIgnoredWeights: a template that writes no weights leaves a node that is to drain in service, which is told with the mend.
func TestIgnoredWeights(t *testing.T) {
	inBubble(t, func(w *world) {
		w.renderer.equal = true
		w.run()
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80 weight=7")
		w.after(time.Second)
		w.put("a=192.0.2.1:80 state=drain", "b=192.0.2.2:80 weight=7")
		w.after(6 * time.Second)
		want(t, "health", w.health(), "a:up b:up")
		st := w.s.Status()
		want(t, "degraded", strings.Join(st.Degraded, "; "), "nodes a: it was asked to drain and goes on getting requests: the template gives it the weight 1; "+
			"nodes b: the template gives it the weight 1, and 7 was asked for")
		if len(st.Problems) != 2 || !strings.Contains(st.Problems[0].Mend, "weight {{.Weight}}") || st.Problems[0].Owner.Name != "a" {
			t.Errorf("problems %+v", st.Problems)
		}
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		if st := w.s.Status(); len(st.Degraded)+len(st.Problems) != 0 {
			t.Errorf("%q %+v", st.Degraded, st.Problems)
		}
	})
}
