package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// wish asks for something about a node: `"weight":5`.
func (b *Balancer) wish(n *Node, what string) {
	b.T.Helper()
	if err := call(b.Mgmt, http.MethodPut, "/1/lb/nodes", fmt.Sprintf(`{"node":%q,%s}`, n.Addr, what), nil); err != nil {
		b.T.Fatal(err)
	}
}

// told is a node of the full list.
type told struct {
	Node, State, Health string
	Weight              int
	Requests            *uint64
}

func (b *Balancer) full(n *Node) told {
	b.T.Helper()
	var list struct{ Nodes []told }
	if err := b.Get("/1/lb/nodes?full=1", &list); err != nil {
		b.T.Fatal(err)
	}
	for _, row := range list.Nodes {
		if row.Node == n.Addr {
			return row
		}
	}
	return told{}
}

// waitFull waits for a node to be in a state.
func (b *Balancer) waitFull(n *Node, health string) {
	b.T.Helper()
	b.Eventually(func() string {
		if row := b.full(n); row.Health != health {
			return fmt.Sprintf("%+v is not %s", row, health)
		}
		return ""
	})
	b.WaitApplied()
}

// waitFiles waits until the files are those of what is in force, which they follow a moment later, and what is kept of the nodes has these
// parts: an fnlb that is killed from then on leaves no doubt behind.
func (b *Balancer) waitFiles(parts ...string) {
	b.T.Helper()
	b.Eventually(func() string {
		text, err := os.ReadFile(filepath.Join(b.Dir, "haproxy.cfg"))
		noted, errNoted := os.ReadFile(filepath.Join(b.Dir, "applied.json"))
		kept, errKept := os.ReadFile(filepath.Join(b.Dir, "sources", "nodes.json"))
		if err := errors.Join(err, errNoted, errKept); err != nil {
			return err.Error()
		}
		if revision := (conf.Bundle{Main: text}).Revision(); string(text) != b.config() || !strings.Contains(string(noted), revision) || !containsAll(string(kept), parts) {
			return fmt.Sprintf("revision %s, noted %s, kept %s", revision, noted, kept)
		}
		return ""
	})
}

// share counts which node answers 300 paths.
func share(t *testing.T, b *Balancer) map[string]int {
	t.Helper()
	got := map[string]int{}
	for i := range 300 {
		status, node, _ := fetch(t, b.Traffic, fmt.Sprintf("/share/%d", i))
		if status != http.StatusOK {
			t.Fatalf("request %d: %d", i, status)
		}
		got[node]++
	}
	return got
}

// TestWeightsAndStates: a weight shifts requests, a node that drains and one in maintenance get no new ones while what runs there finishes,
// and all comes back, in one worker and without a lost request. What was asked for outlives a kill of fnlb, and is forgotten with the node.
func TestWeightsAndStates(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		b := Start(t, h, "--nodes", list(n...))
		b.WaitOnline(n...)
		worker := b.WaitApplied().HAProxy.Worker
		before := share(t, b)
		underLoad(t, b.Traffic, func() {
			b.wish(n[0], `"weight":20`)
			b.Eventually(func() string {
				if got := share(t, b); got["a"] < 200 {
					return fmt.Sprintf("with twenty times the weight %v", got)
				}
				return ""
			})
			b.wish(n[0], `"state":"drain"`)
			b.waitFull(n[0], "draining")
			if got := share(t, b); got["a"] != 0 {
				t.Errorf("while a drains %v", got)
			}
			if nodes, err := b.Nodes(); err != nil || nodes[n[0].Addr] != "offline" || nodes[n[1].Addr] != "online" {
				t.Errorf("the list is %v, %v", nodes, err)
			}
			b.wish(n[0], `"state":"ready","weight":1`)
			b.waitFull(n[0], "online")
			if got := share(t, b); fmt.Sprint(got) != fmt.Sprint(before) {
				t.Errorf("as it was before %v, and it was %v", got, before)
			}
		})
		stuck := occupy(t, b, n[1])
		b.wish(n[1], `"state":"maint"`)
		b.waitFull(n[1], "maintenance")
		if got := share(t, b); got["b"] != 0 || strings.Contains(b.config(), n[1].Addr) {
			t.Errorf("while b is in maintenance %v", got)
		}
		stuck.finish()
		b.wish(n[2], `"weight":7,"state":"drain"`)
		b.waitFull(n[2], "draining")
		b.waitFiles(`"drain"`, `"maint"`)
		b.Signal(syscall.SIGKILL)
		b.WaitExit()
		mark := len(b.Log())
		b.Run(h, "--nodes", list(n...))
		b.WaitLog(mark, "adopted the HAProxy", "reload=false")
		b.waitFull(n[0], "online")
		b.waitFull(n[1], "maintenance")
		b.waitFull(n[2], "draining")
		if row := b.full(n[2]); row.Weight != 7 || row.State != "drain" || row.Requests == nil {
			t.Errorf("after a restart %+v", row)
		}
		if got := share(t, b); got["a"] != 300 {
			t.Errorf("after a restart %v", got)
		}
		b.Delete(n[2].Addr)
		b.Put(n[2].Addr)
		b.wish(n[1], `"state":"ready"`)
		b.WaitOnline(n...)
		if row := b.full(n[2]); row.Weight != 1 || row.State != "ready" {
			t.Errorf("deleted and added again %+v", row)
		}
		if got := share(t, b); fmt.Sprint(got) != fmt.Sprint(before) {
			t.Errorf("in the end %v, and in the beginning %v", got, before)
		}
		b.WaitStatus(func(st model.Status) bool { return len(st.Problems) == 0 })
		if st := b.Status(); st.HAProxy.Worker != worker || strings.Contains(b.Log(), "msg=reloaded") {
			t.Errorf("worker %d where %d was", st.HAProxy.Worker, worker)
		}
	})
}
