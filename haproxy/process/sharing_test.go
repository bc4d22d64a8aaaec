package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// TestSharing: another HAProxy on our port starts without a word; it is found and named, and forgotten when it has gone.
func TestSharing(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		id := b.start()
		text, err := os.ReadFile(filepath.Join(b.dir, "haproxy.cfg"))
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := conf.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		var s Sharing
		look := func(pids ...int) string {
			t.Helper()
			found, err := s.Look(parsed.Binds(), pids)
			if err != nil {
				t.Fatal(err)
			}
			return strings.Join(found, " ")
		}
		for range 2 {
			if got := look(id.Master, id.Worker); got != "" {
				t.Errorf("alone: %s", got)
			}
		}
		worker, err := b.reload("r1") // its listeners are the same sockets
		if err != nil {
			t.Fatal(err)
		}
		if got := look(id.Master, worker); got != "" {
			t.Errorf("after a reload: %s", got)
		}
		other := h.Start(t, string(text), "x")
		got := look(id.Master, worker)
		if !strings.HasPrefix(got, b.addr+": haproxy (pid ") || strings.Contains(got, fmt.Sprint(worker)) {
			t.Errorf("with process %d: %s", other.PID, got)
		}
	})
}
