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
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/haproxy/runtime"
)

const patience = 30 * time.Second

// bed is a folder with a configuration, and the Child that runs it.
type bed struct {
	t    *testing.T
	dir  string
	addr string
	c    *Child
}

func newBed(t *testing.T, h haproxytest.HAProxy, global, rest string) *bed {
	t.Helper()
	dir, err := os.MkdirTemp("", "pr") // short, for the socket
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, dir: dir, addr: fmt.Sprintf("127.0.0.1:%d", haproxytest.FreePort(t))}
	b.write("haproxy.cfg", "global\n"+global+"\ndefaults\n  mode http\n  timeout connect 2s\n  timeout client 1m\n  timeout server 1m\nfrontend f\n  bind "+b.addr+"\n"+rest)
	b.write("own.cfg", "global\n  httpclient.ssl.verify none\n  setenv FNLB_REVISION r1\n")
	socket := filepath.Join(dir, "m.sock")
	b.c = New(Options{
		Binary: h.Path, Files: []string{filepath.Join(dir, "haproxy.cfg"), filepath.Join(dir, "own.cfg")}, Socket: socket, Log: filepath.Join(dir, "log"),
	}, runtime.New(socket))
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := b.c.Stop(ctx); err != nil {
			t.Error(err)
		}
		select { // the goroutine behind Exited ends with its value
		case err := <-b.c.Exited():
			t.Logf("ended: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bed) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) start() Identity {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	id, err := b.c.Start(ctx, "r1")
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

// ended waits for the end, however it was.
func (b *bed) ended() {
	b.t.Helper()
	if e := b.exit(); e == nil {
		b.t.Error("it ended without a word")
	}
}

func (b *bed) exit() *ExitError {
	b.t.Helper()
	select {
	case err := <-b.c.Exited():
		var e *ExitError
		if !errors.As(err, &e) {
			b.t.Fatalf("%T %v", err, err)
		}
		return e
	case <-time.After(patience):
		b.t.Fatal("it does not end")
		return nil
	}
}

// alive reports whether a process runs; one that has ended and waits for its parent does not.
func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(data), ") Z ")
}

const teapot = "  http-request return status 200 content-type text/plain string tea\n"

func get(t *testing.T, addr string) string {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/")
	if err != nil {
		return err.Error()
	}
	data, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err.Error()
	}
	http.DefaultClient.CloseIdleConnections()
	return string(data)
}

// TestStartAndStop: `daemon` in the text does not take it away from us, the environment is empty, and the socket goes with it.
func TestStartAndStop(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "  daemon", teapot)
		id := b.start()
		if got := get(t, b.addr); got != "tea" {
			t.Errorf("got %q", got)
		}
		for _, pid := range []int{id.Master, id.Worker} {
			env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(env), "PATH=") || strings.Contains(string(env), "HOME=") {
				t.Errorf("process %d has our environment: %q", pid, env)
			}
		}
		if info, err := os.Stat(b.c.o.Socket); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("master socket: %v %v", info, err)
		}
		if err := b.c.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if e := b.exit(); e.Code != 0 || alive(id.Master) || alive(id.Worker) {
			t.Errorf("ended with %v", e)
		}
		if _, err := os.Stat(b.c.o.Socket); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the master socket is left behind: %v", err)
		}
		if err := b.c.Stop(t.Context()); err != nil {
			t.Errorf("stopping what has ended: %v", err)
		}
	})
}

// TestDrain: a running request ends well; at the limit it is cut.
func TestDrain(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		for _, limited := range []bool{false, true} {
			arrived, release := make(chan struct{}), make(chan struct{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				close(arrived)
				<-release
				_, _ = io.WriteString(w, "tea")
			}))
			b := newBed(t, h, "", "  default_backend b\nbackend b\n  server s "+server.Listener.Addr().String()+"\n")
			b.start()
			answer := make(chan string, 1)
			go func() { answer <- get(t, b.addr) }()
			<-arrived
			ctx, cancel := context.WithCancel(t.Context())
			stopped := make(chan error, 1)
			go func() { stopped <- b.c.Stop(ctx) }()
			if limited {
				cancel()
			} else {
				for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
					if l, err := net.Listen("tcp", b.addr); err == nil {
						_ = l.Close()
						break // the port is closed: the drain has begun
					}
				}
				close(release)
			}
			got := <-answer
			if (got == "tea") == limited {
				t.Errorf("limited %v: the running request got %q", limited, got)
			}
			if err := <-stopped; err != nil {
				t.Error(err)
			}
			b.ended()
			if limited {
				close(release)
			}
			cancel()
			server.Close()
		}
	})
}

// TestKilled: whichever process is killed, the end is told with its cause, nothing listens on, and the next start is clean.
func TestKilled(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		id := b.start()
		if err := syscall.Kill(id.Worker, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if e := b.exit(); e.Code != 137 || !strings.Contains(e.Error(), "worker was ended by SIGKILL") || !strings.Contains(e.Output, "137") {
			t.Errorf("worker: %v", e)
		}
		id = b.start()
		if err := syscall.Kill(id.Master, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if e := b.exit(); e.Signal != syscall.SIGKILL || !strings.Contains(e.Error(), "master was ended by SIGKILL") {
			t.Errorf("master: %v", e)
		}
		next := b.start()
		if alive(id.Worker) {
			t.Errorf("worker %d of the killed master lives beside the new one", id.Worker)
		}
		if got := get(t, b.addr); got != "tea" || next.Master == id.Master {
			t.Errorf("after the restart: %q", got)
		}
	})
}

// TestStartFails: HAProxy's own words come back, and nothing is left running.
func TestStartFails(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		taken, err := net.Listen("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.c.Start(t.Context(), "r1"); err == nil || !strings.Contains(strings.ToLower(err.Error()), "cannot bind") {
			t.Errorf("taken port: %v", err)
		}
		if err := taken.Close(); err != nil {
			t.Fatal(err)
		}
		b.write("own.cfg", "global\n  bogus 1\n")
		if _, err := b.c.Start(t.Context(), "r1"); err == nil || !strings.Contains(err.Error(), "bogus") {
			t.Errorf("bad text: %v", err)
		}
		b.write("own.cfg", "global\n  httpclient.ssl.verify none\n  setenv FNLB_REVISION other\n")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.c.Start(ctx, "r1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a revision that does not come: %v", err)
		}
		if l, err := net.Listen("tcp", b.addr); err != nil {
			t.Errorf("something listens on: %v", err)
		} else if err := l.Close(); err != nil {
			t.Error(err)
		}
		select {
		case err := <-b.c.Exited():
			t.Errorf("an end was reported of what never ran: %v", err)
		default:
		}
		b.write("own.cfg", "global\n  httpclient.ssl.verify none\n  setenv FNLB_REVISION r1\n")
		b.start()
	})
}

// TestFrozen: a master that is stopped still ends.
func TestFrozen(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		id := b.start()
		if err := syscall.Kill(id.Master, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := b.c.Stop(ctx); err != nil {
			t.Error(err)
		}
		b.ended()
	})
}
