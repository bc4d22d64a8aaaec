package runtime

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake listens as a master socket would; serve gets each connection with the line that came (to a worker: what follows the version,
// which is answered), and the connection is closed when it returns. All ends with the test.
func fake(t *testing.T, serve func(line string, conn io.Writer, end <-chan struct{})) *Client {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "rt")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				lines := bufio.NewReader(conn)
				line, _ := lines.ReadString('\n')
				if line == "show version\n" {
					line, _ = lines.ReadString('\n')
					_, _ = io.WriteString(conn, "2.6\n\n") // the client may be gone already
				}
				serve(strings.TrimSuffix(line, "\n"), conn, end)
				_ = conn.Close() // the client may be gone already
			})
		}
	})
	t.Cleanup(func() {
		close(end)
		if err := errors.Join(l.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
		all.Wait()
	})
	return New(filepath.Join(dir, "s"))
}

// say answers every line with the same text.
func say(text string) func(string, io.Writer, <-chan struct{}) {
	return func(_ string, conn io.Writer, _ <-chan struct{}) {
		_, _ = io.WriteString(conn, text) // the client may be gone already
	}
}

func mustCmd(t *testing.T, words ...string) Command {
	t.Helper()
	cmd, err := Cmd(words...)
	if err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestReplies(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       Reply
		err        error
	}{
		{"silent success", "\n", "", nil},
		{"one line", "Done.\n\n", "Done.", nil},
		{"many lines", "a\nb\n\nc\n\n", "a\nb\n\nc", nil},
		{"nothing", "", "", ErrCut},
		{"half a line", "Don", "", ErrCut},
		{"one line without an end", "Done.\n", "", ErrCut},
		{"no such process", "Can't find the target PID matching the prefix '@!7'\n", "", ErrNoWorker},
	} {
		got, err := fake(t, say(test.text)).Do(t.Context(), 7, mustCmd(t, "x"))
		if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
			t.Errorf("%s: error %v", test.name, err)
		} else if err == nil && (len(got) != 1 || got[0] != test.want) {
			t.Errorf("%s: %q", test.name, got)
		}
	}
}

func TestReplyWithoutVersion(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "rt")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "\n", "2.6\n", "2.6\n\n", "2.6\nx\n\ny\n\n"} {
		var all sync.WaitGroup
		all.Go(func() {
			if conn, err := l.Accept(); err == nil {
				_, _ = io.WriteString(conn, text)
				_, _ = io.ReadAll(conn)
				_ = conn.Close()
			}
		})
		if _, err := New(filepath.Join(dir, "s")).Do(t.Context(), 7, mustCmd(t, "x")); !errors.Is(err, ErrCut) {
			t.Errorf("%q: %v", text, err)
		}
		all.Wait()
	}
	if err := errors.Join(l.Close(), os.RemoveAll(dir)); err != nil {
		t.Error(err)
	}
}

func TestDoSendsOneCommandAConnection(t *testing.T) {
	var lines []string
	var mu sync.Mutex
	c := fake(t, func(line string, conn io.Writer, _ <-chan struct{}) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, line)
		if len(lines) < 3 {
			_, _ = io.WriteString(conn, line+"\n\n")
		}
	})
	got, err := c.Do(t.Context(), 7, mustCmd(t, "a", "b"), mustCmd(t, "c"), mustCmd(t, "d"), mustCmd(t, "e"))
	if !errors.Is(err, ErrCut) || len(got) != 2 || got[0] != "@!7 a b" || got[1] != "@!7 c" {
		t.Errorf("replies %q, error %v", got, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := "@!7 a b|@!7 c|@!7 d"; strings.Join(lines, "|") != want {
		t.Errorf("sent %q", lines)
	}
}

func TestDoRefusesWhatIsNobody(t *testing.T) {
	c := fake(t, say("x\n\n"))
	for _, pid := range []int{0, -1} {
		if _, err := c.Do(t.Context(), pid, mustCmd(t, "x")); !errors.Is(err, ErrNoWorker) {
			t.Errorf("pid %d: %v", pid, err)
		}
	}
	if _, err := c.Do(t.Context(), 7, Command{}); err == nil {
		t.Error("an empty command was sent")
	}
}

// Whatever the other side does, a call ends in 2 s, or with ctx.
func TestCallsEnd(t *testing.T) {
	t.Parallel()
	silent := func(_ string, _ io.Writer, end <-chan struct{}) { <-end }
	drip := func(_ string, conn io.Writer, end <-chan struct{}) {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				if _, err := io.WriteString(conn, "x\n\n"); err != nil {
					return
				}
			}
		}
	}
	for name, serve := range map[string]func(string, io.Writer, <-chan struct{}){"silent": silent, "never ending": drip} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := fake(t, serve)
			calls := map[string]func(context.Context) error{
				"do":        func(ctx context.Context) error { _, err := c.Do(ctx, 7, mustCmd(t, "x"), mustCmd(t, "x")); return err },
				"processes": func(ctx context.Context) error { _, err := c.Processes(ctx); return err },
				"state":     func(ctx context.Context) error { _, _, err := c.ServersState(ctx, 7); return err },
				"stats":     func(ctx context.Context) error { _, err := c.Stats(ctx, 7); return err },
				"info":      func(ctx context.Context) error { _, err := c.Info(ctx, 7); return err },
			}
			var all sync.WaitGroup
			for name, call := range calls {
				all.Go(func() {
					start := time.Now()
					err := call(t.Context())
					if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took < callLimit || took > 3*callLimit {
						t.Errorf("%s ended after %s with %v", name, took, err)
					}
				})
			}
			for name, call := range map[string]func(context.Context) error{
				"do":     calls["do"],
				"loaded": func(ctx context.Context) error { _, _, err := c.Loaded(ctx, "x"); return err },
				"reload": func(ctx context.Context) error { _, err := c.Reload(ctx, "x"); return err },
			} {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				start := time.Now()
				err := call(ctx)
				cancel()
				if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > 3*callLimit {
					t.Errorf("%s with a short context ended after %s with %v", name, took, err)
				}
			}
			all.Wait()
		})
	}
}

func TestCancelEndsACall(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := fake(t, func(_ string, _ io.Writer, end <-chan struct{}) { cancel(); <-end })
	if _, err := c.Processes(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestHugeReplyIsRefused(t *testing.T) {
	t.Parallel()
	block := strings.Repeat("x", 1<<20) + "\n"
	c := fake(t, func(_ string, conn io.Writer, _ <-chan struct{}) {
		for {
			if _, err := io.WriteString(conn, block); err != nil {
				return // the client has had enough
			}
		}
	})
	if _, err := c.Do(t.Context(), 7, mustCmd(t, "x")); !errors.Is(err, errTooLarge) && !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestGarbageIsAnError(t *testing.T) {
	for _, text := range []string{
		"", "\n", "\n\n", "x\n\n", "\x00\xff\n\n", "1\n\n", "1\n1 2 3\n\n", "# a,b\n\n", "# pxname\n\"\n\n", "Pid: x\n\n",
		"Unknown command, but maybe one of the following ones is a better match:\n\n", "HTTP/1.1 400 Bad Request\r\n\r\n",
	} {
		c := fake(t, say(text))
		if p, err := c.Processes(t.Context()); err == nil {
			t.Errorf("%q as processes: %+v", text, p)
		}
		if _, rows, err := c.ServersState(t.Context(), 7); err == nil && text != "1\n\n" {
			t.Errorf("%q as servers: %+v", text, rows)
		}
		if rows, err := c.Stats(t.Context(), 7); err == nil {
			t.Errorf("%q as stats: %+v", text, rows)
		}
		if entries, err := c.Map(t.Context(), 7, "m.map"); err == nil && text != "\n" && text != "\n\n" {
			t.Errorf("%q as a map: %q", text, entries)
		}
		if info, err := c.Info(t.Context(), 7); err == nil {
			t.Errorf("%q as info: %+v", text, info)
		}
	}
}

func TestNoSocket(t *testing.T) {
	c := New(filepath.Join(t.TempDir(), "none"))
	if _, err := c.Do(t.Context(), 7, mustCmd(t, "x")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := c.Loaded(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// script answers as a master does whose processes change with each `reload`.
type script struct {
	mu       sync.Mutex
	reloads  int
	replies  []string // to reload, in order
	procs    []string // show proc after that many reloads
	revision string
}

func (s *script) serve(line string, conn io.Writer, _ <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := "?\n\n"
	switch {
	case line == "reload":
		text = s.replies[min(s.reloads, len(s.replies)-1)]
		s.reloads++
	case line == "show proc":
		text = s.procs[min(s.reloads, len(s.procs)-1)]
	case strings.HasSuffix(line, " show env FNLB_REVISION"):
		text = "FNLB_REVISION=" + s.revision + "\n\n"
	case strings.HasSuffix(line, " show info"):
		text = "Pid: 1\nMaxconn: 1\nCurrConns: 0\nUlimit-n: 1\nVersion: 1\nStopping: 0\n\n"
	}
	_, _ = io.WriteString(conn, text)
}

const procHeading = "#<PID> <type> <reloads> <uptime> <version>\n"

func TestReloadBelievesOnlyProcesses(t *testing.T) {
	t.Parallel()
	one := procHeading + "1 master 0 [failed: 0] 1s 2.6\n# workers\n10 worker 0 1s 2.6\n# programs\n\n"
	two := procHeading + "1 master 1 [failed: 0] 1s 2.6\n# workers\n11 worker 0 1s 2.6\n# old workers\n10 worker 1 1s 2.6\n# programs\n\n"
	same := procHeading + "1 master 1 [failed: 0] 1s 2.6\n# workers\n10 worker 1 1s 2.6\n# programs\n\n"
	failed := procHeading + "1 master 1 [failed: 1] 1s 2.6\n# workers\n10 worker 1 1s 2.6\n# programs\n\n"
	for _, test := range []struct {
		name   string
		s      *script
		worker int
		err    string // part of it
		sent   int
	}{
		{name: "silent success", s: &script{replies: []string{""}, procs: []string{one, two}}, worker: 11, sent: 1},
		{name: "success", s: &script{replies: []string{"Success=1\n--\n\n"}, procs: []string{one, two}}, worker: 11, sent: 1},
		{name: "silent refusal", s: &script{replies: []string{""}, procs: []string{one, failed}}, err: "HAProxy's log", sent: 1},
		{name: "refusal", s: &script{replies: []string{"Success=0\n--\n[ALERT] no\n\n"}, procs: []string{one, failed}}, err: "[ALERT] no", sent: 1},
		{name: "request lost once", s: &script{replies: []string{""}, procs: []string{one, one, two}}, worker: 11, sent: 2},
		{name: "success that is none", s: &script{replies: []string{"Success=1\n--\n\n"}, procs: []string{one, same}}, err: "still the current one", sent: 1},
		{name: "another revision", s: &script{replies: []string{""}, procs: []string{one, two}, revision: "old"}, err: `has loaded "old"`, sent: 1},
		{name: "garbage", s: &script{replies: []string{""}, procs: []string{one, "?\n\n"}}, err: "show proc", sent: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := test.s
			if s.revision == "" {
				s.revision = "new"
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			worker, err := fake(t, s.serve).Reload(ctx, "new")
			if worker != test.worker || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("worker %d, error %v", worker, err)
			}
			var refused *ReloadError
			if want := strings.Contains(test.name, "refusal"); errors.As(err, &refused) != want || !want && err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error of another kind: %v", err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.reloads != test.sent {
				t.Errorf("sent %d times", s.reloads)
			}
		})
	}
}
