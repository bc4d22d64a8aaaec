package process

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/haproxy/runtime"
)

// linesBed is a folder with a log that somebody writes and that is listened to.
type linesBed struct {
	*testing.T
	dir  string
	told chan struct{}
	log  *sharedText
}

type sharedText struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *sharedText) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *sharedText) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// listen runs a Lines for the log of the folder until the test ends.
func listen(t *testing.T, dir string, open func() (*os.File, error)) *linesBed {
	t.Helper()
	b := &linesBed{T: t, dir: dir, told: make(chan struct{}, 1), log: new(sharedText)}
	l := NewLines(filepath.Join(dir, "haproxy.log"), slog.New(slog.NewTextHandler(b.log, nil)))
	if open != nil {
		l.open = open
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Run(ctx, func() {
			select {
			case b.told <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return b
}

func (b *linesBed) ok(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *linesBed) path(name string) string { return filepath.Join(b.dir, name) }

// writer opens the log as HAProxy has it.
func (b *linesBed) writer() *os.File {
	b.Helper()
	f, err := os.OpenFile(b.path("haproxy.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	b.ok(err)
	b.Cleanup(func() { f.Close() })
	return f
}

// settle waits until nothing is told any more.
func (b *linesBed) settle() {
	for quiet := time.NewTimer(5 * linesRest); ; quiet.Reset(5 * linesRest) {
		select {
		case <-b.told:
		case <-quiet.C:
			return
		}
	}
}

// hears does something again and again until it is told: the watch may not be there yet.
func (b *linesBed) hears(what string, do func() error) {
	b.Helper()
	deadline := time.After(time.Minute)
	for {
		b.ok(do())
		select {
		case <-b.told:
			return
		case <-time.After(2 * linesGone):
		case <-deadline:
			b.Fatalf("%s is not heard; the log: %s", what, b.log)
		}
	}
}

// TestLines: lines are told whatever happens to the file and its folder, by whoever has it open.
func TestLines(t *testing.T) {
	t.Parallel()
	b := listen(t, filepath.Join(t.TempDir(), "run"), nil)
	b.ok(os.Mkdir(b.dir, 0o700))
	var f *os.File
	b.hears("a new file", func() error { f = b.writer(); _, err := f.WriteString("one\n"); return err })
	line := func() error { _, err := f.WriteString("line\n"); return err }
	check := func(what string) {
		t.Helper()
		b.settle()
		b.hears("a line "+what, line)
	}
	check("again")
	b.ok(f.Truncate(0))
	check("after it was truncated")
	b.ok(os.Rename(b.path("haproxy.log"), b.path("haproxy.log.1")))
	check("after it was renamed")
	old := f
	f = b.writer()
	check("in the file that took its name")
	f = old
	check("in the one that had it")
	b.ok(os.Remove(b.path("haproxy.log.1")))
	check("in the one that was deleted")
	b.ok(os.RemoveAll(b.dir))
	check("after the folder was deleted")
	b.ok(os.Mkdir(b.dir, 0o700))
	f = b.writer()
	check("in a new folder")
	b.ok(os.Rename(b.dir, b.dir+".old"))
	b.ok(os.Mkdir(b.dir, 0o700))
	f = b.writer()
	check("in a folder that took its name")

	if b.log.String() != "" {
		t.Errorf("it says %s", b.log)
	}
}

// TestLinesAreCoalesced: a storm of lines is told ten times a second at most.
func TestLinesAreCoalesced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	told := make(chan struct{}, 10000)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	b := &linesBed{T: t, dir: dir}
	f := b.writer()
	go func() {
		defer close(ended)
		NewLines(b.path("haproxy.log"), slog.New(slog.DiscardHandler)).Run(ctx, func() { told <- struct{}{} })
	}()
	<-told // the file itself
	begin := time.Now()
	for time.Since(begin) < 10*linesRest {
		if _, err := f.WriteString("line\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Microsecond)
	}
	<-told
	cancel()
	<-ended
	// A round may tell twice: for a new watch and for what was read.
	if most := int(time.Since(begin)/linesRest) + 3; len(told) > most {
		t.Errorf("told %d times, want %d at most", len(told), most)
	}
}

// TestLinesWithoutEvents: where there is no inotify the file is looked at, which is told once, and the system is asked anew later.
func TestLinesWithoutEvents(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	opened := 0
	synctest.Test(t, func(t *testing.T) {
		b := listen(t, dir, func() (*os.File, error) { opened++; return nil, fmt.Errorf("inotify: %w", unix.EMFILE) })
		f := b.writer()
		wait := func(d time.Duration) (told bool) {
			time.Sleep(d)
			synctest.Wait()
			select {
			case <-b.told:
				return true
			default:
				return false
			}
		}
		wait(time.Second)
		for i := range 3 {
			if wait(10 * time.Second) {
				t.Error("told without a line")
			}
			if i == 2 {
				b.ok(os.Remove(b.path("haproxy.log")))
				f = b.writer()
			}
			_, err := f.WriteString("line\n")
			b.ok(err)
			if !wait(linesLook) {
				t.Error("not told")
			}
		}
		time.Sleep(2 * linesAgain)
		synctest.Wait()
		if opened != 3 {
			t.Errorf("asked %d times, want 3", opened)
		}
		if log := b.log.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "every 250ms") {
			t.Errorf("it says %s", log)
		}
	})
}

// TestLinesRefused: a watch that the system refuses ends in looking, and nothing is left open.
func TestLinesRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var opened []*os.File
	b := listen(t, dir, func() (*os.File, error) {
		r, w, err := os.Pipe() // no inotify: each watch is EINVAL
		opened = append(opened, r)
		return r, errors.Join(err, w.Close())
	})
	f := b.writer()
	b.hears("a line", func() error { _, err := f.WriteString("line\n"); return err })
	if log := b.log.String(); !strings.Contains(log, "invalid argument") {
		t.Errorf("it says %s", log)
	}
	if err := opened[0].Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closing it again gives %v", err)
	}
}

// TestEventsThatAreLines: of what inotify tells only lines are told, and a watch that ended begins anew.
func TestEventsThatAreLines(t *testing.T) {
	t.Parallel()
	event := func(wd int32, mask uint32, name string) []byte {
		padded := make([]byte, (len(name)+16)&^15)
		if name == "" {
			padded = nil
		}
		copy(padded, name)
		out := binary.NativeEndian.AppendUint32(nil, uint32(wd)) //nolint:gosec // as the kernel does
		for _, v := range []uint32{mask, 0, uint32(len(padded))} {
			out = binary.NativeEndian.AppendUint32(out, v)
		}
		return append(out, padded...)
	}
	for name, c := range map[string]struct {
		events [][]byte
		lines  bool
		lost   bool
	}{
		"nothing":                 {},
		"a line":                  {events: [][]byte{event(2, unix.IN_MODIFY, "")}, lines: true},
		"another file":            {events: [][]byte{event(1, unix.IN_CREATE, "other"), event(1, unix.IN_MOVED_TO, "haproxy.log.1")}},
		"the file comes":          {events: [][]byte{event(1, unix.IN_CREATE, "other"), event(1, unix.IN_MOVED_TO, "haproxy.log")}, lost: true},
		"the file goes":           {events: [][]byte{event(1, unix.IN_DELETE, "haproxy.log"), event(2, unix.IN_MODIFY, "")}, lines: true, lost: true},
		"a file is gone":          {events: [][]byte{event(2, unix.IN_IGNORED, "")}},
		"the folder is gone":      {events: [][]byte{event(1, unix.IN_IGNORED, "")}, lost: true},
		"the folder is elsewhere": {events: [][]byte{event(1, unix.IN_MOVE_SELF, ""), event(2, unix.IN_MODIFY, "")}, lines: true, lost: true},
		"too many":                {events: [][]byte{event(-1, unix.IN_Q_OVERFLOW, "")}, lines: true, lost: true},
		"cut":                     {events: [][]byte{event(2, unix.IN_MODIFY, "")[:12]}},
		"a name that is cut":      {events: [][]byte{event(1, unix.IN_CREATE, "haproxy.log")[:18]}},
	} {
		e := &ear{path: "/run/haproxy.log", folder: 1, whole: true}
		lines := e.read(slices.Concat(c.events...))
		if lines != c.lines || e.whole == c.lost {
			t.Errorf("%s: lines %v, whole %v", name, lines, e.whole)
		}
	}
}

// TestLinesOfHAProxy: HAProxy writes a line with each change of a server, also when its text says quiet and logs elsewhere.
func TestLinesOfHAProxy(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		port := haproxytest.FreePort(t)
		b := newBed(t, h, "  quiet\n  log 127.0.0.1:9 local0", fmt.Sprintf(
			"  default_backend b\nbackend b\n  log global\n  option log-health-checks\n  server plain 127.0.0.1:9\n  server checked 127.0.0.1:%d check inter 100ms rise 1 fall 1\n", port))
		b.c.o.Log = filepath.Join(b.dir, "haproxy.log")
		id := b.start()
		heard := listen(t, b.dir, nil)
		client := runtime.New(b.c.o.Socket)
		change := func(what string, c runtime.Change) {
			t.Helper()
			heard.settle()
			if err := client.Apply(t.Context(), id.Worker, []runtime.Change{c}); err != nil {
				t.Fatal(err)
			}
			heard.await(what)
		}
		maint, errMaint := runtime.Maint("b", "plain")
		ready, errReady := runtime.Ready("b", "plain")
		if err := errors.Join(errMaint, errReady); err != nil {
			t.Fatal(err)
		}
		change("maintenance", maint)
		change("its end", ready)
		heard.settle()
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		heard.await("up")
		heard.settle()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		heard.await("down")
	})
}

// await waits until lines are told.
func (b *linesBed) await(what string) {
	b.Helper()
	select {
	case <-b.told:
	case <-time.After(time.Minute):
		b.Fatalf("%s is not heard; the log: %s", what, b.log)
	}
}
