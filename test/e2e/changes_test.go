package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/model"
)

// wanted is what nodes shall be: the weight of each by its address, 0 where it drains. One in maintenance is not there.
type wanted map[string]int

// rowsAt asks a HAProxy, by its master socket, what servers its worker has and what it says about itself.
func rowsAt(t *testing.T, socket string) (worker int, rows []runtime.ServerState, err error) {
	client := runtime.New(socket)
	_, worker, _, err = client.Serving(t.Context())
	if err == nil {
		_, rows, err = client.ServersState(t.Context(), worker)
	}
	return worker, rows, err
}

// waitConverged waits until what is wanted, what the worker behind the socket has and what the file says are the same, with nothing left over
// and nothing degraded. An fnlb that serves is meant.
func (b *Balancer) waitConverged(socket string, want wanted) {
	b.T.Helper()
	b.Eventually(func() string {
		var st model.Status
		if err := b.Get("/1/lb/status", &st); err != nil {
			return err.Error()
		}
		if st.Wanted != st.Applied || st.HAProxy.Behind || len(st.Degraded) > 0 || st.Phase != model.Serving {
			return fmt.Sprintf("phase %s, wanted %d, applied %d, behind %v, degraded %v", st.Phase, st.Wanted, st.Applied, st.HAProxy.Behind, st.Degraded)
		}
		text, err := os.ReadFile(b.Config)
		if err != nil {
			return err.Error()
		}
		parsed, err := conf.Parse(text)
		if err != nil {
			return err.Error()
		}
		file := wanted{}
		for _, p := range parsed.Pools() {
			for _, m := range p.Members {
				if p.Name == "nodes" {
					file[m.Addr.String()] = m.Weight
				}
			}
		}
		if !maps.Equal(file, want) {
			return fmt.Sprintf("the file has %v, wanted is %v", file, want)
		}
		worker, rows, err := rowsAt(b.T, socket)
		if err != nil || worker != st.HAProxy.Worker {
			return fmt.Sprintf("worker %d serves, fnlb says %d: %v", worker, st.HAProxy.Worker, err)
		}
		has := wanted{}
		for _, r := range rows {
			if r.Backend != "nodes" {
				continue
			}
			if r.Maint || !r.Up {
				return fmt.Sprintf("%+v", r)
			}
			has[r.Addr.String()] = r.Weight
		}
		if !maps.Equal(has, want) {
			return fmt.Sprintf("the worker has %v, wanted is %v", has, want)
		}
		return ""
	})
}

// wish is what was asked for about one node.
type wish struct {
	weight int
	state  string // as the API calls it
}

// wishes are those of all nodes that are listed, by address.
type wishes map[string]wish

func (w wishes) wanted() wanted {
	out := wanted{}
	for addr, x := range w {
		switch x.state {
		case "ready":
			out[addr] = x.weight
		case "drain":
			out[addr] = 0
		}
	}
	return out
}

// change asks for one change of a node, at random.
func (w wishes) change(b *Balancer, r *rand.Rand, n *Node) {
	b.T.Helper()
	x, listed := w[n.Addr]
	if !listed {
		x = wish{1, "ready"}
	}
	switch op := r.IntN(6); {
	case op == 0 && listed:
		b.Delete(n.Addr)
		delete(w, n.Addr)
		return
	case op <= 1:
		b.Put(n.Addr)
	case op == 2:
		x.weight = 1 + r.IntN(256)
		b.wish(n, fmt.Sprintf(`"weight":%d`, x.weight))
	default:
		x.state = []string{"drain", "ready", "maint"}[op-3]
		b.wish(n, fmt.Sprintf(`"state":%q`, x.state))
	}
	w[n.Addr] = x
}

// otherReloads are those that no two ids on one place explain.
func (b *Balancer) otherReloads() (collisions int, others []model.Apply) {
	b.T.Helper()
	for _, c := range b.changes() {
		switch {
		case c.Method != model.Reload:
		case strings.Contains(fmt.Sprint(c.Reasons), "id-collision"):
			collisions++
		default:
			others = append(others, c)
		}
	}
	return collisions, others
}

// TestRandomChanges is fault row 15: changes of all kinds in a row, as fast as they are taken and now and then one alone, cost no request and
// no reload, and in the end all is as it was asked for. FNLB_E2E_FULL=1 makes 10,000 in place of 300; FNLB_SEED is where it begins.
func TestRandomChanges(t *testing.T) {
	count, seed := 300, times(t, "FNLB_SEED", 1)
	if os.Getenv("FNLB_E2E_FULL") != "" {
		count = 10_000
	}
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		r := rand.New(rand.NewPCG(uint64(seed), 15))
		n := three(t)
		b := Start(t, h, "--nodes", list(n...))
		b.WaitOnline(n...)
		worker, socket := b.WaitApplied().HAProxy.Worker, b.Dir+"/private/master.sock"
		all := wishes{}
		for _, x := range n {
			all[x.Addr] = wish{1, "ready"}
		}
		var come []*Node
		for i := range 6 {
			come = append(come, NewNode(t, string(rune('d'+i))))
		}
		result := underLoad(t, b.Traffic, func() {
			for i := range count {
				all.change(b, r, come[r.IntN(len(come))])
				if i%50 == 49 {
					b.waitConverged(socket, all.wanted())
				}
			}
			b.waitConverged(socket, all.wanted())
		})
		collisions, others := b.otherReloads()
		reloaded := strings.Count(b.Log(), "msg=reloaded")
		t.Logf("seed %d: %d changes, %d reloads of which id-collision %d in the last changes; %s", seed, count, reloaded, collisions, result)
		if len(others) > 0 || reloaded > 0 && h.AtLeast(3, 0) || reloaded == 0 && b.Status().HAProxy.Worker != worker {
			t.Errorf("seed %d: %d reloads: %+v", seed, reloaded, others)
		}
		for _, line := range slices.Collect(strings.Lines(b.Log())) {
			if strings.Contains(line, "msg=reloaded") && !strings.Contains(line, "id-collision") || strings.Contains(line, "level=ERROR") {
				t.Errorf("seed %d: %s", seed, line)
			}
		}
	})
}
