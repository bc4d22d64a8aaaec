package supervisor

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/model"
)

// TestMend is fault row 6: whatever somebody does to a file that HAProxy would read, it is written again, told once, and never loaded.
func TestMend(t *testing.T) {
	inBubble(t, func(w *world) {
		w.renderer.files = map[string]conf.File{"bundle/1/listen.pem": {Data: []byte("key"), Secret: true}}
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(10 * time.Second)
		f := w.s.o.Files
		paths := []string{f.Config, f.Own(), f.Dir + "/bundle/1/listen.pem"}
		var ours []string
		read := func(path string) string {
			data, err := os.ReadFile(path)
			if err != nil {
				return err.Error()
			}
			return string(data)
		}
		for _, path := range paths {
			ours = append(ours, read(path))
		}
		mended := uint64(0)
		for what, do := range map[string]func(path string) error{
			"truncated": func(p string) error { return os.Truncate(p, 2) },
			"emptied":   func(p string) error { return os.Truncate(p, 0) },
			"changed":   func(p string) error { return os.WriteFile(p, []byte("global\n  bogus\n"), 0o600) },
			"deleted":   os.Remove,
		} {
			for i, path := range paths {
				if err := do(path); err != nil {
					t.Fatal(err)
				}
				mended++
				w.after(2 * glanceEvery)
				if got := read(path); got != ours[i] {
					t.Errorf("%s %s: %q", what, path, got)
				}
				w.after(2 * flapWindow)
			}
		}
		st := w.s.Status()
		if st.HAProxy.Mended != mended || w.lines("somebody changed files of ours") != int(mended) || len(st.Degraded) != 0 || len(w.reloadTimes()) != 1 {
			t.Errorf("mended %d times of %d, degraded %v, %d reloads\n%s", st.HAProxy.Mended, mended, st.Degraded, len(w.reloadTimes()), w.logged())
		}
		if c := st.Changes[0]; c.Method != model.Mended || !strings.Contains(c.Reasons[0], "by somebody") {
			t.Errorf("changes %+v", c)
		}
		if info, err := os.Stat(paths[2]); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the key's file: %v, %v", info, err)
		}
		// Whatever lies there when HAProxy dies, it is ours that is started.
		if err := os.WriteFile(f.Config, []byte("# theirs\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		w.die("killed")
		w.after(time.Second)
		want(t, "after a death", w.text(), ours[0])
		// Who changes it all the time fills neither log nor the list of changes.
		lines := w.lines("somebody")
		for range 200 {
			if err := os.Truncate(f.Config, 0); err != nil {
				t.Fatal(err)
			}
			w.after(time.Second)
		}
		if got := w.lines("somebody") - lines; got > flapMost+12 {
			t.Errorf("%d lines in minutes", got)
		}
	})
}

// TestMendFails: what cannot be written again is told once, for as long as it lasts.
func TestMendFails(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(10 * time.Second)
		own := w.s.o.Files.Own()
		if err := os.Remove(own); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(own, 0o755); err != nil {
			t.Fatal(err)
		}
		w.after(time.Minute)
		st := w.s.Status()
		if len(st.Problems) != 1 || !strings.Contains(st.Degraded[0], "own.cfg was made unreadable by somebody") || w.lines("level=ERROR") != 1 {
			t.Errorf("degraded %v, told %d times", st.Degraded, w.lines("level=ERROR"))
		}
		if err := os.Remove(own); err != nil {
			t.Fatal(err)
		}
		w.after(2 * glanceEvery)
		if st := w.s.Status(); len(st.Problems) != 0 || len(st.Degraded) != 0 {
			t.Errorf("degraded %v", st.Degraded)
		}
	})
}

// TestRunDirectoryDeleted: all of it is made again, HAProxy opens its sockets again and has ours in force, and what dies is started.
func TestRunDirectoryDeleted(t *testing.T) {
	inBubble(t, func(w *world) {
		w.run()
		w.put("a=192.0.2.1:80")
		w.after(10 * time.Second)
		if _, err := w.s.Freeze(admin, "kept"); err != nil {
			t.Fatal(err)
		}
		ours := w.text()
		if err := os.RemoveAll(w.dir); err != nil {
			t.Fatal(err)
		}
		w.after(10 * time.Second)
		if _, err := os.Stat(w.s.o.Files.Frozen()); err != nil {
			t.Errorf("the freeze would be forgotten: %v", err)
		}
		if _, err := w.s.Thaw(admin); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(w.s.o.Files.Config); err != nil || string(got) != ours {
			t.Errorf("%q, %v", got, err)
		}
		w.after(time.Second)
		st := w.s.Status()
		if w.lines("the run directory was damaged") != 1 || w.lines("haproxy has opened its sockets again") != 1 || len(st.Degraded) != 0 {
			t.Errorf("degraded %v\n%s", st.Degraded, w.logged())
		}
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80")
		w.after(time.Second)
		want(t, "servers", w.servers(), "a@192.0.2.1:80 b@192.0.2.2:80")
		if err := os.RemoveAll(w.dir); err != nil {
			t.Fatal(err)
		}
		w.die("killed") // before anybody has noticed
		w.after(time.Second)
		want(t, "after a death", w.servers(), "a@192.0.2.1:80 b@192.0.2.2:80")
	})
}
