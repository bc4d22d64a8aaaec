package stores

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/e2e"
)

// full reports whether figures of the full size are asked for.
func full() bool { return os.Getenv("FNLB_E2E_FULL") != "" }

// said is what the answers about a node say.
type said uint8

const (
	unknown said = iota // the last call was not answered
	there
	gone
)

// writer adds and deletes nodes of its own, and notes what was answered.
type writer struct {
	first int // port
	nodes [20]said
	calls int
}

func (w *writer) node(i int) string { return fmt.Sprintf("127.0.0.1:%d", w.first+i) }

// write goes on until a call is not answered.
func (w *writer) write(ctx context.Context, b *e2e.Balancer, answered *atomic.Int64) {
	for {
		i := rand.IntN(len(w.nodes))
		method, then := http.MethodPut, there
		if w.nodes[i] == there {
			method, then = http.MethodDelete, gone
		}
		w.nodes[i] = unknown
		a, err := ask(ctx, b, method, "/1/lb/nodes", fmt.Sprintf(`{"node":%q}`, w.node(i)))
		if err != nil || a.status != http.StatusOK {
			return
		}
		w.nodes[i] = then
		w.calls++
		answered.Add(1)
	}
}

// judge compares a list with what was answered.
func (w *writer) judge(t *testing.T, list map[string]string) {
	t.Helper()
	for i, s := range w.nodes {
		if _, listed := list[w.node(i)]; s == there && !listed || s == gone && listed {
			t.Errorf("node %s: answered %d, listed %v", w.node(i), s, listed)
		}
	}
}

// TestKilled: fnlb is killed while it writes; what was answered is there after the next start.
func TestKilled(t *testing.T) {
	rounds, writers := 3, 4
	if full() {
		rounds = 200
	}
	each(t, func(t *testing.T, h haproxytest.HAProxy, db database) {
		if full() && h.Version != "3.0" {
			return
		}
		b := db.start(t, h)
		all := make([]*writer, writers)
		for i := range all {
			all[i] = &writer{first: 20_000 + 100*i}
		}
		for range rounds {
			var answered atomic.Int64
			var writing sync.WaitGroup
			for _, w := range all {
				writing.Go(func() { w.write(t.Context(), b, &answered) })
			}
			enough := 5 + rand.Int64N(100)
			b.Eventually(func() string {
				if n := answered.Load(); n < enough {
					return fmt.Sprintf("%d answers, %d are awaited", n, enough)
				}
				return ""
			})
			b.Signal(syscall.SIGKILL)
			b.WaitExit()
			writing.Wait()
			db.run(b, h)
			b.Eventually(func() string { // the last known ones are listed before the database was read
				loaded := b.Status()
				for _, s := range loaded.Sources {
					if s.Name == "nodes" && !s.Up {
						return s.Reason
					}
				}
				return ""
			})
			list, err := b.Nodes()
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range all {
				w.judge(t, list)
			}
		}
		calls := 0
		for _, w := range all {
			calls += w.calls
		}
		t.Logf("figure: %s %s: killed %d times, %d answered calls", db.kind, h.Version, rounds, calls)
	})
}
