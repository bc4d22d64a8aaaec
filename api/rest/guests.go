package rest

import (
	"context"
	"net"
	"net/http"
	"sync"

	"github.com/fnlb/fnlb/api/crowd"
)

// guests are the connections of one listener, among which a running request is progress. Behind HAProxy's socket all are of one peer.
type guests struct {
	crowd *crowd.Crowd

	mu      sync.Mutex
	of      map[net.Conn]*guest
	closing bool // the listener ends: no connection may wait for its client

	alive sync.WaitGroup // connections whose goroutine runs, those that had to go among them
}

type guest struct {
	*crowd.Member
	busy bool // a handler runs
}

func newGuests(most int) *guests {
	return &guests{crowd: crowd.New(most), of: map[net.Conn]*guest{}}
}

type guestKey struct{}

// enter is http.Server's ConnContext: it counts a new connection.
func (g *guests) enter(ctx context.Context, conn net.Conn) context.Context {
	g.alive.Add(1)
	var from net.Addr // others wait for a PROXY header before they say where they come from
	if tcp, ok := conn.(*net.TCPConn); ok {
		from = tcp.RemoteAddr()
	}
	n := &guest{Member: g.crowd.Enter(conn, from)}
	g.mu.Lock()
	g.of[conn] = n
	closing := g.closing
	g.mu.Unlock()
	if closing {
		_ = conn.Close() // its own goroutine sees the end; the error would be that it was closed already
	}
	return context.WithValue(ctx, guestKey{}, n)
}

// observe is http.Server's ConnState.
func (g *guests) observe(conn net.Conn, s http.ConnState) {
	if s != http.StateClosed && s != http.StateHijacked {
		return
	}
	g.mu.Lock()
	n := g.of[conn]
	delete(g.of, conn)
	g.mu.Unlock()
	if n != nil {
		n.Leave()
	}
	g.alive.Done()
}

// close closes the connections that wait for their client, now and from now on.
func (g *guests) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closing = true
	for conn, n := range g.of {
		if !n.busy {
			_ = conn.Close() // as in enter
		}
	}
}

// begin notes that a request's headers are complete, and returns what to call at its end. Both are progress.
func (g *guests) begin(ctx context.Context) func() {
	n, ok := ctx.Value(guestKey{}).(*guest)
	if !ok {
		return func() {}
	}
	g.progress(n, true)
	return func() { g.progress(n, false) }
}

func (g *guests) progress(n *guest, busy bool) {
	g.mu.Lock()
	n.busy = busy
	g.mu.Unlock()
	n.Progress()
}
