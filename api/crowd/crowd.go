package crowd

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
)

// Crowd is the connections of one listener. Its methods, and those of its members, may be called by any goroutine.
type Crowd struct {
	most int

	mu    sync.Mutex
	order *list.List // of *Member, the longest without progress first
	peers map[netip.Prefix]int
}

// Member is a connection that is counted.
type Member struct {
	c     *Crowd
	conn  net.Conn
	peer  netip.Prefix
	place *list.Element // nil: it has left
}

// New makes an empty crowd of so many connections at most.
func New(most int) *Crowd {
	return &Crowd{most: most, order: list.New(), peers: map[netip.Prefix]int{}}
}

// Enter counts a connection of the peer at from, nil where all are one peer, and closes another where there are too many. Who serves that
// one sees its end.
func (c *Crowd) Enter(conn net.Conn, from net.Addr) *Member {
	m := &Member{c: c, conn: conn, peer: peerOf(from)}
	if out := c.add(m); out != nil {
		_ = out.conn.Close() // the error would be that it was closed already
	}
	return m
}

// add gives the member that must go for m, or nil.
func (c *Crowd) add(m *Member) (out *Member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.order.Len() >= c.most {
		out = c.longest()
		c.drop(out)
	}
	m.place = c.order.PushBack(m)
	c.peers[m.peer]++
	return out
}

// longest is the member without progress for the longest time, of the peer that has most; c.mu is held, and there is one.
func (c *Crowd) longest() *Member {
	most := 0
	for _, n := range c.peers {
		most = max(most, n)
	}
	e := c.order.Front()
	for c.peers[e.Value.(*Member).peer] < most {
		e = e.Next()
	}
	return e.Value.(*Member)
}

// drop forgets a member; c.mu is held.
func (c *Crowd) drop(m *Member) {
	c.order.Remove(m.place)
	m.place = nil
	if c.peers[m.peer]--; c.peers[m.peer] == 0 {
		delete(c.peers, m.peer)
	}
}

// Progress notes that the peer has sent or read something.
func (m *Member) Progress() {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if m.place != nil {
		m.c.order.MoveToBack(m.place)
	}
}

// Leave forgets the connection, which its owner closes. More than once is allowed, also of one that had to go.
func (m *Member) Leave() {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if m.place != nil {
		m.c.drop(m)
	}
}

// peerOf is whom a connection from there counts for: an IPv4 address, an IPv6 network of 64 bits (one host has all of it), or, where there is
// no such address, everybody.
func peerOf(from net.Addr) netip.Prefix {
	if from == nil {
		return netip.Prefix{}
	}
	at, err := netip.ParseAddrPort(from.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := at.Addr().Unmap().WithZone(""), 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
