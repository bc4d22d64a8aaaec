package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/haproxy/runtime"
)

// reload makes the master of a bed read its files again.
func (b *bed) reload(revision string) (worker int, err error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return runtime.New(b.c.o.Socket).Reload(ctx, revision)
}

func (b *bed) signal(pid int, sig syscall.Signal) {
	b.t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		b.t.Fatal(err)
	}
}

// slow is a server that holds its first request until it is released.
type slow struct {
	addr             string
	arrived, release chan struct{}
}

func newSlow(t *testing.T) *slow {
	t.Helper()
	s := &slow{arrived: make(chan struct{}, 10), release: make(chan struct{})}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.arrived <- struct{}{}
		select {
		case <-s.release:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "tea")
	}))
	t.Cleanup(server.Close)
	s.addr = server.Listener.Addr().String()
	return s
}

func (s *slow) backend() string { return "  default_backend b\nbackend b\n  server s " + s.addr + "\n" }

// TestStartTwice: a second Start harms nothing.
func TestStartTwice(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		id := b.start()
		if _, err := b.c.Start(t.Context(), "r1"); err == nil || !strings.Contains(err.Error(), fmt.Sprint(id.Master)) {
			t.Errorf("got %v", err)
		}
		if got := get(t, b.addr); got != "tea" || !alive(id.Master) || !alive(id.Worker) {
			t.Errorf("after it: %q", got)
		}
	})
}

// TestStoppedOrphan: a worker that was stopped survives its master and would share the port with the next; when the end is told, it
// has gone.
func TestStoppedOrphan(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		id := b.start()
		b.signal(id.Worker, syscall.SIGSTOP)
		b.signal(id.Master, syscall.SIGKILL)
		begin := time.Now()
		if e := b.exit(); e.Signal != syscall.SIGKILL || len(e.Killed) != 0 {
			t.Errorf("ended with %v", e)
		}
		if alive(id.Worker) {
			t.Errorf("worker %d lives on", id.Worker)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("it took %s", took)
		}
		b.start()
		if got := get(t, b.addr); got != "tea" {
			t.Errorf("after the restart: %q", got)
		}
	})
}

// TestOrphansAreReaped: as process 1 of a container we inherit the workers of a killed master.
func TestOrphansAreReaped(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
			t.Error(err)
		}
	})
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		id := b.start()
		b.signal(id.Worker, syscall.SIGSTOP) // so that it is an orphan for long enough
		b.signal(id.Master, syscall.SIGKILL)
		b.ended()
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", id.Worker)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("worker %d is a zombie of ours: %v", id.Worker, err)
		}
	})
}

// TestStopOfFrozen: without a limit in time, a HAProxy that somebody has stopped still finishes what runs, and ends.
func TestStopOfFrozen(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		s := newSlow(t)
		b := newBed(t, h, "", s.backend())
		id := b.start()
		answer := make(chan string, 1)
		go func() { answer <- get(t, b.addr) }()
		<-s.arrived
		b.signal(id.Worker, syscall.SIGSTOP)
		b.signal(id.Master, syscall.SIGSTOP)
		stopped := make(chan error, 1)
		go func() { stopped <- b.c.Stop(context.Background()) }()
		close(s.release)
		if got := <-answer; got != "tea" {
			t.Errorf("the running request got %q", got)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// TestStopAfterFork: a worker that was forked just now may miss its master's signal.
func TestStopAfterFork(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		b.c.look = 100 * time.Millisecond
		for range 4 {
			id := b.start()
			from := b.loads()
			b.signal(id.Master, syscall.SIGUSR2)
			for end := time.Now().Add(patience); b.loads() == from; time.Sleep(time.Millisecond) { // HAProxy's own file
				if time.Now().After(end) {
					t.Fatal("no reload")
				}
			}
			if err := b.c.Stop(context.Background()); err != nil {
				t.Error(err)
			}
			if rest := members(id.Master); len(rest) > 0 {
				t.Errorf("left: %v", rest)
			}
		}
	})
}

// loads counts what HAProxy has loaded.
func (b *bed) loads() int {
	b.t.Helper()
	data, err := os.ReadFile(b.c.o.Log)
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.Count(string(data), "Loading success.")
}

// TestPatientDrain: however often a drain is looked at, a running request is not cut.
func TestPatientDrain(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		s := newSlow(t)
		b := newBed(t, h, "", s.backend())
		b.c.look = 5 * time.Millisecond
		b.start()
		answer := make(chan string, 1)
		go func() { answer <- get(t, b.addr) }()
		<-s.arrived
		stopped := make(chan error, 1)
		go func() { stopped <- b.c.Stop(context.Background()) }()
		time.AfterFunc(300*time.Millisecond, func() { close(s.release) }) // some 60 looks
		if got := <-answer; got != "tea" {
			t.Errorf("the running request got %q", got)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// TestDrainWithOldWorker: a stop waits for the requests of former configurations too, and leaves nothing in the folder.
func TestDrainWithOldWorker(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		s := newSlow(t)
		b := newBed(t, h, "", s.backend())
		old := b.start()
		answers := make(chan string, 2)
		ask := func() { answers <- get(t, b.addr) }
		go ask()
		<-s.arrived
		b.write("own.cfg", "global\n  httpclient.ssl.verify none\n  setenv FNLB_REVISION r2\n")
		worker, err := b.reload("r2")
		if err != nil || worker == old.Worker {
			t.Fatalf("reload: worker %d, %v", worker, err)
		}
		go ask()
		<-s.arrived
		stopped := make(chan error, 1)
		go func() { stopped <- b.c.Stop(context.Background()) }()
		close(s.release)
		for range 2 {
			if got := <-answers; got != "tea" {
				t.Errorf("a running request got %q", got)
			}
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if alive(old.Worker) || alive(worker) || alive(old.Master) {
			t.Error("something lives on")
		}
		files, err := os.ReadDir(b.dir)
		if err != nil {
			t.Fatal(err)
		}
		names := []string{}
		for _, f := range files {
			names = append(names, f.Name())
		}
		if !slices.Equal(names, []string{"haproxy.cfg", "log", "own.cfg"}) {
			t.Errorf("left behind: %q", names)
		}
	})
}

// TestWordsOfTheEnd: what HAProxy said of a reload that it refused is not why it ended later.
func TestWordsOfTheEnd(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		b.start()
		b.write("own.cfg", "global\n  bogus 1\n")
		if _, err := b.reload("r2"); err == nil {
			t.Fatal("the reload was accepted")
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, worker, err := runtime.New(b.c.o.Socket).Loaded(ctx, "r1")
		if err != nil {
			t.Fatal(err)
		}
		b.signal(worker, syscall.SIGKILL)
		e := b.exit()
		code := 137
		if h.AtLeast(3, 2) { // after a failed reload it counts its serving worker as a former one, and itself as ended well
			code = 0
		}
		if strings.Contains(e.Output, "bogus") || !strings.Contains(e.Output, "137") || e.Code != code {
			t.Errorf("got %v", e)
		}
	})
}

// TestAccessLog: HAProxy writes to descriptor 3, whatever was reloaded since.
func TestAccessLog(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "  log fd@3 format raw local0", "  log global\n  option httplog\n"+teapot)
		log, err := os.Create(filepath.Join(b.dir, "access"))
		if err != nil {
			t.Fatal(err)
		}
		b.c.o.AccessLog = log
		b.start()
		if err := log.Close(); err != nil { // HAProxy has its own
			t.Fatal(err)
		}
		for i := range 3 {
			if got := get(t, b.addr); got != "tea" {
				t.Errorf("got %q", got)
			}
			revision := fmt.Sprintf("r%d", i+2)
			b.write("own.cfg", "global\n  httpclient.ssl.verify none\n  setenv FNLB_REVISION "+revision+"\n")
			if _, err := b.reload(revision); err != nil {
				t.Fatal(err)
			}
		}
		get(t, b.addr)
		if err := b.c.Stop(t.Context()); err != nil { // what is buffered is written
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(b.dir, "access"))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(data), `"GET / HTTP/1.1"`); n != 4 {
			t.Errorf("%d requests in the log:\n%s", n, data)
		}
	})
}

// TestLimitOfFiles: HAProxy starts with 256 open files and sizes itself by them, though the hard limit was higher.
func TestLimitOfFiles(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "PROCESS_TEST_CHILD=limited", "PROCESS_TEST_HAPROXY="+h.Path, "PROCESS_TEST_DIR="+b.dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// script is a program that takes the place of HAProxy; its own pid is in dir/pid when it is ready.
func script(t *testing.T, body string) (*Child, string) {
	t.Helper()
	dir := t.TempDir()
	pid := filepath.Join(dir, "pid")
	path := filepath.Join(dir, "script")
	text := "#!/bin/sh\n" + strings.ReplaceAll(body, "READY", "echo $$ >"+pid+".new; mv "+pid+".new "+pid)
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	c := New(Options{Binary: path, Socket: filepath.Join(dir, "s"), Log: filepath.Join(dir, "log")}, pidFile(pid))
	c.patience = 300 * time.Millisecond
	return c, dir
}

// pidFile is a Master that is ready when its file is there.
type pidFile string

func (p pidFile) Loaded(ctx context.Context, _ string) (master, worker int, err error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if data, err := os.ReadFile(string(p)); err == nil {
			_, err := fmt.Sscan(string(data), &master)
			return master, master, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, 0, context.Cause(ctx)
		}
	}
}

// TestDeaf: what ignores SIGTERM is killed with all it started, and that is an error.
func TestDeaf(t *testing.T) {
	t.Run("master", func(t *testing.T) {
		c, _ := script(t, "trap '' TERM USR1\nsleep 1000 &\nREADY\nwhile :; do sleep 1000; done\n")
		id, err := c.Start(t.Context(), "r")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := c.Stop(ctx); err == nil || !strings.Contains(err.Error(), "ignored SIGTERM") {
			t.Errorf("got %v", err)
		}
		if rest := members(id.Master); len(rest) > 0 || alive(id.Master) {
			t.Errorf("left: %v", rest)
		}
	})
	t.Run("a worker that does not end", func(t *testing.T) {
		c, _ := script(t, "(trap '' USR1; exec sleep 1000) &\ntrap 'wait' USR1\ntrap 'kill $!; exit 0' TERM\nREADY\nwhile :; do wait; done\n")
		c.look = 20 * time.Millisecond
		id, err := c.Start(t.Context(), "r")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if rest := members(id.Master); len(rest) > 0 {
			t.Errorf("left: %v", rest)
		}
	})
	t.Run("what it left", func(t *testing.T) {
		c, _ := script(t, "(trap '' TERM; while :; do sleep 1000; done) &\ntrap 'exit 0' USR1\nREADY\nwhile :; do sleep 0.05; done\n")
		id, err := c.Start(t.Context(), "r")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "were killed") {
			t.Errorf("got %v", err)
		}
		var e *ExitError
		if err := <-c.Exited(); !errors.As(err, &e) || len(e.Killed) == 0 || !strings.Contains(e.Error(), "were killed") {
			t.Errorf("told as %v", e)
		}
		if rest := members(id.Master); len(rest) > 0 {
			t.Errorf("left: %v", rest)
		}
	})
	t.Run("a start that is given up", func(t *testing.T) {
		c, dir := script(t, "trap '' TERM\necho '[ALERT]    (1) : stuck here' >&2\n: >"+"$0.up\nwhile :; do sleep 0.02; done\n")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			for {
				if _, err := os.Stat(filepath.Join(dir, "script.up")); err == nil || ctx.Err() != nil {
					cancel()
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		}()
		_, err := c.Start(ctx, "r")
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "stuck here") || !strings.Contains(err.Error(), "ignored SIGTERM") {
			t.Errorf("got %v", err)
		}
		if c.Exited() != nil {
			t.Error("the end of what never was is told")
		}
	})
	t.Run("another answers", func(t *testing.T) {
		c, dir := script(t, "while :; do sleep 0.05; done\n")
		if err := os.WriteFile(filepath.Join(dir, "pid"), []byte("1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Start(t.Context(), "r"); err == nil || !strings.Contains(err.Error(), "answered by process 1") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no such program", func(t *testing.T) {
		c := New(Options{Binary: "/nonexistent/haproxy", Socket: filepath.Join(t.TempDir(), "s"), Log: filepath.Join(t.TempDir(), "log")}, pidFile("/nonexistent"))
		if _, err := c.Start(t.Context(), "r"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v", err)
		}
		if err := c.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestLog: it is appended to, begun anew when it is long, and only its end is looked at.
func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("[ALERT]    (1) : of an earlier run"+strings.Repeat(".", 100)+"\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	f, from, err := openLog(path)
	if err != nil || from == 0 {
		t.Fatalf("%d, %v", from, err)
	}
	if _, err := fmt.Fprintf(f, "%s[ALERT]    (1) : the \x1b[31mlast \xffword\n", strings.Repeat("[WARNING]  (1) : x\n", 10000)); err != nil {
		t.Fatal(err)
	}
	if got := startWords(path, from); got != "the ?[31mlast ?word" {
		t.Errorf("got %q", got)
	}
	if err := f.Truncate(10); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprint(f, "\n[ALERT]    (1) : after a cut\n"); err != nil {
		t.Fatal(err)
	}
	if got := startWords(path, from); got != "after a cut" {
		t.Errorf("after a cut: %q", got)
	}
	if err := errors.Join(f.Truncate(maxLog+1), f.Close()); err != nil {
		t.Fatal(err)
	}
	if f, from, err = openLog(path); err != nil || from != 0 {
		t.Fatalf("a long one: %d, %v", from, err)
	}
	if err := errors.Join(f.Close(), os.Remove(path)); err != nil {
		t.Fatal(err)
	}
	if got := lastWords(path, 0); !strings.Contains(got, "no such file") {
		t.Errorf("a missing one: %q", got)
	}
}

func TestLastWords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for name, test := range map[string]struct{ log, want string }{
		"nothing":            {"", ""},
		"refused reload":     {"[ALERT]    (1) : config : parsing [/x:3] : bad\n[WARNING]  (1) : Loading failure!\n[ALERT]    (1) : Current worker (2) exited with code 137 (Killed)\n", "Current worker (2) exited with code 137 (Killed)"},
		"3.2":                {"[ALERT]    (3) : bad\n[WARNING]  (1) : Failed to load worker (3) exited with code 1 (Exit)\n", ""},
		"good reload":        {"[ALERT]    (1) : old\n[NOTICE]   (1) : Loading success.\n[WARNING]  (1) : odd\n", "odd"},
		"summing up":         {"[ALERT]    (1) : config : bad\n[ALERT]    (1) : config : bad\n[ALERT]    (1) : config : Error(s) found in configuration file : /x\n[ALERT]    (1) : config : Fatal errors found in configuration.\n", "config : bad"},
		"no mark of HAProxy": {"error while loading shared libraries\n", ""},
	} {
		if err := os.WriteFile(path, []byte(test.log), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lastWords(path, 0); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func FuzzSaid(f *testing.F) {
	f.Add("[ALERT]    (1) : config : parsing [/x:3] : bad\n[WARNING]  (1) : odd\n")
	f.Add("[ALERT]\n[ALERT] \xff\x00\n")
	f.Fuzz(func(t *testing.T, out string) {
		if got := complaints(out); len(got) > maxLines*(maxLine+10)*3 || strings.ContainsAny(got, "\n\r\x1b\x00") {
			t.Fatalf("%q", got)
		}
	})
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19\n"))
	f.Add([]byte("7 (a"))
	f.Fuzz(func(_ *testing.T, data []byte) { parseStat(data) })
}

func TestParseStat(t *testing.T) {
	data, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	st, ok := parseStat(data)
	if !ok || st.parent != os.Getppid() || st.group != syscall.Getpgrp() || st.threads < 2 || st.ended() {
		t.Errorf("%+v from %s", st, data)
	}
	st, ok = parseStat([]byte("7 (a) Z (b) Z 11 12 3 4 5 6 7 8 9 10 11 12 13 14 15 16 2 18 19 20\n"))
	if !ok || st.parent != 11 || st.group != 12 || st.state != 'Z' {
		t.Errorf("%+v, %v", st, ok)
	}
}

// TestCheckLeavesNothing: what a check starts ends with it, however it ends, and its memory is bounded.
func TestCheckLeavesNothing(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	left := func() int {
		t.Helper()
		data, err := os.ReadFile(pid)
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if _, err := fmt.Sscan(string(data), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	gone := func(n int) {
		t.Helper()
		for end := time.Now().Add(patience); alive(n); time.Sleep(5 * time.Millisecond) { // it is no child of ours to wait for
			if time.Now().After(end) {
				t.Fatalf("process %d lives on", n)
			}
		}
	}
	quick := file(t, "#!/bin/sh\nsleep 1000 >/dev/null 2>&1 &\necho $! >"+pid+"\nexit 0\n", 0o700)
	if _, err := (Checker{Binary: quick}).Check(t.Context()); err != nil {
		t.Error(err)
	}
	gone(left())
	hang := file(t, "#!/bin/sh\ntrap '' TERM\nsleep 1000 &\necho $! >"+pid+"\nwait\n", 0o700)
	if _, _, err := runBounded(t.Context(), 300*time.Millisecond, hang); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "300ms") {
		t.Errorf("got %v", err)
	}
	gone(left())
	memory := file(t, "#!/bin/sh\nuntil [ \"$(ulimit -v)\" = 4194304 ]; do :; done\nuntil [ \"$(cat /proc/$$/oom_score_adj)\" = 1000 ]; do :; done\nexit 0\n", 0o700)
	if _, state, err := runBounded(t.Context(), patience, memory); err != nil || !state.Success() {
		t.Errorf("memory: %v, %v", state, err)
	}
}

// TestCheckCrash: a text that crashes HAProxy is refused; a check that somebody killed says nothing about the text.
func TestCheckCrash(t *testing.T) {
	var refused *CheckError
	if _, err := (Checker{Binary: file(t, "#!/bin/sh\nkill -SEGV $$\n", 0o700)}).Check(t.Context()); !errors.As(err, &refused) || !strings.Contains(err.Error(), "SIGSEGV") {
		t.Errorf("got %v", err)
	}
	if _, err := (Checker{Binary: file(t, "#!/bin/sh\nkill -KILL $$\n", 0o700)}).Check(t.Context()); err == nil || errors.As(err, &refused) {
		t.Errorf("got %v", err)
	}
	if _, err := (Checker{Binary: "/nonexistent/haproxy"}).Check(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (Checker{Binary: "/bin/true"}).Check(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestDeadWorkerFreesPort: when the end is told, the port is free for the next.
func TestDeadWorkerFreesPort(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		for _, victim := range []func(Identity) int{func(id Identity) int { return id.Worker }, func(id Identity) int { return id.Master }} {
			id := b.start()
			b.signal(victim(id), syscall.SIGKILL)
			b.ended()
			l, err := net.Listen("tcp", b.addr)
			if err != nil {
				t.Fatalf("the port is not free: %v", err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
