package rpc

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
)

// end is a connection that only comes from somewhere and knows whether it was closed.
type end struct {
	net.Conn
	from net.Addr

	mu     sync.Mutex
	closed int
}

func (e *end) RemoteAddr() net.Addr { return e.from }

func (e *end) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed++
	return nil
}

func (e *end) open() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed == 0
}

func from(ip string) *end {
	return &end{from: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 1))}
}

// queue is a listener at which connections wait.
type queue struct {
	net.Listener
	waiting []*end
}

func (q *queue) Accept() (net.Conn, error) {
	if len(q.waiting) == 0 {
		return nil, net.ErrClosed
	}
	e := q.waiting[0]
	q.waiting = q.waiting[1:]
	return e, nil
}

// crowdOf lets all ends in, one after another.
func crowdOf(t *testing.T, most int, ends []*end) (*crowd, []net.Conn) {
	t.Helper()
	c := &crowd{Listener: &queue{waiting: ends}, most: most, of: map[netip.Prefix]int{}}
	conns := make([]net.Conn, len(ends))
	for i := range ends {
		var err error
		if conns[i], err = c.Accept(); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.members) > most {
		t.Errorf("%d are in, the most are %d", len(c.members), most)
	}
	return c, conns
}

func openOf(ends []*end) (open []int) {
	for i, e := range ends {
		if e.open() {
			open = append(open, i)
		}
	}
	return open
}

// TestCrowdOfOne: of a peer with thousands its own oldest go, and nobody else's.
func TestCrowdOfOne(t *testing.T) {
	ends := []*end{from("10.0.0.1"), from("10.0.0.2"), from("10.0.0.2")}
	for range 3000 {
		ends = append(ends, from("10.6.6.6"))
	}
	ends = append(ends, from("10.0.0.3"))
	c, conns := crowdOf(t, 1000, ends)
	open := openOf(ends)
	if len(open) != 1000 || !slices.Equal(open[:3], []int{0, 1, 2}) || open[3] != len(ends)-997 || open[999] != len(ends)-1 {
		t.Errorf("%d are open: %v … %v", len(open), open[:min(5, len(open))], open[max(0, len(open)-2):])
	}
	for _, conn := range conns { // also those that went already; more than once is allowed
		for range 2 {
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(c.members) != 0 || len(c.of) != 0 {
		t.Errorf("%d and %d are still counted", len(c.members), len(c.of))
	}
}

// TestCrowdOfMany: with one connection each the oldest goes.
func TestCrowdOfMany(t *testing.T) {
	ends := []*end{from("10.0.0.1"), from("10.0.0.2"), from("10.0.0.3"), from("10.0.0.4")}
	crowdOf(t, 3, ends)
	if open := openOf(ends); !slices.Equal(open, []int{1, 2, 3}) {
		t.Errorf("open are %v", open)
	}
}

// TestCrowdCounts: one that has closed makes room.
func TestCrowdCounts(t *testing.T) {
	ends := []*end{from("10.0.0.1"), from("10.0.0.1"), from("10.0.0.2")}
	c, conns := crowdOf(t, 3, ends)
	if err := conns[0].Close(); err != nil {
		t.Fatal(err)
	}
	if out := c.enter(&member{Conn: from("10.0.0.3"), c: c, peer: netip.MustParsePrefix("10.0.0.3/32")}); out != nil {
		t.Errorf("%s had to go although there was room", out.peer)
	}
}

// TestPeerOf: all that one host can have counts as one.
func TestPeerOf(t *testing.T) {
	for ip, want := range map[string]string{
		"10.0.0.1": "10.0.0.1/32", "::ffff:10.0.0.1": "10.0.0.1/32", "2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64", "::1": "::/64",
	} {
		if got := peerOf(from(ip)).String(); got != want {
			t.Errorf("%s counts for %s, want %s", ip, got, want)
		}
	}
	if got := peerOf(&end{from: &net.UnixAddr{Name: "@", Net: "unix"}}); got.IsValid() {
		t.Errorf("a socket counts for %s", got)
	}
}
