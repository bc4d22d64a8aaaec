package crowd

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

// enter lets all in, one after another.
func enter(t *testing.T, c *Crowd, ends []*end) []*Member {
	t.Helper()
	members := make([]*Member, len(ends))
	for i, e := range ends {
		members[i] = c.Enter(e, e.from)
		if c.order.Len() > c.most {
			t.Errorf("%d are in, the most are %d", c.order.Len(), c.most)
		}
	}
	return members
}

func openOf(ends []*end) (open []int) {
	for i, e := range ends {
		if e.open() {
			open = append(open, i)
		}
	}
	return open
}

// empty lets everybody leave.
func empty(t *testing.T, c *Crowd, members []*Member) {
	t.Helper()
	for _, m := range members { // also those that went already; more than once is allowed
		m.Leave()
		m.Leave()
		m.Progress()
	}
	if c.order.Len() != 0 || len(c.peers) != 0 {
		t.Errorf("%d and %d are still counted", c.order.Len(), len(c.peers))
	}
}

// TestOfOne: of a peer with thousands its own oldest go, and nobody else's.
func TestOfOne(t *testing.T) {
	ends := []*end{from("10.0.0.1"), from("10.0.0.2"), from("10.0.0.2")}
	for range 3000 {
		ends = append(ends, from("10.6.6.6"))
	}
	ends = append(ends, from("10.0.0.3"))
	c := New(1000)
	members := enter(t, c, ends)
	open := openOf(ends)
	if len(open) != 1000 || !slices.Equal(open[:3], []int{0, 1, 2}) || open[3] != len(ends)-997 || open[999] != len(ends)-1 {
		t.Errorf("%d are open: %v … %v", len(open), open[:min(5, len(open))], open[max(0, len(open)-2):])
	}
	empty(t, c, members)
}

// TestOfMany: with one connection each the oldest goes.
func TestOfMany(t *testing.T) {
	ends := []*end{from("10.0.0.1"), from("10.0.0.2"), from("10.0.0.3"), from("10.0.0.4")}
	c := New(3)
	members := enter(t, c, ends)
	if open := openOf(ends); !slices.Equal(open, []int{1, 2, 3}) {
		t.Errorf("open are %v", open)
	}
	empty(t, c, members)
}

// TestWhoGoes: the longest without progress, of the peer that has most.
func TestWhoGoes(t *testing.T) {
	big, small := "10.0.0.1", "10.0.0.2"
	ends := []*end{from(small), from(big), from(big), from(big), from(big), from(small), from(small), from(big)}
	c := New(4)
	members := enter(t, c, ends[:4])
	members[1].Progress()
	for i, goes := range []int{
		2, // 0 is older, but the only one of its peer; 1 has made progress
		3, // a new peer's connection pushes out one of the big one's
		0, // both have two: the older goes
	} {
		before := openOf(ends[:4+i])
		members = append(members, enter(t, c, ends[4+i:5+i])...)
		if after := openOf(ends[:4+i]); len(after) != len(before)-1 || slices.Contains(after, goes) {
			t.Errorf("for connection %d another than %d goes: of %v are open %v", 4+i, goes, before, after)
		}
	}
	members[4].Leave()
	before := openOf(ends)
	members = append(members, enter(t, c, ends[7:])...)
	if after := openOf(ends); !slices.Equal(after, before) {
		t.Errorf("somebody had to go although there was room: of %v are open %v", before, after)
	}
	empty(t, c, members)
}

// TestPeerOf: all that one host can have counts as one.
func TestPeerOf(t *testing.T) {
	for ip, want := range map[string]string{
		"10.0.0.1": "10.0.0.1/32", "::ffff:10.0.0.1": "10.0.0.1/32", "2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64", "::1": "::/64",
	} {
		if got := peerOf(from(ip).from).String(); got != want {
			t.Errorf("%s counts for %s, want %s", ip, got, want)
		}
	}
	if got := peerOf(&net.UnixAddr{Name: "@", Net: "unix"}); got.IsValid() {
		t.Errorf("a socket counts for %s", got)
	}
	if got := peerOf(nil); got.IsValid() {
		t.Errorf("nowhere counts for %s", got)
	}
}
