package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/fnlb/fnlb/test/load"
)

// node is a node of the bench's own, which answers at once and knows when requests came; checks do not count.
type node struct {
	addr   string
	server *http.Server
	ended  chan error

	mu    sync.Mutex
	last  time.Time
	first chan time.Time // gets the next request's time, where somebody waits
	over  chan struct{}  // closed when slow downloads shall end
}

func startNode() (*node, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &node{addr: l.Addr().String(), ended: make(chan error, 1), over: make(chan struct{})}
	n.server = &http.Server{Handler: n, ReadHeaderTimeout: time.Minute}
	go func() { n.ended <- n.server.Serve(l) }()
	return n, nil
}

func (n *node) close() error {
	err := n.server.Close()
	if served := <-n.ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// next is where the time of the next request will be sent.
func (n *node) next() <-chan time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.first = make(chan time.Time, 1)
	return n.first
}

func (n *node) latest() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.last
}

func (n *node) came() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = time.Now()
	if n.first != nil {
		n.first <- n.last
		n.first = nil
	}
}

// ServeHTTP answers checks, upgrades (with an echo of lines), slow downloads, and all others with the node's address.
func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/version" {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"version":"0.0.235"}`) // the checker looks at what arrives
		return
	}
	n.came()
	switch {
	case r.Header.Get("Upgrade") == "websocket":
		echo(w)
	case r.URL.Path == "/slow":
		n.slow(w)
	default:
		_, _ = io.WriteString(w, n.addr) // the client looks at what arrives
	}
}

// slow writes a line ten times a second until over, and then the last one.
func (n *node) slow(w http.ResponseWriter) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := io.WriteString(w, "more\n"); err != nil || http.NewResponseController(w).Flush() != nil {
			return // the other end counts it
		}
		select {
		case <-tick.C:
		case <-n.over:
			_, _ = io.WriteString(w, "end\n")
			return
		}
	}
}

func echo(w http.ResponseWriter) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return // the other end counts it
	}
	defer func() { _ = conn.Close() }()
	_, err = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
	for err == nil && rw.Flush() == nil {
		var line string
		if line, err = rw.ReadString('\n'); err == nil {
			_, err = rw.WriteString(line)
		}
	}
}

// running is a load that goes on until end.
type running struct {
	cancel context.CancelFunc
	ended  chan struct{}
	result load.Result
	err    error
}

// startLoad returns when each worker has had its first answer.
func (b *bench) startLoad(ctx context.Context, port int, paths []string, groups ...load.Group) (*running, error) {
	r := &running{ended: make(chan struct{})}
	ctx, r.cancel = context.WithCancel(ctx)
	ready := make(chan struct{})
	go func() {
		defer close(r.ended)
		r.result, r.err = load.Run(ctx, load.Options{
			Address: fmt.Sprintf("127.0.0.1:%d", port), Paths: paths, Groups: groups, Ready: func() { close(ready) },
		})
	}()
	select {
	case <-ready:
		return r, nil
	case <-r.ended:
		return nil, fmt.Errorf("the load ended early: %w", r.err)
	}
}

// end gives what became of the requests.
func (r *running) end() (load.Result, error) {
	r.cancel()
	<-r.ended
	return r.result, r.err
}

// pathTo looks for a path of the node's, among so many.
func (b *bench) pathTo(ctx context.Context, port int, n *node, among int) (string, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for _, path := range functions(among) {
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
			return "", err
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return "", err
		}
		text, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			return "", err
		}
		if string(text) == n.addr {
			return path, nil
		}
	}
	return "", fmt.Errorf("none of %d paths is at %s", among, n.addr)
}
