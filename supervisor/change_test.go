package supervisor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor/plan"
)

// liveWorld has a text whose servers can come and go at run time.
func liveWorld(t *testing.T) *world {
	w := newWorld(t)
	w.renderer.live = true
	return w
}

func (w *world) told() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := strings.Join(w.changes, "; ")
	w.changes = nil
	return all
}

func TestChangesAtRuntime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := liveWorld(t)
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		w.told()
		want := func(what, told, servers string) {
			t.Helper()
			w.after(2 * time.Second)
			if got := w.told(); got != told {
				t.Errorf("%s: told %q, want %q", what, got, told)
			}
			if got := w.servers(); got != servers {
				t.Errorf("%s: file %q, want %q", what, got, servers)
			}
		}
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		want("added", "add server s/b 192.0.2.2:80; set server s/b state ready", "a@192.0.2.1:80 b@192.0.2.2:80")

		w.set(func() { w.busy = map[string]bool{"a": true} })
		w.put("b=192.0.2.2:80")
		want("removed, and busy", "set server s/a state maint", "b@192.0.2.2:80")
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		want("the same again", "set server s/a state ready", "a@192.0.2.1:80 b@192.0.2.2:80")

		w.put("b=192.0.2.2:80")
		w.after(time.Second)
		w.told()
		w.set(func() { w.busy = nil })
		w.after(10 * time.Second)
		want("deleted when it can be", "del server s/a", "b@192.0.2.2:80")
		w.after(time.Minute)
		want("once", "", "b@192.0.2.2:80")

		if n := len(w.reloadTimes()); n != 0 {
			t.Errorf("%d reloads", n)
		}
		last := w.s.Status().Changes[0]
		if last.Method != model.Runtime || last.Error != "" || !slices.Contains(last.Reasons, "server-removed s/a") {
			t.Errorf("the last change is %+v", last)
		}
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestRuntimeFails: what cannot be done at run time is made good by a reload, whose reason is told.
func TestRuntimeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := liveWorld(t)
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		w.set(func() { w.failApply = errors.New("cut off") })
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		if n := len(w.reloadTimes()); n != 1 || w.servers() != "a@192.0.2.1:80 b@192.0.2.2:80" {
			t.Errorf("%d reloads, servers %q", n, w.servers())
		}
		if last := w.s.Status().Changes[0]; last.Method != model.Reload || !strings.Contains(strings.Join(last.Reasons, " "), "runtime-failed cut off") {
			t.Errorf("the last change is %+v", last)
		}
		// Both fail: what the worker has is not known, so that it is loaded again until that works.
		w.set(func() { w.failReload = errors.New("no") })
		w.put("b=192.0.2.2:80")
		w.after(time.Second)
		if st := w.s.Status(); len(st.Degraded) == 0 {
			t.Error("nothing is degraded")
		}
		w.set(func() { w.failApply, w.failReload = nil, nil })
		w.after(time.Minute)
		if st := w.s.Status(); len(st.Degraded) != 0 || w.servers() != "b@192.0.2.2:80" {
			t.Errorf("degraded %q, servers %q", st.Degraded, w.servers())
		}
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestRuntimeWhileReloadsWait: changes at run time go on while many old workers hold reloads back.
func TestRuntimeWhileReloadsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := liveWorld(t)
		w.run()
		w.put("a=192.0.2.1:80")
		w.set(func() { w.old = maxOldWorkers })
		w.after(10 * time.Second)
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		if w.servers() != "a@192.0.2.1:80 b@192.0.2.2:80" || len(w.reloadTimes()) != 0 {
			t.Errorf("servers %q, %d reloads", w.servers(), len(w.reloadTimes()))
		}
		w.s.SetRenderer(&textRenderer{w: w, title: "two", live: true, files: map[string]conf.File{"bundle/x": {}}}, "template")
		w.after(time.Second)
		if n := len(w.reloadTimes()); n != 0 {
			t.Errorf("%d reloads", n)
		}
		w.put("b=192.0.2.2:80") // needs the reload as well now, with the new template
		w.after(time.Second)
		w.set(func() { w.old = 0 })
		w.after(10 * time.Second)
		if n := len(w.reloadTimes()); n != 1 || w.servers() != "b@192.0.2.2:80" {
			t.Errorf("%d reloads, servers %q, log %s", n, w.servers(), w.log)
		}
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestManyChanges: what would take seconds at run time is a reload, as long as there may be one.
func TestManyChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := liveWorld(t)
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		many := func(n int) (nodes []string) {
			for i := range n {
				nodes = append(nodes, fmt.Sprintf("n%d=10.0.%d.%d:80", i, i/250, i%250))
			}
			return nodes
		}
		w.put(many(plan.MostCommands/3 - 1)...)
		w.after(5 * time.Second)
		if n := len(w.reloadTimes()); n != 0 {
			t.Errorf("%d reloads", n)
		}
		w.put("a=192.0.2.1:80")
		w.after(5 * time.Second)
		w.put(many(plan.MostCommands/3 + 1)...)
		w.after(5 * time.Second)
		if last := w.s.Status().Changes[0]; len(w.reloadTimes()) != 1 || !strings.Contains(strings.Join(last.Reasons, " "), "many-changes 6003 commands") {
			t.Errorf("%d reloads, the last change is %q", len(w.reloadTimes()), last.Reasons)
		}
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
}
