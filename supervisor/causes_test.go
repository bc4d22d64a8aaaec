package supervisor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/model"
)

func TestCausesAreBounded(t *testing.T) {
	var c causes
	for i := range 20_000 {
		c.add(fmt.Sprintf("n%d", i))
	}
	c.add("", "n0")
	want := []string{"n0", "n1", "n2", "n3", "n4", "n5", "and 19994 more"}
	if got := c.strings(); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	var d causes
	d.add("x\ny", "n0")
	if got := d.join(c).strings(); got[0] != "x y" || got[1] != "n0" || len(got) != keptCauses+1 {
		t.Errorf("got %q", got)
	}
	if got := (causes{}).strings(); got == nil || len(got) != 0 {
		t.Errorf("no causes are %#v", got)
	}
}

// TestCauses: each apply says who or what caused it.
func TestCauses(t *testing.T) {
	inBubble(t, func(w *world) {
		caused := func(want ...string) {
			t.Helper()
			if got := w.s.Status().Changes[0].Causes; !slices.Equal(got, want) {
				t.Errorf("caused by %q, want %q", got, want)
			}
		}
		w.names["name"] = []string{"192.0.2.7"}
		w.by = map[string]string{"b": "API from 192.0.2.100"}
		w.run()
		w.put()
		w.after(time.Second)
		caused("start of fnlb")
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		caused("first check of nodes a passed")
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80", "n=name:80")
		w.after(time.Second)
		got := w.s.Status().Changes[0].Causes
		slices.Sort(got)
		if !slices.Equal(got, []string{"first check of nodes b passed, added by API from 192.0.2.100", "first check of nodes n passed"}) {
			t.Errorf("caused by %q", got)
		}
		w.set(func() { w.names["name"] = []string{"192.0.2.8"} })
		w.after(20 * time.Second)
		caused("nodes n moved from 192.0.2.7:80 to 192.0.2.8:80")
		// What never passed its check causes nothing when it goes.
		w.set(func() { w.healthy["192.0.2.9:80"] = check.Result{Reason: "no"} })
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80", "n=name:80", "x=192.0.2.9:80")
		w.after(time.Second)
		w.asked = []model.Asked{{Owner: model.Owner{Source: "nodes", Name: "b"}, By: "admin socket"}}
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		caused("nodes b removed by admin socket", "nodes n removed")
		w.s.SetRenderer(&textRenderer{w: w, title: "two"}, "SIGHUP")
		w.after(time.Second)
		caused("SIGHUP")
		w.set(func() { w.failReload = errors.New("no luck") })
		w.s.SetRenderer(&textRenderer{w: w, title: "three"}, "SIGHUP")
		w.after(time.Second)
		w.die("killed")
		w.after(time.Second)
		if got := fmt.Sprint(w.s.Status().Changes[0].Causes); !strings.Contains(got, causeDied) {
			t.Errorf("caused by %s", got)
		}
	})
}
