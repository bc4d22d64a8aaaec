package supervisor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/model"
)

var admin = model.WithAsker(context.Background(), "admin socket")

// successor is a supervisor on the same files, as after a restart of fnlb.
func successor(t *testing.T, w *world) *world {
	next := newWorld(t)
	next.dir, next.s.o.Files = w.dir, w.s.o.Files
	return next
}

func refusedAs(t *testing.T, err error, kind model.Kind, words string) {
	t.Helper()
	var p model.Problem
	if !errors.As(err, &p) || p.Kind != kind || !strings.Contains(p.Error(), words) {
		t.Errorf("got %v, want %s: …%s…", err, kind, words)
	}
}

// TestFreeze: nothing is applied, whatever is asked for; HAProxy that dies comes back with the text in force; a thaw applies the newest.
func TestFreeze(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		_, err := w.s.Freeze(admin, "")
		refusedAs(t, err, model.Unavailable, "no accepted configuration yet")
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		if _, err := w.s.Freeze(admin, "incident\n7"); err != nil {
			t.Fatal(err)
		}
		frozenAt := time.Now()
		n := len(w.reloadTimes())
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.s.SetRenderer(&textRenderer{w: w, title: "two"}, "SIGHUP")
		w.after(time.Minute)
		st := w.s.Status()
		if len(w.reloadTimes()) != n || w.lines("frozen: nothing is applied") != 1 {
			t.Errorf("%d reloads while frozen\n%s", len(w.reloadTimes())-n, w.logged())
		}
		if st.Frozen == nil || st.Frozen.Reason != "incident 7" || st.Frozen.By != "admin socket" || !st.Frozen.Since.Equal(frozenAt) || st.Applied != 1 {
			t.Errorf("frozen %+v, applied %d", st.Frozen, st.Applied)
		}
		if len(st.Degraded) != 1 || !strings.Contains(st.Degraded[0], "by admin socket: incident 7") {
			t.Errorf("degraded %v", st.Degraded)
		}
		w.die("killed")
		w.after(time.Second)
		want(t, "after a death", w.servers(), "a@192.0.2.1:80")
		w.set(func() { w.failStart = errors.New("no") })
		w.die("killed") // however often it fails to start, it is the frozen text that is tried
		w.after(2 * time.Minute)
		w.set(func() { w.failStart = nil })
		w.after(10 * time.Second)
		want(t, "after many deaths", w.servers(), "a@192.0.2.1:80")

		if _, err := w.s.Freeze(admin, "still incident 7"); err != nil {
			t.Error(err)
		}
		if st := w.s.Status(); !st.Frozen.Since.Equal(frozenAt) || st.Frozen.Reason != "still incident 7" {
			t.Errorf("frozen %+v", st.Frozen)
		}
		if msg, err := w.s.Thaw(admin); err != nil || !strings.HasPrefix(msg, "thawed") {
			t.Errorf("%q, %v", msg, err)
		}
		w.after(0)
		if !strings.HasPrefix(w.text(), "# two") {
			t.Errorf("the newest is not in force: %s", w.text())
		}
		w.after(time.Second)
		st = w.s.Status()
		if st.Frozen != nil || len(st.Degraded) != 0 || st.Applied != 2 {
			t.Errorf("after the thaw: %+v", st)
		}
		if c := st.Changes[0].Causes; !strings.Contains(strings.Join(c, ", "), "SIGHUP") || !strings.Contains(strings.Join(c, ", "), "thaw by admin socket") {
			t.Errorf("caused by %q", c)
		}
		methods := ""
		for _, c := range st.Changes {
			methods += string(c.Method) + " "
		}
		if !strings.HasPrefix(methods, "reload thaw freeze start start ") {
			t.Errorf("changes %s", methods)
		}
		if msg, err := w.s.Thaw(admin); err != nil || msg != "it was not frozen" {
			t.Errorf("%q, %v", msg, err)
		}
		if _, err := os.Stat(w.s.o.Files.Frozen()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the note is still there: %v", err)
		}
	})
}

// TestFreezeOutlivesRestarts: the next fnlb starts what was frozen, as it lies on disk, and nothing else.
func TestFreezeOutlivesRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.renderer.files = map[string]conf.File{"bundle/1/listen.pem": {Data: []byte("key"), Secret: true}}
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		if _, err := w.s.Freeze(admin, "exam week"); err != nil {
			t.Fatal(err)
		}
		frozen := w.text()
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}

		w = successor(t, w)
		w.renderer.title = "two"
		w.run()
		w.after(0)
		want(t, "before any State", w.text(), frozen)
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Minute)
		want(t, "the frozen text", w.text(), frozen)
		st := w.s.Status()
		if st.Frozen == nil || st.Frozen.Reason != "exam week" || st.Applied != 0 || st.Phase != model.Serving || w.lines("still frozen") != 1 {
			t.Errorf("status %+v", st)
		}
		want(t, "health", w.health(), "a:up b:pending")
		if _, err := w.s.Thaw(admin); err != nil {
			t.Error(err)
		}
		w.after(time.Second)
		want(t, "thawed", w.servers(), "a@192.0.2.1:80 b@192.0.2.2:80")
		if _, err := w.s.Freeze(admin, "again"); err != nil {
			t.Error(err)
		}
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}

		// Whatever is not what was frozen is not served, and nothing is deleted.
		for name, spoil := range map[string]func(path string) error{
			"changed text":  func(p string) error { return os.WriteFile(filepath.Join(p, "haproxy.cfg"), []byte("global\n"), 0o600) },
			"no text":       func(p string) error { return os.Remove(filepath.Join(p, "haproxy.cfg")) },
			"damaged note":  func(p string) error { return os.WriteFile(filepath.Join(p, "frozen.json"), []byte("{"), 0o600) },
			"empty note":    func(p string) error { return os.WriteFile(filepath.Join(p, "frozen.json"), nil, 0o600) },
			"unknown field": func(p string) error { return os.WriteFile(filepath.Join(p, "frozen.json"), []byte(`{"x":1}`), 0o600) },
		} {
			next := successor(t, w)
			next.dir = t.TempDir()
			next.s.o.Files = Files{Dir: next.dir, Config: filepath.Join(next.dir, "haproxy.cfg")}
			if err := os.CopyFS(next.dir, os.DirFS(w.dir)); err != nil {
				t.Fatal(err)
			}
			fixNote(t, next, w.dir)
			if err := spoil(next.dir); err != nil {
				t.Fatal(err)
			}
			next.run()
			next.put("a=192.0.2.1:80")
			if err := <-next.done; err == nil || !strings.Contains(err.Error(), "delete "+next.s.o.Files.Frozen()) {
				t.Errorf("%s: ended with %v", name, err)
			}
			if _, err := os.Stat(next.s.o.Files.Frozen()); err != nil || len(next.startTimes()) != 0 {
				t.Errorf("%s: %v, %d starts", name, err, len(next.startTimes()))
			}
			next.soft()
			next.hard()
		}
	})
}

// fixNote lets a copied note speak of the copied text.
func fixNote(t *testing.T, w *world, from string) {
	t.Helper()
	data, err := os.ReadFile(w.s.o.Files.Frozen())
	if err == nil {
		err = os.WriteFile(w.s.o.Files.Frozen(), []byte(strings.ReplaceAll(string(data), from, w.dir)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestFrozenForeignReload: what somebody else made HAProxy load gives way to the frozen text, not to what is wanted.
func TestFrozenForeignReload(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		if _, err := w.s.Freeze(admin, ""); err != nil {
			t.Fatal(err)
		}
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		w.set(func() { w.worker, w.loaded = w.worker+1, "# theirs\n" })
		w.after(10 * time.Second)
		want(t, "servers", w.servers(), "a@192.0.2.1:80")
		if st := w.s.Status(); st.Changes[0].Causes[0] != causeForeign || st.Applied != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// TestRollback: one text back and frozen there; a second one is refused; a thaw goes forward.
func TestRollback(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put()
		w.after(time.Second)
		_, err := w.s.Rollback(admin)
		refusedAs(t, err, model.Conflict, "no earlier text")
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		_, err = w.s.Rollback(admin)
		refusedAs(t, err, model.Conflict, "no servers")
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)

		n := len(w.reloadTimes())
		w.set(func() { w.checkErr = &process.CheckError{Output: "certificate is gone"} })
		_, err = w.s.Rollback(admin)
		refusedAs(t, err, model.Refused, "certificate is gone")
		w.set(func() { w.checkErr = nil })
		w.after(time.Minute)
		if st := w.s.Status(); len(w.reloadTimes()) != n || st.Frozen != nil || len(st.Degraded) != 0 {
			t.Errorf("a refused rollback left %+v", st)
		}

		msg, err := w.s.Rollback(admin)
		if err != nil || !strings.HasPrefix(msg, "rolled back from revision ") {
			t.Fatalf("%q, %v", msg, err)
		}
		want(t, "rolled back", w.servers(), "a@192.0.2.1:80")
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80", "c=192.0.2.3:80")
		w.after(time.Minute)
		want(t, "it stays", w.servers(), "a@192.0.2.1:80")
		st := w.s.Status()
		if st.Frozen == nil || !st.Frozen.RolledBack || st.Changes[0].Method != model.Froze || st.Changes[1].Causes[0] != "rollback by admin socket" || st.Applied != 2 {
			t.Errorf("status %+v", st)
		}
		_, err = w.s.Rollback(admin)
		refusedAs(t, err, model.Conflict, "fnlb thaw goes forward")
		if _, err := w.s.Thaw(admin); err != nil {
			t.Error(err)
		}
		w.after(time.Second)
		want(t, "thawed", w.servers(), "a@192.0.2.1:80 b@192.0.2.2:80 c@192.0.2.3:80")
		// From an earlier freeze one can go back as well.
		if _, err := w.s.Freeze(admin, "by hand"); err != nil {
			t.Error(err)
		}
		if _, err := w.s.Rollback(admin); err != nil {
			t.Error(err)
		}
		want(t, "rolled back again", w.servers(), "a@192.0.2.1:80")
	})
}

// TestRollbackAfterARestart: what lies on disk is what is gone back to, with the files that it mentions.
func TestRollbackAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.renderer.files = map[string]conf.File{"bundle/1/listen.pem": {Data: []byte("old"), Secret: true}}
		w.renderer.title = "one " + filepath.Join(w.dir, "bundle/1")
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		w.s.SetRenderer(&textRenderer{w: w, title: "two", files: map[string]conf.File{"bundle/2/listen.pem": {Data: []byte("new"), Secret: true}}}, "SIGHUP")
		w.after(time.Second)
		if _, err := os.Stat(filepath.Join(w.dir, "bundle/1/listen.pem")); err != nil {
			t.Errorf("the file of the last good text is gone: %v", err)
		}
		last, err := w.s.o.Files.readLast()
		if err != nil || len(last.bundle.Files) != 1 || !last.bundle.Files["bundle/1/listen.pem"].Secret {
			t.Errorf("%+v, %v", last, err)
		}
		if _, err := w.s.Rollback(admin); err != nil {
			t.Error(err)
		}
		if !strings.HasPrefix(w.text(), "# one") {
			t.Error(w.text())
		}
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestFreezeOnAFullDisk: the brake holds, and it is said that a restart would forget it.
func TestFreezeOnAFullDisk(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		if err := os.Mkdir(w.s.o.Files.Frozen(), 0o755); err != nil { // in its place nothing can be written
			t.Fatal(err)
		}
		_, err := w.s.Freeze(admin, "")
		refusedAs(t, err, model.Unavailable, "would forget it")
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		want(t, "servers", w.servers(), "a@192.0.2.1:80")
		if st := w.s.Status(); len(st.Problems) != 1 || !strings.Contains(st.Problems[0].Reason, "forget") {
			t.Errorf("problems %+v", st.Problems)
		}
		if err := os.Remove(w.s.o.Files.Frozen()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.s.Freeze(admin, ""); err != nil {
			t.Error(err)
		}
		if st := w.s.Status(); len(st.Problems) != 0 {
			t.Errorf("problems %+v", st.Problems)
		}
	})
}

// TestOrdersEndWithTheSupervisor: who asks while it stops is answered.
func TestOrdersEndWithTheSupervisor(t *testing.T) {
	inBubble(t, func(w *world) {
		w.s.o.StopDelay = time.Minute
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		w.soft()
		w.after(time.Second)
		_, err := w.s.Freeze(admin, "")
		refusedAs(t, err, model.Unavailable, "stopping")
		w.hard()
		w.after(time.Second)
		_, err = w.s.Rollback(admin)
		refusedAs(t, err, model.Unavailable, "stopping")
		ctx, cancel := context.WithCancel(admin)
		cancel()
		_, err = newWorld(t).s.Freeze(ctx, "")
		refusedAs(t, err, model.Unavailable, "canceled")
	})
}

// TestFreezeWithHungDisk: while the disk does not answer a freeze holds at once, nothing else waits for orders that need it, and the freeze
// is noted when the disk is back.
func TestFreezeWithHungDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := liveWorld(t)
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		c := hanging{make(chan struct{})}
		w.s.o.Checker = c // the owner sleeps; the next writing of the files reads it
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		refused := func(name string, order func(context.Context) (string, error), why string) {
			t.Helper()
			began := time.Now()
			if _, err := order(admin); err == nil || !strings.Contains(err.Error(), why) || time.Since(began) > saveLate {
				t.Errorf("%s: %v after %s, want %q", name, err, time.Since(began), why)
			}
		}
		refused("rollback", w.s.Rollback, noDisk)
		w.put("b=192.0.2.2:80")
		w.after(time.Second)
		want(t, "after a rollback that waits for nothing", w.servers(), "b@192.0.2.2:80")
		refused("freeze", func(ctx context.Context) (string, error) { return w.s.Freeze(ctx, "incident") }, "frozen, but a restart")
		refused("thaw", w.s.Thaw, "still frozen")
		w.put("c=192.0.2.3:80")
		w.after(time.Second)
		want(t, "while it is frozen", w.servers(), "b@192.0.2.2:80")
		close(c.release)
		w.after(5 * time.Second)
		if fr, _, err := w.s.o.Files.readFrozen(); err != nil || fr == nil || fr.Reason != "incident" || len(w.s.Status().Problems) != 0 {
			t.Errorf("noted is %+v, %v; problems %+v", fr, err, w.s.Status().Problems)
		}
		if _, err := w.s.Thaw(admin); err != nil {
			t.Error(err)
		}
		w.after(2 * time.Second)
		want(t, "thawed", w.servers(), "c@192.0.2.3:80")
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
}
