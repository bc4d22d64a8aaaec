package supervisor

import (
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/model"
)

// file gives what stands in haproxy.cfg.
func (w *world) file() string {
	text, err := os.ReadFile(w.s.o.Files.Config)
	if err != nil {
		w.t.Error(err)
	}
	return string(text)
}

// TestFilesFollow: a change at run time waits for no file, and a row of changes costs one writing.
func TestFilesFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := liveWorld(t)
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(20 * time.Millisecond)
		if w.servers() != "a@192.0.2.1:80 b@192.0.2.2:80" || strings.Contains(w.file(), "192.0.2.2") {
			t.Errorf("servers %q, and the file is\n%s", w.servers(), w.file())
		}
		w.after(time.Second)
		noted, err := w.s.o.Files.Noted()
		if w.file() != w.text() || err != nil || noted.Revision == noted.Loaded {
			t.Errorf("the file is\n%s, noted %+v %v", w.file(), noted, err)
		}
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestFilesCannotFollow is fault row 7 at this level: changes at run time go on, the files follow when they can.
func TestFilesCannotFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := liveWorld(t)
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		w.set(func() { w.checkErr = errors.New("no space left") })
		for _, nodes := range [][]string{{"a=192.0.2.1:80", "b=192.0.2.2:80"}, {"b=192.0.2.2:80"}} {
			w.put(nodes...)
			w.after(5 * time.Second)
		}
		st := w.s.Status()
		if w.servers() != "b@192.0.2.2:80" || !strings.Contains(strings.Join(st.Degraded, " "), "no space left") || len(w.reloadTimes()) != 0 {
			t.Errorf("servers %q, degraded %q, %d reloads", w.servers(), st.Degraded, len(w.reloadTimes()))
		}
		if n := w.lines("the files do not hold it yet"); n != 1 {
			t.Errorf("told %d times", n)
		}
		w.set(func() { w.checkErr = nil })
		w.after(10 * time.Second)
		if st := w.s.Status(); w.file() != w.text() || len(st.Degraded) != 0 {
			t.Errorf("degraded %q, and the file is\n%s", st.Degraded, w.file())
		}
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestRefusedAfterwards: what the worker took and haproxy -c then refuses leaves again, and its owner is named.
func TestRefusedAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := liveWorld(t)
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		w.set(func() {
			w.judge = func(text string) error {
				if strings.Contains(text, "192.0.2.2") {
					return &process.CheckError{Output: "bad"}
				}
				return nil
			}
		})
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80", "c=192.0.2.3:80")
		w.after(10 * time.Second)
		if w.servers() != "a@192.0.2.1:80 c@192.0.2.3:80" || w.file() != w.text() || len(w.reloadTimes()) != 0 {
			t.Errorf("servers %q, %d reloads, and the file is\n%s", w.servers(), len(w.reloadTimes()), w.file())
		}
		if st := w.s.Status(); len(st.Degraded) != 1 || !strings.Contains(st.Degraded[0], "nodes b: left out") {
			t.Errorf("degraded %q", st.Degraded)
		}
		w.put("a=192.0.2.1:80", "d=192.0.2.4:80")
		w.after(time.Second)
		if st := w.s.Status(); w.servers() != "a@192.0.2.1:80 d@192.0.2.4:80" || len(st.Degraded) != 0 {
			t.Errorf("servers %q, degraded %q", w.servers(), st.Degraded)
		}
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestFrozenAtOnce: a freeze right after a change pins what runs, as it lies on disk.
func TestFrozenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := liveWorld(t)
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(20 * time.Millisecond)
		if _, err := w.s.Freeze(model.WithAsker(t.Context(), "me"), "now"); err != nil {
			t.Fatal(err)
		}
		fr, pinned, err := w.s.o.Files.readFrozen()
		if err != nil || fr == nil || string(pinned.bundle.Main) != w.text() || w.file() != w.text() {
			t.Errorf("frozen %+v %+v, %v", fr, pinned, err)
		}
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
}
