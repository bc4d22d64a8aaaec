package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is for a machine that is busy.
const patience = 30 * time.Second

// bed is a folder with a watcher of one file in it.
type bed struct {
	*testing.T
	dir  string
	told chan struct{}
	log  *buffer
}

type buffer struct {
	mu sync.Mutex
	strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.String()
}

// start watches a path below a new folder, once prepare has made what stands there.
func start(t *testing.T, name string, prepare func(b *bed)) *bed {
	t.Helper()
	b := &bed{T: t, dir: t.TempDir(), told: make(chan struct{}, 1000), log: new(buffer)}
	prepare(b)
	w := New(slog.New(slog.NewTextHandler(b.log, nil)), b.at(name))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, func() { b.told <- struct{}{} }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	b.wait() // the first call
	return b
}

func (b *bed) at(name string) string { return filepath.Join(b.dir, name) }

func (b *bed) ok(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bed) write(name, text string) {
	b.Helper()
	b.ok(os.MkdirAll(filepath.Dir(b.at(name)), 0o755))
	b.ok(os.WriteFile(b.at(name), []byte(text), 0o644))
}

func (b *bed) link(target, name string) { b.Helper(); b.ok(os.Symlink(target, b.at(name))) }

func (b *bed) rename(from, to string) { b.Helper(); b.ok(os.Rename(b.at(from), b.at(to))) }

func (b *bed) wait() {
	b.Helper()
	select {
	case <-b.told:
	case <-time.After(patience):
		b.Fatalf("it is not told; the log: %s", b.log)
	}
}

// TestChanges: whatever replaces the content, it is told, again and again, by events and not by the slow look.
func TestChanges(t *testing.T) {
	t.Parallel()
	one := func(b *bed) { b.write("t", "0") }
	kubernetes := func(b *bed) {
		b.write("..1/t", "0")
		b.link("..1", "..data")
		b.link("..data/t", "t")
	}
	for name, c := range map[string]struct {
		path    string
		prepare func(b *bed)
		change  func(b *bed, i int)
	}{
		"written in place": {"t", one, func(b *bed, i int) { b.write("t", fmt.Sprint(i)) }},
		"appended to": {"t", one, func(b *bed, _ int) {
			f, err := os.OpenFile(b.at("t"), os.O_APPEND|os.O_WRONLY, 0)
			b.ok(err)
			_, err = f.WriteString("x")
			b.ok(errors.Join(err, f.Close()))
		}},
		"renamed over": {"t", one, func(b *bed, i int) {
			b.write("new", fmt.Sprint(i))
			b.rename("new", "t")
		}},
		"as vim writes": {"t", one, func(b *bed, i int) {
			b.rename("t", "t~")
			b.write("t", fmt.Sprint(i))
			b.ok(os.Remove(b.at("t~")))
		}},
		"deleted and made again": {"t", one, func(b *bed, i int) {
			b.ok(os.Remove(b.at("t")))
			b.wait()
			b.write("t", fmt.Sprint(i))
		}},
		"made a link": {"t", one, func(b *bed, i int) {
			b.write(fmt.Sprintf("other/%d", i), fmt.Sprint(i))
			b.link(fmt.Sprintf("other/%d", i), "new")
			b.rename("new", "t")
		}},
		"behind a link": {"t", func(b *bed) {
			b.write("far/away/t", "0")
			b.link("far", "near")
			b.link("near/away/../away/t", "t")
		}, func(b *bed, i int) { b.write("far/away/t", fmt.Sprint(i)) }},
		"kubernetes": {"t", kubernetes, func(b *bed, i int) {
			b.write(fmt.Sprintf("..%d/t", i+1), fmt.Sprint(i))
			b.link(fmt.Sprintf("..%d", i+1), "..tmp")
			b.rename("..tmp", "..data")
			b.ok(os.RemoveAll(b.at(fmt.Sprintf("..%d", i))))
		}},
		"folder deleted and made again": {"d/t", func(b *bed) { b.write("d/t", "0") }, func(b *bed, i int) {
			b.ok(os.RemoveAll(b.at("d")))
			b.wait()
			b.write("d/t", fmt.Sprint(i))
		}},
		"folder swapped": {"d/t", func(b *bed) { b.write("d/t", "0") }, func(b *bed, i int) {
			b.write("new/t", fmt.Sprint(i))
			b.rename("d", fmt.Sprintf("old%d", i))
			b.rename("new", "d")
		}},
		"many folders appear": {"a/b/c/d/t", func(*bed) {}, func(b *bed, i int) {
			b.write("a/b/c/d/t", fmt.Sprint(i))
			b.wait()
			b.ok(os.RemoveAll(b.at("a")))
		}},
		"unreadable": {"t", one, func(b *bed, i int) { // root reads everything, but no folder
			b.ok(os.RemoveAll(b.at("t")))
			if i%2 == 1 {
				b.ok(os.Mkdir(b.at("t"), 0o755))
			} else {
				b.write("t", fmt.Sprint(i))
			}
		}},
		"pipe": {"t", one, func(b *bed, i int) { // it must not block
			b.ok(os.RemoveAll(b.at("t")))
			if i%2 == 1 {
				b.ok(unix.Mkfifo(b.at("t"), 0o600))
			} else {
				b.write("t", fmt.Sprint(i))
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, c.path, c.prepare)
			for i := 1; i <= 4; i++ {
				began := time.Now()
				c.change(b, i)
				b.wait()
				if took := time.Since(began); took > slow-time.Second {
					t.Logf("change %d took %s: a busy machine, or a lost event", i, took)
				}
			}
			if b.log.String() != "" {
				t.Errorf("it says %s", b.log)
			}
		})
	}
}

// TestMounted: a single file that is mounted, as into a container, is changed behind its folder's back.
func TestMounted(t *testing.T) {
	t.Parallel()
	var real string
	b := start(t, "t", func(b *bed) {
		real = filepath.Join(t.TempDir(), "real")
		b.ok(os.WriteFile(real, []byte("0"), 0o600))
		b.write("t", "")
		b.ok(unix.Mount(real, b.at("t"), "", unix.MS_BIND, ""))
		t.Cleanup(func() {
			if err := unix.Unmount(b.at("t"), 0); err != nil {
				t.Error(err)
			}
		})
	})
	for i := range 3 {
		b.ok(os.WriteFile(real, []byte(fmt.Sprint("new", i)), 0o600))
		b.wait()
	}
}

// fake gives events by hand.
type fake struct {
	in     chan fsnotify.Event
	errs   chan error
	refuse error
}

func (f *fake) Add(path string) error {
	if errors.Is(f.refuse, unix.EACCES) && filepath.Base(path) != "t" {
		return nil // only the file may not be read
	}
	return f.refuse
}
func (f *fake) Remove(string) error { return nil }
func (f *fake) Close() error        { return nil }

// runFake runs a watcher of one file with a clock of the test's own; at gives when it called, since the beginning.
func runFake(t *testing.T, f *fake, opens error, do func(b *bed)) (at []time.Duration, log string) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f.in, f.errs = make(chan fsnotify.Event), make(chan error) // of the bubble
		b := &bed{T: t, dir: dir, log: new(buffer)}
		b.write("t", "0")
		w := New(slog.New(slog.NewTextHandler(b.log, nil)), b.at("t"))
		w.open = func() (events, <-chan fsnotify.Event, <-chan error, error) { return f, f.in, f.errs, opens }
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx, func() { at = append(at, time.Since(began)) }) }()
		synctest.Wait()
		do(b)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		log = b.log.String()
	})
	return at, log
}

// TestTimes: it looks when it is quiet, at the latest after a second; an event about something else counts for nothing; nothing new
// is no news.
func TestTimes(t *testing.T) {
	t.Parallel()
	f := new(fake)
	event := func(b *bed) { f.in <- fsnotify.Event{Name: b.at("t"), Op: fsnotify.Write} }
	at, log := runFake(t, f, nil, func(b *bed) {
		b.write("t", "1")
		event(b)
		time.Sleep(time.Second)
		event(b) // nothing new
		time.Sleep(time.Second)
		for i := range 30 { // at 2 s: never quiet
			b.write("t", fmt.Sprint("x", i))
			event(b)
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(time.Second)
		b.write("t", "last") // at 4.5 s
		f.in <- fsnotify.Event{Name: b.at("other"), Op: fsnotify.Write}
		time.Sleep(time.Second)
		f.errs <- fsnotify.ErrEventOverflow // at 5.5 s: it looks whatever was lost
		time.Sleep(time.Second)
		b.ok(os.Remove(b.at("t"))) // at 6.5 s: it may come back
		event(b)
		time.Sleep(500 * time.Millisecond)
		event(b)
		time.Sleep(time.Second)
		b.write("t", "late") // at 8 s, without an event
		time.Sleep(11 * time.Second)
	})
	var want []time.Duration
	for _, ms := range []int{0, 100, 3000, 3550, 5600, 7600, 17600} {
		want = append(want, time.Duration(ms)*time.Millisecond)
	}
	if fmt.Sprint(at) != fmt.Sprint(want) {
		t.Errorf("it told at %v, want %v", at, want)
	}
	if log != "" {
		t.Errorf("it says %s", log)
	}
}

// TestWithoutEvents: where the system gives no events it says so once, and looks every 2 s.
func TestWithoutEvents(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		opens, refuse error
		ends          bool
	}{"none at all": {opens: unix.EMFILE}, "too many watches": {refuse: unix.ENOSPC}, "they end": {ends: true}} {
		f := new(fake)
		f.refuse = c.refuse
		at, log := runFake(t, f, c.opens, func(b *bed) {
			if c.ends {
				close(f.in)
				time.Sleep(slow)
			}
			time.Sleep(time.Second) // it must not look while a file is being written
			for i := range 5 {
				time.Sleep(4 * time.Second)
				b.write("t", fmt.Sprint("x", i))
			}
			time.Sleep(4 * time.Second)
		})
		if len(at) != 6 || strings.Count(log, "\n") != 1 || !strings.Contains(log, "every 2s") {
			t.Errorf("%s: told at %v; it says %s", name, at, log)
		}
	}
}

// TestUnreadableFile: a file that may not be read is no reason to look all the time.
func TestUnreadableFile(t *testing.T) {
	t.Parallel()
	at, log := runFake(t, &fake{refuse: unix.EACCES}, nil, func(b *bed) {
		time.Sleep(time.Second)
		b.write("t", "1") // at 1 s, without an event
		time.Sleep(slow)
	})
	if fmt.Sprint(at) != "[0s 10s]" || log != "" {
		t.Errorf("told at %v; it says %s", at, log)
	}
}

// TestFollow: what a path needs to be watched.
func TestFollow(t *testing.T) {
	t.Parallel()
	b := &bed{T: t, dir: t.TempDir()}
	b.write("d/t", "")
	b.link("loop", "loop")
	b.link("d", "l")
	b.link(b.at("d"), "abs")
	b.link("../d/t", "d/up")
	for path, want := range map[string]string{
		"d/t":      "[d] [d/t] d/t",
		"l/t":      "[. d] [d/t l] d/t",
		"abs/t":    "[. d] [abs d/t] d/t",
		"d/up":     "[d] [d/t d/up] d/t",
		"none/x/y": "[.] [none] ",
		"d/none":   "[d] [d/none] ",
		"d/t/x":    "[d] [d/t] ",
		"loop":     "[.] [loop] ",
	} {
		tr := follow(b.at(path))
		show := func(set map[string]bool) string {
			var out []string
			for _, p := range []string{".", "abs", "d", "d/none", "d/t", "d/up", "l", "loop", "none"} {
				if set[filepath.Join(b.dir, p)] {
					out = append(out, p)
				}
			}
			return fmt.Sprint(out)
		}
		if got := show(tr.dirs) + " " + show(tr.names) + " " + strings.TrimPrefix(tr.file, b.dir+"/"); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if tr := follow("/"); len(tr.dirs) > 1 {
		t.Errorf("%v", tr)
	}
}
