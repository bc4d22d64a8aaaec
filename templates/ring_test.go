package templates

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

const ringPaths = 2000

// colliding finds a pair of addresses 127.1.x.y with this port whose ids are the same when each stands alone.
func colliding(t *testing.T, port uint16) (lower, higher netip.AddrPort) {
	t.Helper()
	seen := map[uint32]netip.AddrPort{}
	for i := 1; i < 1<<16; i++ {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), port)
		id := conf.RingIDs([]netip.AddrPort{a})[0]
		if b, ok := seen[id]; ok {
			return b, a
		}
		seen[id] = a
	}
	t.Fatal("no two addresses collide")
	return
}

// fleet is one HTTP server on several loopback addresses with one port, that answers with the address it was reached at.
func fleet(t *testing.T, n int) (nodes []netip.AddrPort, lower, higher netip.AddrPort) {
	t.Helper()
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listeners := []net.Listener{first}
	port := first.Addr().(*net.TCPAddr).AddrPort().Port()
	lower, higher = colliding(t, port)
	nodes = []netip.AddrPort{lower, higher}
	for i := range n - 3 {
		nodes = append(nodes, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(i + 1)}), port))
	}
	for _, a := range nodes {
		l, err := net.Listen("tcp", a.String())
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	nodes = append(nodes, first.Addr().(*net.TCPAddr).AddrPort())
	var all sync.WaitGroup
	for _, l := range listeners {
		all.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
					return
				}
				all.Go(func() { tell(c) })
			}
		})
	}
	t.Cleanup(func() {
		for _, l := range listeners {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
		all.Wait() // HAProxy was stopped before, and with it the connections
	})
	return nodes, lower, higher
}

// tell answers each request of a connection with the address it came to; the requests have no body.
func tell(c net.Conn) {
	defer c.Close() //nolint:errcheck // HAProxy may have been first
	name := c.LocalAddr().String()
	answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Node: %s\r\nContent-Length: 0\r\n\r\n", name)
	checked := "HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{\"version\":\"1.0.0\"}"
	check := false
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		if bytes.HasPrefix(line, []byte("GET /version ")) {
			check = true
		}
		if len(line) > 2 {
			continue
		}
		text := answer
		if check {
			text, check = checked, false
		}
		if _, err := io.WriteString(c, text); err != nil {
			return
		}
	}
}

// owners asks for n paths over one connection and says which node answered each.
func owners(t *testing.T, port, n int, form func(path string) string) map[string]string {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // the test is over with it
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	found := make(map[string]string, n)
	for i := range n {
		path := fmt.Sprintf("/r/app%d/fn%d", i%40, i)
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", form(path)); err != nil {
			t.Fatal(err)
		}
		for first := true; ; first = false {
			line, err := r.ReadString('\n')
			if err != nil || first && line != "HTTP/1.1 200 OK\r\n" {
				t.Fatalf("%s: %q, %v", path, line, err)
			}
			if name, value, _ := strings.Cut(line, ": "); strings.EqualFold(name, "x-node") {
				found[path] = strings.TrimSpace(value)
			}
			if line == "\r\n" {
				break
			}
		}
	}
	return found
}

// disagree says how many paths of some have another owner in all.
func disagree(some, all map[string]string) int {
	n := 0
	for path, owner := range some {
		if all[path] != owner {
			n++
		}
	}
	return n
}

func asIs(path string) string { return path }

// TestRing shows that the nodes alone decide which of them gets a path: not their order, not a restart, not the query or the
// form of the URI; and that taking one away moves nothing but its own paths.
func TestRing(t *testing.T) {
	t.Parallel()
	nodes, lower, higher := fleet(t, 10)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		run := func(s model.State) *haproxytest.Instance { return start(t, h, s, sampleGlobals()) }
		ports := holdPorts(t, 6)
		run(sample(ports[0], nodes...))
		want := owners(t, ports[0], ringPaths, asIs)
		shares := map[string]int{}
		for _, n := range want {
			shares[n]++
		}
		for _, n := range nodes { // a tenth each; the ring's points spread unevenly
			if share := shares[n.String()]; share < ringPaths/50 || share > ringPaths/4 {
				t.Errorf("%s has %d of %d paths", n, share, ringPaths)
			}
		}
		if again := owners(t, ports[0], 300, func(p string) string { return p + "?q=" + fmt.Sprint(rand.Int()) }); disagree(again, want) > 0 {
			t.Error("the query moves paths")
		}
		if again := owners(t, ports[0], 300, func(p string) string { return "http://h" + p }); disagree(again, want) > 0 {
			t.Error("an absolute URI moves paths")
		}
		shuffled := slices.Clone(nodes)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		run(sample(ports[1], shuffled...)) // another process: a restart as well
		if again := owners(t, ports[1], ringPaths, asIs); !maps.Equal(again, want) {
			t.Error("another order of the nodes and a restart move paths")
		}
		// Before 3.0, the lower of two colliding nodes has the place that the higher would have alone.
		gone := []netip.AddrPort{nodes[len(nodes)-1], nodes[4], higher}
		if h.AtLeast(3, 0) {
			gone = append(gone, lower)
		}
		for i, g := range gone {
			run(sample(ports[2+i], slices.DeleteFunc(slices.Clone(nodes), func(n netip.AddrPort) bool { return n == g })...))
			moved := 0
			for path, n := range owners(t, ports[2+i], ringPaths, asIs) {
				if n != want[path] {
					moved++
					if want[path] != g.String() {
						t.Fatalf("without %s, %s moved from %s to %s", g, path, want[path], n)
					}
				}
			}
			if moved != shares[g.String()] {
				t.Errorf("without %s, %d paths moved; it had %d", g, moved, shares[g.String()])
			}
		}
	})
}

// TestRingAfterReload shows that a reload, with another order in the State, moves nothing.
func TestRingAfterReload(t *testing.T) {
	t.Parallel()
	nodes, _, _ := fleet(t, 5)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		port := holdPort(t)
		i := start(t, h, sample(port, nodes...), sampleGlobals())
		want := owners(t, port, ringPaths, asIs)
		turned := slices.Clone(nodes)
		slices.Reverse(turned)
		i.Write(t, render(t, sample(port, turned...), sampleGlobals(), h.Version), "r2")
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		if _, err := i.Ask("reload"); err != nil {
			t.Log(err) // 2.6 executes itself anew and may close the socket
		}
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for { // the serving worker is @1 in the new numbering of each version
			if out, err := i.Ask("@1 show env FNLB_REVISION"); err == nil && strings.Contains(out, "=r2\n") {
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("the reload was not seen\n%s", i.Output())
			}
		}
		if again := owners(t, port, ringPaths, asIs); !maps.Equal(again, want) {
			t.Error("the reload moved paths")
		}
	})
}
