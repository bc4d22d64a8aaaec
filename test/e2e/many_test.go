package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// TestManyAtOnce: many nodes in one change go to the worker itself, by a socket of its own; without that they come all the same.
func TestManyAtOnce(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		b := Start(t, h, "--nodes", list(n...))
		b.WaitOnline(n...)
		b.WaitApplied()
		var more []*Node
		for i := range 12 {
			more = append(more, NewNode(t, fmt.Sprintf("more%d", i)))
		}
		together := func() {
			t.Helper()
			b.brake(http.MethodPut, "/1/lb/freeze", `{"reason":"test"}`)
			for _, m := range more {
				b.Put(m.Addr)
			}
			b.Eventually(func() string {
				servers := b.Status().Servers
				if len(servers) != len(n)+len(more) {
					return fmt.Sprintf("%d servers are known", len(servers))
				}
				for _, s := range servers {
					if s.LastCheck == "" {
						return s.Name + " was not checked yet"
					}
				}
				return ""
			})
			b.brake(http.MethodDelete, "/1/lb/freeze", "")
			b.WaitOnline(append(n, more...)...)
		}
		path := filepath.Join(b.Dir, "private", "worker.sock")
		if err := os.Rename(path, path+".real"); err != nil {
			t.Fatal(err)
		}
		passed := passOn(t, path, path+".real")
		together()
		if passed.Load() != 1 {
			t.Errorf("%d connections to the worker", passed.Load())
		}
		for _, m := range more {
			b.Delete(m.Addr)
		}
		b.WaitOnline(n...)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		together()
		if passed.Load() != 1 || b.reloads() != 0 {
			t.Errorf("%d connections to the worker, %d reloads", passed.Load(), b.reloads())
		}
	})
}

// passOn hands connections at path on to another socket, and counts them.
func passOn(t *testing.T, path, to string) *atomic.Int32 {
	t.Helper()
	var passed atomic.Int32
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
				return
			}
			passed.Add(1)
			dest, err := net.Dial("unix", to)
			if err != nil {
				t.Error(err)
				_ = from.Close()
				continue
			}
			all.Go(func() {
				_, _ = io.Copy(dest, from) // until the client has gone
				_ = dest.Close()
			})
			all.Go(func() {
				_, _ = io.Copy(from, dest)
				_ = from.Close()
			})
		}
	})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		all.Wait()
	})
	return &passed
}
