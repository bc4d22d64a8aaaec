package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// rowOf adds so many servers, from a number on.
func rowOf(t *testing.T, from, n int) (changes []Change) {
	t.Helper()
	for i := from; i < from+n; i++ {
		name := fmt.Sprintf("s%d", i)
		add, errAdd := AddServer("be", name, fmt.Sprintf("127.0.%d.%d:1", i/250, i%250+1), "check", "inter", "60000", "id", fmt.Sprint(i+1))
		health, errHealth := EnableHealth("be", name)
		ready, errReady := Ready("be", name)
		if err := errors.Join(errAdd, errHealth, errReady); err != nil {
			t.Fatal(err)
		}
		changes = append(changes, add, health, ready)
	}
	return changes
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "hap") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestWorkerSocket: many changes go to the worker itself where it is the one that is meant, and else through the master.
func TestWorkerSocket(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		ctx := within(t, 60*time.Second)
		dir := shortDir(t)
		path, nowhere := filepath.Join(dir, "worker.sock"), filepath.Join(dir, "nowhere.sock")
		cfg := "global\n  stats socket " + path + " mode 600 level admin\n" + text(haproxytest.FreePort(t), "")
		i := h.Start(t, cfg, "r1")
		_, worker, err := New(i.Socket).Loaded(ctx, "r1")
		if err != nil {
			t.Fatal(err)
		}
		has := func(worker, want int) {
			t.Helper()
			_, rows, err := New(i.Socket).ServersState(ctx, worker)
			ready := 0
			for _, r := range rows {
				if r.Up && !r.Maint && r.Checked {
					ready++
				}
			}
			if err != nil || ready != want {
				t.Errorf("%d servers are ready, want %d, %v", ready, want, err)
			}
		}
		direct := New(nowhere).WithWorker(path) // it has no other way
		if err := direct.Apply(ctx, worker, rowOf(t, 0, 300)); err != nil {
			t.Fatal(err)
		}
		has(worker, 300)
		if err := direct.Apply(ctx, i.PID, rowOf(t, 300, 30)); !errors.Is(err, ErrNoWorker) {
			t.Errorf("another worker: %v", err)
		}
		has(worker, 300)
		refused := append(rowOf(t, 300, 20), rowOf(t, 7, 1)...)
		var change *ChangeError
		if err := direct.Apply(ctx, worker, refused); !errors.As(err, &change) || !strings.HasPrefix(change.Command, "add server be/s7 ") || change.Reply == "" {
			t.Errorf("a refused change: %v", err)
		}
		if err := New(i.Socket).WithWorker(nowhere).Apply(ctx, worker, rowOf(t, 400, 20)); err != nil {
			t.Errorf("through the master: %v", err)
		}
		has(worker, 340)

		i.Write(t, cfg, "r2")
		next, err := New(i.Socket).Reload(ctx, "r2")
		if err != nil {
			t.Fatal(err)
		}
		if err := direct.Apply(ctx, worker, rowOf(t, 0, 30)); !errors.Is(err, ErrNoWorker) {
			t.Errorf("the worker before: %v", err)
		}
		if err := direct.Apply(ctx, next, rowOf(t, 0, 30)); err != nil {
			t.Errorf("the worker after a reload: %v", err)
		}
		has(next, 30)
	})
}

// TestWorkerSocketFails: whatever answers there, each call ends, and nothing counts as done that was not confirmed.
func TestWorkerSocketFails(t *testing.T) {
	t.Parallel()
	hello := prompt + "Name: x\nPid: 7\n" + prompt
	for name, c := range map[string]struct {
		says  string
		holds bool // the connection stays open
		want  error
	}{
		"closed at once":      {"", false, ErrCut},
		"no prompt":           {"Name: x\nPid: 7\n", false, ErrCut},
		"another pid":         {strings.Replace(hello, "7", "77", 1), false, ErrNoWorker},
		"cut after the first": {hello + "New server registered.\n" + prompt + prompt, false, ErrCut},
		"silent":              {"", true, context.DeadlineExceeded},
		"silent later":        {hello + "New server registered.\n" + prompt, true, context.DeadlineExceeded},
		"endless":             {hello + strings.Repeat("x", 3*4096), true, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(shortDir(t), "w.sock")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Read(make([]byte, 100)) // so that nothing unread breaks the connection
				_, _ = io.WriteString(conn, c.says) // who has gone needs no answer
				if c.holds {
					_, _ = io.Copy(io.Discard, conn)
				}
				_ = conn.Close()
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if !c.holds {
				ctx = t.Context()
			}
			err = New(path+".none").WithWorker(path).Apply(ctx, 7, rowOf(t, 0, 20))
			if !errors.Is(err, c.want) && !(errors.Is(c.want, ErrCut) && errors.As(err, new(*net.OpError))) {
				t.Errorf("%v, want %v", err, c.want)
			}
			_ = l.Close()
			<-done
		})
	}
}
