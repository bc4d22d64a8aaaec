package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listener is a service manager, and an owner whose state a test sets.
type listener struct {
	*notifier
	mu    sync.Mutex
	got   []string
	fails error
	st    supervisor.Status
	log   strings.Builder
}

func (l *listener) set(phase model.Phase, degraded ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.st = supervisor.Status{Phase: phase, Degraded: degraded, Servers: []model.ServerStatus{{Health: model.Up}, {Health: model.Pending}}}
}

// take gives what was sent since the last time, one message a line.
func (l *listener) take() string {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	text := strings.Join(l.got, "\n")
	l.got = nil
	return strings.ReplaceAll(text, "\n", " ")
}

func environment(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, p := range pairs {
			if value, ok := strings.CutPrefix(p, name+"="); ok {
				return value, true
			}
		}
		return "", false
	}
}

func newListener(env ...string) (l *listener, beat func()) {
	l = &listener{}
	l.notifier = newNotifier(environment(append(env, "NOTIFY_SOCKET=/nonexistent")...), slog.New(slog.NewTextHandler(&l.log, nil)))
	l.send = func(state string) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.fails == nil {
			l.got = append(l.got, state)
		}
		return l.fails
	}
	var o supervisor.Options
	l.watch(&o)
	return l, o.Beat
}

// during runs the notifier for as long as f takes.
func (l *listener) during(f func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		l.run(ctx, func() *supervisor.Status {
			l.mu.Lock()
			defer l.mu.Unlock()
			st := l.st
			return &st
		})
	})
	f()
	cancel()
	wg.Wait()
}

// TestNotify: what is told, and when.
func TestNotify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, beat := newListener()
		l.set(model.Starting)
		read := 0
		l.during(func() {
			for _, step := range []struct {
				do   func()
				want string
			}{
				{beat, "STATUS=starting"},
				{beat, ""},
				{func() { l.reload(func() { read++ }) }, ""}, // who was never ready is not ready again
				{func() { l.set(model.Serving); beat() }, "READY=1 STATUS=serving, 1 of 2 servers are up"},
				{beat, ""},
				{func() { l.set(model.Serving, "a file\nis bad", "more"); beat() }, "STATUS=serving, 1 of 2 servers are up; degraded: a file is bad"},
				{func() { l.set(model.Broken); beat() }, "STATUS=haproxy is down and is started again"},
				{func() { l.set(model.Serving); beat() }, "STATUS=serving, 1 of 2 servers are up"},
				{func() { l.set(model.Stopping); beat() }, "STOPPING=1 STATUS=stopping: running requests finish"},
				{func() { l.reload(func() { read++ }) }, ""},
				{beat, ""},
			} {
				step.do()
				if got := l.take(); got != step.want {
					t.Errorf("told %q, not %q", got, step.want)
				}
			}
		})
		if read != 2 {
			t.Errorf("read %d times", read)
		}
	})
}

// TestNotifyReload: a reload is told with the time of its begin, and its end.
func TestNotifyReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, beat := newListener()
		l.set(model.Serving)
		l.during(func() {
			beat()
			l.take()
			l.reload(func() {
				var usec int64
				if _, err := fmt.Sscanf(l.take(), "RELOADING=1 MONOTONIC_USEC=%d", &usec); err != nil || usec <= 0 {
					t.Errorf("%d, %v", usec, err)
				}
			})
			if got := l.take(); got != "READY=1" {
				t.Errorf("told %q", got)
			}
		})
	})
}

// TestNotifyStopIsTold: a stop that ends before the owner's last beat was heard is told all the same.
func TestNotifyStopIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := newListener()
		l.set(model.Stopping)
		l.during(func() {})
		if got := l.take(); !strings.HasPrefix(got, "STOPPING=1") {
			t.Errorf("told %q", got)
		}
	})
}

// TestWatchdog: a sign of life goes out for the owner's beats, at most every quarter of the limit, and none without them.
func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, beat := newListener("WATCHDOG_USEC=4000000", fmt.Sprintf("WATCHDOG_PID=%d", os.Getpid()))
		l.set(model.Serving)
		count := func(beats bool) (n int) {
			for range 100 {
				if beats {
					beat()
				}
				time.Sleep(100 * time.Millisecond) // fake time
				n += strings.Count(l.take(), "WATCHDOG=1")
			}
			return n
		}
		l.during(func() {
			if n := count(true); n != 10 {
				t.Errorf("%d signs of life in 10 s of beats", n)
			}
			if n := count(false); n != 0 {
				t.Errorf("%d signs of life of an owner that hangs", n)
			}
			if n := count(true); n != 10 {
				t.Errorf("%d signs of life after it went on", n)
			}
		})
	})
}

// TestNotifyEnvironment: who is asked by nobody, or not meant, tells nothing.
func TestNotifyEnvironment(t *testing.T) {
	if n := newNotifier(environment(), nil); n != nil {
		t.Error("there is no service manager")
	}
	var none *notifier
	var o supervisor.Options
	none.watch(&o)
	none.run(t.Context(), nil)
	read := false
	if none.reload(func() { read = true }); !read || o.Beat != nil {
		t.Error("nobody is told, and nothing is done")
	}
	for _, env := range []string{"WATCHDOG_USEC=", "WATCHDOG_USEC=x", "WATCHDOG_USEC=-1", "WATCHDOG_USEC=4000000,WATCHDOG_PID=1"} {
		if n := newNotifier(environment(append(strings.Split(env, ","), "NOTIFY_SOCKET=@x")...), nil); n.every != 0 {
			t.Errorf("%s: %s", env, n.every)
		}
	}
}

// TestNotifyUnheard: a service manager that has gone is told of once, and harms nothing.
func TestNotifyUnheard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, beat := newListener("WATCHDOG_USEC=4000000")
		l.fails = errors.New("connection refused")
		l.set(model.Serving)
		l.during(func() {
			for range 10 {
				beat()
				time.Sleep(time.Second) // fake time
			}
		})
		if n := strings.Count(l.log.String(), "the service manager cannot be told"); n != 1 {
			t.Errorf("%d lines: %s", n, l.log.String())
		}
	})
}
