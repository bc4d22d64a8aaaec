package process

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

func (b *bed) outside(binary string) *External {
	return NewExternal(b.c.o.Socket, binary, slog.New(slog.DiscardHandler))
}

func goneFrom(t *testing.T, e *External) string {
	t.Helper()
	select {
	case err := <-e.Exited():
		return err.Error()
	case <-time.After(patience):
		t.Fatal("its end is not seen")
		return ""
	}
}

// TestExternal: it is waited for, its end and its return are seen, and nothing of ours ends it.
func TestExternal(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		e := b.outside(h.Path)
		ctx, cancel := context.WithTimeout(t.Context(), 3*externalLook)
		defer cancel()
		if _, err := e.Start(ctx, ""); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), b.c.o.Socket) {
			t.Errorf("without any: %v", err)
		}
		found := make(chan Identity, 1)
		go func() {
			id, err := e.Start(t.Context(), "")
			if err != nil {
				t.Error(err)
			}
			found <- id
		}()
		was := b.start()
		if id := <-found; id.Master != was.Master || id.Ticks != was.Ticks {
			t.Errorf("%+v, not %+v", id, was)
		}
		if _, err := b.reload("r1"); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-e.Exited():
			t.Errorf("a reload is no end: %v", err)
		case <-time.After(5 * externalLook):
		}
		b.signal(was.Master, syscall.SIGTERM)
		if got := goneFrom(t, e); !strings.Contains(got, "has ended") {
			t.Error(got)
		}
		b.ended()
		was = b.start()
		if id, err := e.Start(t.Context(), ""); err != nil || id.Master != was.Master {
			t.Errorf("%+v, %v", id, err)
		}
		if err := e.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		e.Supersede()
		if err := e.TrimLog(); err != nil || !alive(was.Master) {
			t.Errorf("%v, alive %v", err, alive(was.Master))
		}
	})
}

// TestExternalUnseen: where its process cannot be seen, its socket tells: a reload is none, another master and silence are the end.
func TestExternalUnseen(t *testing.T) {
	t.Parallel() // it waits most of its time
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		b.start()
		e := b.outside("")
		e.attach(0)
		defer e.release()
		time.Sleep(2 * externalAsk) // until it has an age
		if _, err := b.reload("r1"); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-e.Exited():
			t.Errorf("a reload is no end: %v", err)
		case <-time.After(2 * externalAsk):
		}
		binds := []conf.Bind{{Raw: "x", IP: netip.MustParseAddr("127.0.0.1"), Port: 1, Checkable: true}}
		if untried, err := e.CheckBinds(nil, binds, nil); err != nil || len(untried) != 1 {
			t.Errorf("%v, %v", untried, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := b.c.Stop(ctx); err != nil {
			t.Error(err)
		}
		b.ended()
		b.start()
		if got := goneFrom(t, e); !strings.Contains(got, "another one") {
			t.Error(got)
		}
		e.attach(0)
		if err := b.c.Stop(ctx); err != nil {
			t.Error(err)
		}
		b.ended()
		if got := goneFrom(t, e); !strings.Contains(got, "nobody has answered") {
			t.Error(got)
		}
	})
}

// TestExternalElsewhere: of a HAProxy in a network and with process numbers of its own, as in a container, nothing is tried here.
func TestExternalElsewhere(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		cmd := exec.Command("unshare", append([]string{"--net", "--pid", "--fork", "--kill-child", h.Path}, b.c.args()...)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		e := b.outside(h.Path)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := e.Start(ctx, ""); err != nil {
			t.Fatal(err)
		}
		binds := []conf.Bind{{Raw: "x", IP: netip.MustParseAddr("127.0.0.1"), Port: 1, Checkable: true}}
		if untried, err := e.CheckBinds(nil, binds, nil); err != nil || len(untried) != 1 {
			t.Errorf("%v, %v", untried, err)
		}
		if found, err := e.Watcher()(binds, nil); err != nil || len(found) > 0 {
			t.Errorf("%v, %v", found, err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // it was killed
		goneFrom(t, e)
	})
}

// TestExternalCheck: a text is checked by a binary of the version that runs, and by none other.
func TestExternalCheck(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("global\n  bogus 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		a, err := ReadAbilities(t.Context(), h.Path)
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct{ binary, version, why string }{
			{h.Path, a.Version, ""}, {h.Path, "2.9.1", "2.9.1 runs"}, {"", a.Version, "no HAProxy here"}, {"/nonexistent", a.Version, "no such file"},
		} {
			e := NewExternal("/x", test.binary, slog.New(slog.DiscardHandler))
			e.Running(test.version)
			if got := e.Unchecked(); got != test.why && (test.why == "" || !strings.Contains(got, test.why)) {
				t.Errorf("%+v: %q", test, got)
			}
			var refused *CheckError
			if _, err := e.Check(t.Context(), bad); errors.As(err, &refused) != (test.why == "") {
				t.Errorf("%+v: %v", test, err)
			}
		}
	})
}
