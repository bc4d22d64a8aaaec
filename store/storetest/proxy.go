package storetest

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// Proxy stands between a database and its clients: on a port of its own, in front of a Unix socket or a TCP address.
type Proxy struct {
	Addr string // HOST:PORT

	to       string
	listener net.Listener
	all      sync.WaitGroup

	mu     sync.Mutex
	pairs  map[net.Conn]net.Conn // of a client to that of the server
	refuse bool
	stall  chan struct{} // closed when bytes flow again; nil while they do
	deaf   string        // the answers after a request with this in it are lost, and the connection then
	lost   int
	closed bool
}

// NewProxy starts one that ends with the test.
func NewProxy(t testing.TB, to string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), to: to, listener: l, pairs: map[net.Conn]net.Conn{}}
	p.all.Go(p.accept)
	t.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		l.Close()
		p.Resume()
		p.Cut()
		p.all.Wait()
	})
	return p
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		network := "tcp"
		if strings.HasPrefix(p.to, "/") {
			network = "unix"
		}
		p.mu.Lock()
		refused := p.refuse || p.closed
		p.mu.Unlock()
		if refused {
			client.Close()
			continue
		}
		server, err := net.Dial(network, p.to)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.pairs[client] = server
		if p.closed {
			client.Close()
			server.Close()
		}
		p.mu.Unlock()
		p.all.Go(func() { p.copy(client, server, true) })
		p.all.Go(func() { p.copy(server, client, false); p.end(client) })
	}
}

func (p *Proxy) end(client net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	client.Close()
	if server := p.pairs[client]; server != nil {
		server.Close()
	}
	delete(p.pairs, client)
}

func (p *Proxy) copy(from, to net.Conn, request bool) {
	defer from.Close()
	defer to.Close()
	piece := make([]byte, 32<<10)
	for {
		n, err := from.Read(piece)
		if err != nil {
			return
		}
		p.mu.Lock()
		stall, deaf := p.stall, p.deaf
		p.mu.Unlock()
		if stall != nil {
			<-stall
		}
		if _, err := to.Write(piece[:n]); err != nil {
			return
		}
		if request && deaf != "" && strings.Contains(strings.ToLower(string(piece[:n])), deaf) {
			p.lose(from, to)
			return
		}
	}
}

// lose reads what the server answers, and cuts.
func (p *Proxy) lose(client, server net.Conn) {
	p.mu.Lock()
	p.deaf = ""
	p.lost++
	p.mu.Unlock()
	client.Close()              // the other direction cannot write any more; it ends after the answer has come, or with the server's end
	io.Copy(io.Discard, server) //nolint:errcheck // until it ends, however
}

// LoseAnswer cuts the next connection that sends the text, in small letters, after the server has got it.
func (p *Proxy) LoseAnswer(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = text
}

// Lost says how many answers were.
func (p *Proxy) Lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// Cut ends all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for client, server := range p.pairs {
		client.Close()
		server.Close()
	}
}

// Refuse has new connections closed at once, or no more.
func (p *Proxy) Refuse(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = yes
}

// Stall has no byte pass, as a cut cable does.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stall == nil {
		p.stall = make(chan struct{})
	}
}

// Resume ends Stall.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stall != nil {
		close(p.stall)
		p.stall = nil
	}
}
