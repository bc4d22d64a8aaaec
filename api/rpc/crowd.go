package rpc

import (
	"net"
	"net/netip"
	"sync"
)

// crowd bounds the connections of a listener. When there is one too many, the peer that has most of them loses its oldest; so one peer with
// thousands only pushes out its own.
type crowd struct {
	net.Listener
	most int

	mu      sync.Mutex
	members []*member // the oldest first
	of      map[netip.Prefix]int
}

// member is a connection that is counted.
type member struct {
	net.Conn
	c    *crowd
	peer netip.Prefix
}

// Accept waits for a connection and closes another for it where there are too many.
func (c *crowd) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	m := &member{Conn: conn, c: c, peer: peerOf(conn)}
	if out := c.enter(m); out != nil {
		_ = out.Conn.Close() // its own goroutine sees the end; the error would be that it was closed already
	}
	return m, nil
}

// enter counts m and gives the one that must go for it, or nil.
func (c *crowd) enter(m *member) (out *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members = append(c.members, m)
	c.of[m.peer]++
	if len(c.members) <= c.most {
		return nil
	}
	most := 0
	for _, n := range c.of {
		most = max(most, n)
	}
	for _, o := range c.members {
		if c.of[o.peer] == most {
			c.drop(o)
			return o
		}
	}
	return nil
}

// drop forgets a member, if it is there; c.mu is held.
func (c *crowd) drop(m *member) {
	for i, o := range c.members {
		if o != m {
			continue
		}
		c.members = append(c.members[:i], c.members[i+1:]...)
		if c.of[m.peer]--; c.of[m.peer] == 0 {
			delete(c.of, m.peer)
		}
		return
	}
}

// Close ends the connection; more than once is allowed.
func (m *member) Close() error {
	m.c.mu.Lock()
	m.c.drop(m)
	m.c.mu.Unlock()
	return m.Conn.Close()
}

// peerOf is whom a connection counts for: an IPv4 address, or an IPv6 network of 64 bits, all of which one host has.
func peerOf(conn net.Conn) netip.Prefix {
	at, err := netip.ParseAddrPort(conn.RemoteAddr().String())
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
