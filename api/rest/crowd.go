package rest

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// crowd bounds the connections of one listener without letting anybody lock others out. Nobody is turned away: when there is
// one too many, the connection goes that has made no progress for the longest time (an idle one, one whose headers or body do
// not come, or whose answer is not read), among those of the peer that has most. So one peer with thousands of connections
// only pushes out its own, and even from one address a request is served as long as it takes less time than maxConns new
// connections. Behind HAProxy's socket all connections are of one peer.
type crowd struct {
	most int

	mu      sync.Mutex
	members map[net.Conn]*list.Element
	order   *list.List // of *member, the longest without progress first
	peers   map[netip.Prefix]int
	closing bool // the listener ends: no connection may wait for its client

	alive sync.WaitGroup // connections whose goroutine runs, those that were pushed out among them
}

type member struct {
	conn net.Conn
	peer netip.Prefix
	busy bool // a handler runs
}

func newCrowd(most int) *crowd {
	return &crowd{most: most, members: map[net.Conn]*list.Element{}, order: list.New(), peers: map[netip.Prefix]int{}}
}

type memberKey struct{}

// enter is http.Server's ConnContext: it counts a new connection, and closes another for it when there are too many.
func (c *crowd) enter(ctx context.Context, conn net.Conn) context.Context {
	c.alive.Add(1)
	e, out := c.add(&member{conn: conn, peer: peer(conn)})
	if out != nil {
		// Its own goroutine sees the close and ends; the error would be that it was closed already.
		_ = out.Close()
	}
	return context.WithValue(ctx, memberKey{}, e)
}

// add returns the new member's place and the connection that must go for it, or nil.
func (c *crowd) add(m *member) (*list.Element, net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out net.Conn
	if len(c.members) >= c.most {
		out = c.evict()
	}
	if c.closing {
		out = m.conn
	}
	e := c.order.PushBack(m)
	c.members[m.conn] = e
	c.peers[m.peer]++
	return e, out
}

// observe is http.Server's ConnState.
func (c *crowd) observe(conn net.Conn, s http.ConnState) {
	if s != http.StateClosed && s != http.StateHijacked {
		return
	}
	c.mu.Lock()
	if e, ok := c.members[conn]; ok {
		c.drop(e)
	}
	c.mu.Unlock()
	c.alive.Done()
}

// close closes the connections that wait for their client, now and from now on.
func (c *crowd) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	for e := c.order.Front(); e != nil; e = e.Next() {
		if m := e.Value.(*member); !m.busy {
			_ = m.conn.Close() // as in enter
		}
	}
}

// begin notes that a request's headers are complete, and returns what to call at its end. Both are progress.
func (c *crowd) begin(ctx context.Context) func() {
	e, ok := ctx.Value(memberKey{}).(*list.Element)
	if !ok {
		return func() {}
	}
	c.progress(e, true)
	return func() { c.progress(e, false) }
}

func (c *crowd) progress(e *list.Element, busy bool) {
	m := e.Value.(*member)
	c.mu.Lock()
	m.busy = busy
	if c.members[m.conn] == e {
		c.order.MoveToBack(e)
	}
	c.mu.Unlock()
}

// evict takes out a member and returns its connection to close; c.mu is held.
func (c *crowd) evict() net.Conn {
	most := 0
	for _, n := range c.peers {
		most = max(most, n)
	}
	for e := c.order.Front(); e != nil; e = e.Next() {
		if m := e.Value.(*member); c.peers[m.peer] == most {
			c.drop(e)
			return m.conn
		}
	}
	return nil
}

// drop forgets a member; c.mu is held.
func (c *crowd) drop(e *list.Element) {
	m := e.Value.(*member)
	c.order.Remove(e)
	delete(c.members, m.conn)
	if c.peers[m.peer]--; c.peers[m.peer] == 0 {
		delete(c.peers, m.peer)
	}
}

// peer is whom a connection counts for: an IPv4 address, an IPv6 network of 64 bits (one host has all of it), or, for a Unix
// socket, everybody. (The address in a PROXY header is not here yet, and must not be waited for.)
func peer(conn net.Conn) netip.Prefix {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return netip.Prefix{}
	}
	addr, ok := tcp.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := addr.AddrPort().Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
