package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// colliding starts two nodes on a port whose ids are the same when each stands alone, so that the lower address takes the other's place on
// the ring of HAProxy before 3.0.
func colliding(t *testing.T, port uint16) (lower, higher *Node) {
	t.Helper()
	seen := map[uint32]netip.AddrPort{}
	for i := 1; i < 1<<16; i++ {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), port)
		id := conf.RingIDs([]netip.AddrPort{a})[0]
		if b, ok := seen[id]; ok {
			return NewNodeAt(t, "lower", b.String()), NewNodeAt(t, "higher", a.String())
		}
		seen[id] = a
	}
	t.Fatal("no two addresses collide")
	return nil, nil
}

// owners says which node answers each of 2,000 paths.
func owners(t *testing.T, addr string) map[string]string {
	t.Helper()
	tr := &http.Transport{MaxIdleConnsPerHost: 1}
	defer tr.CloseIdleConnections()
	found := map[string]string{}
	for i := range 2000 {
		path := fmt.Sprintf("/r/app%d/fn%d", i%40, i)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %v", path, resp.StatusCode, err)
		}
		found[path] = resp.Header.Get("X-Node")
	}
	return found
}

// TestSameRing: which node gets a path does not depend on how a balancer came by its nodes. One that was started with them is compared with
// one where they came at run time in another order, went and came again, which was reloaded, and whose fnlb was killed and adopted it. Two of
// the nodes have one id, which may cost reloads for that reason and no other.
func TestSameRing(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := []*Node{NewNode(t, "0")}
		port := netip.MustParseAddrPort(n[0].Addr).Port()
		for i := range 7 {
			n = append(n, NewNodeAt(t, fmt.Sprint(i+1), fmt.Sprintf("127.0.3.%d:%d", i+1, port)))
		}
		lower, higher := colliding(t, port)
		n = append(n, lower, higher)
		first := Start(t, h, "--nodes", list(n...))
		first.WaitOnline(n...)
		first.WaitApplied()
		want := owners(t, first.Traffic)
		shares := map[string]int{}
		for _, owner := range want {
			shares[owner]++
		}
		if len(shares) != len(n) {
			t.Fatalf("not all nodes have paths: %v", shares)
		}

		tmpl := filepath.Join(TempDir(t), "haproxy.tmpl")
		touchTemplate(t, tmpl, 0)
		args := []string{"--nodes", list(n[:2]...), "--template", tmpl}
		b := Start(t, h, args...)
		same := func(b *Balancer, when string) {
			t.Helper()
			b.WaitOnline(n...)
			b.WaitApplied()
			moved := 0
			for path, owner := range owners(t, b.Traffic) {
				if owner != want[path] {
					moved++
				}
			}
			if moved > 0 {
				t.Errorf("%s: %d of %d paths have another node", when, moved, len(want))
			}
		}
		b.WaitOnline(n[:2]...)
		b.WaitApplied()
		seed := rand.Uint64()
		t.Logf("order by seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 0))
		// One after the other, and the lower of those that collide when the higher has its place.
		here := n[:2:2]
		for _, at := range append(r.Perm(len(n)-4), len(n)-3, len(n)-4) {
			x := n[at+2]
			b.Put(x.Addr)
			here = append(here, x)
			b.WaitOnline(here...)
			b.WaitApplied()
		}
		same(b, "added at run time")
		for range 2 {
			gone := map[*Node]bool{}
			for _, at := range r.Perm(len(n) - 2)[:3] {
				gone[n[at+2]] = true
			}
			gone[lower] = true
			var left []*Node
			for _, x := range n {
				if gone[x] {
					b.Delete(x.Addr)
				} else {
					left = append(left, x)
				}
			}
			b.WaitOnline(left...)
			b.WaitApplied()
			for _, at := range r.Perm(len(n)) {
				if gone[n[at]] {
					b.Put(n[at].Addr)
				}
			}
			same(b, "removed and added again")
		}
		collisions, others := b.otherReloads()
		if len(others) > 0 {
			t.Errorf("%d reloads for an id-collision, and %+v", collisions, others)
		}
		t.Logf("%d reloads for an id-collision", collisions)
		mark := len(b.Log())
		touchTemplate(t, tmpl, 1)
		b.Signal(syscall.SIGHUP)
		b.WaitLog(mark, "msg=reloaded", "settings")
		same(b, "reloaded")
		b.waitFiles()
		for _, x := range n[2:] {
			b.waitFiles(`"` + strings.Split(x.Addr, ":")[0])
		}
		b.kill()
		mark = len(b.Log())
		b.Run(h, args...)
		b.WaitLog(mark, "adopted the HAProxy", "reload=false")
		same(b, "adopted")

		first.Signal(syscall.SIGTERM)
		first.WaitExit()
		first.Run(h, "--nodes", list(n[9], n[3], n[8], n[0], n[1], n[7], n[2], n[5], n[6], n[4]))
		same(first, "started again, in another order")
	})
}
