package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/haproxy/runtime"
)

// orphan starts the bed's HAProxy as the child of a process that ends at once, as a killed fnlb leaves it.
func (b *bed) orphan() Identity {
	b.t.Helper()
	cmd := exec.Command("sh", "-c", `setsid "$@" >"$0" 2>&1 & echo $!`, filepath.Join(b.dir, "log"))
	cmd.Args = append(append(cmd.Args, b.c.o.Binary), b.c.args()...)
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	master, worker, err := b.c.master.Loaded(ctx, "r1")
	if err != nil || master != pid {
		b.t.Fatalf("%d, not %d: %v", master, pid, err)
	}
	return Identity{Master: master, Worker: worker}
}

func (b *bed) adopt() Identity {
	b.t.Helper()
	id, err := b.c.Adopt()
	if err != nil || id == nil {
		b.t.Fatalf("%v, %v", id, err)
	}
	return *id
}

// TestAdopt: a HAProxy that is no child is found, its end is seen, and it is stopped as a child is.
func TestAdopt(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		t.Run("killed", func(t *testing.T) {
			b := newBed(t, h, "", teapot)
			was := b.orphan()
			id := b.adopt()
			if id.Master != was.Master || id.Ticks == 0 || time.Since(id.Started) > time.Minute || time.Since(id.Started) < 0 {
				t.Errorf("adopted %+v, started %+v", id, was)
			}
			b.signal(id.Master, syscall.SIGKILL)
			if e := b.exit(); !e.Adopted || !strings.Contains(e.Error(), "not known") {
				t.Errorf("ended with %v", e)
			}
			if alive(was.Worker) {
				t.Error("the worker is left")
			}
			b.start() // stale socket and all
		})
		t.Run("a worker killed", func(t *testing.T) {
			b := newBed(t, h, "", teapot)
			was := b.orphan()
			b.adopt()
			b.signal(was.Worker, syscall.SIGSEGV)
			if e := b.exit(); !strings.Contains(e.Output, "139") && !strings.Contains(e.Output, "Segmentation") {
				t.Errorf("ended with %v", e)
			}
		})
		t.Run("drained", func(t *testing.T) {
			s := newSlow(t)
			b := newBed(t, h, "", s.backend())
			was := b.orphan()
			b.adopt()
			answer := s.request(b)
			stopped := make(chan error, 1)
			go func() { stopped <- b.c.Stop(t.Context()) }()
			for !gone(b.addr) {
				time.Sleep(time.Millisecond)
			}
			close(s.release)
			if got := <-answer; got != "tea" {
				t.Errorf("the running request got %q", got)
			}
			if err := <-stopped; err != nil {
				t.Error(err)
			}
			b.ended()
			if alive(was.Master) || alive(was.Worker) {
				t.Error("something is left")
			}
		})
		t.Run("at the limit", func(t *testing.T) {
			s := newSlow(t)
			b := newBed(t, h, "", s.backend())
			b.orphan()
			id := b.adopt()
			s.request(b)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if err := b.c.Stop(ctx); err != nil {
				t.Error(err)
			}
			b.ended()
			if alive(id.Master) {
				t.Error("it is left")
			}
		})
		t.Run("frozen", func(t *testing.T) {
			b := newBed(t, h, "", teapot)
			was := b.orphan()
			b.adopt()
			b.signal(was.Worker, syscall.SIGSTOP)
			b.signal(was.Master, syscall.SIGKILL)
			b.ended()
			if alive(was.Worker) {
				t.Error("the frozen worker is left")
			}
		})
	})
}

// TestAdoptRefuses: a HAProxy of other arguments, and what is none of ours, is never signalled; nor is another started beside one.
func TestAdoptRefuses(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		if id, err := b.c.Adopt(); id != nil || err != nil {
			t.Fatalf("%v, %v without any", id, err)
		}
		was := b.orphan()
		reload := runtime.New(b.c.o.Socket)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := reload.Reload(ctx, "r1"); err != nil { // the command line changes with it
			t.Fatal(err)
		}
		o := b.c.o
		o.Files = append([]string{filepath.Join(b.dir, "other.cfg")}, o.Files[1:]...)
		var other *OtherArgs
		if _, err := New(o, b.c.master).Adopt(); !errors.As(err, &other) || other.Master != was.Master || other.Config() != b.c.o.Files[0] {
			t.Errorf("other arguments: %v", err)
		}
		if _, err := New(b.c.o, b.c.master).Start(ctx, "r1"); err == nil || !strings.Contains(err.Error(), fmt.Sprint(was.Master)) {
			t.Errorf("another was started beside it: %v", err)
		}
		if err := signalOurs(os.Getpid(), b.c.o.Socket, unix.SIGKILL); err != nil {
			t.Error(err) // and we live
		}
		if r, err := b.c.hold(os.Getpid()); r != nil || err != nil {
			t.Errorf("a stranger is held: %v, %v", r, err)
		}
		if got := get(t, b.addr); got != "tea" {
			t.Errorf("got %q", got)
		}
		b.adopt()
	})
}

// TestStrandedWorker: a worker that was stopped outlives master and fnlb, and would go on sharing the port; a start ends it.
func TestStrandedWorker(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		was := b.orphan()
		b.signal(was.Worker, syscall.SIGSTOP)
		b.signal(was.Master, syscall.SIGKILL)
		for alive(was.Master) {
			time.Sleep(time.Millisecond)
		}
		if id, err := b.c.Adopt(); id != nil || err != nil {
			t.Fatalf("%v, %v", id, err)
		}
		b.start()
		if alive(was.Worker) {
			t.Error("the worker is left")
		}
	})
}

// TestSupersede: one that only finishes its requests has another beside it, and a stop waits for both; the next of us finds both, and
// knows which one serves.
func TestSupersede(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		s := newSlow(t)
		b := newBed(t, h, "", s.backend())
		was := b.orphan()
		first := New(b.c.o, b.c.master)
		if id, err := first.Adopt(); err != nil || id == nil {
			t.Fatalf("%v, %v", id, err)
		}
		answer := s.request(b)
		b.signal(was.Master, syscall.SIGUSR1)
		for !gone(b.addr) {
			time.Sleep(time.Millisecond)
		}
		first.Supersede()
		if first.Exited() != nil {
			t.Error("it is in charge of two")
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		now, err := first.Start(ctx, "r1")
		if err != nil {
			t.Fatal(err)
		}
		id := b.adopt() // as the next of us would
		if id.Master != now.Master {
			t.Errorf("adopted %d, not %d", id.Master, now.Master)
		}
		stopped := make(chan error, 1)
		go func() { stopped <- b.c.Stop(ctx) }()
		select {
		case err := <-stopped:
			t.Errorf("it did not wait for the request: %v", err)
		case <-time.After(300 * time.Millisecond):
		}
		close(s.release)
		if got := <-answer; got != "tea" {
			t.Errorf("the running request got %q", got)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if alive(was.Master) || alive(now.Master) {
			t.Error("one is left")
		}
		if err := <-first.Exited(); err == nil {
			t.Error("it ended without a word")
		}
	})
}

// request sends one that the server holds, and gives what comes back in the end.
func (s *slow) request(b *bed) <-chan string {
	answer := make(chan string, 1)
	go func() { answer <- get(b.t, b.addr) }()
	<-s.arrived
	return answer
}

// gone reports whether nobody listens any more.
func gone(addr string) bool {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return true
	}
	conn.Close()
	return false
}
