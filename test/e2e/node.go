package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// Node is a function node: it answers every path with its name, and /version as the check wants it.
type Node struct {
	Addr, Name string
	Requests   atomic.Int64 // without checks
	Version    atomic.Pointer[string]
	Handler    atomic.Pointer[http.HandlerFunc] // in place of the default answer; checks are not affected

	server *httptest.Server
}

// NewNode starts a node on a free port; it ends with the test.
func NewNode(t *testing.T, name string) *Node {
	t.Helper()
	return NewNodeAt(t, name, "127.0.0.1:0")
}

// NewNodeAt starts a node at an address.
func NewNodeAt(t *testing.T, name, addr string) *Node {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{Addr: l.Addr().String(), Name: name}
	good := `{"version":"0.0.300"}`
	n.Version.Store(&good)
	n.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: n}}
	n.server.Start()
	t.Cleanup(n.Close)
	return n
}

// ServeHTTP answers a request or a check.
func (n *Node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/version" {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, *n.Version.Load())
		return
	}
	n.Requests.Add(1)
	w.Header().Set("X-Node", n.Name)
	if h := n.Handler.Load(); h != nil {
		(*h)(w, r)
		return
	}
	_, _ = fmt.Fprintf(w, "hello from %s %s", n.Name, r.URL.RequestURI())
}

// Close ends the node at once.
func (n *Node) Close() {
	n.server.CloseClientConnections()
	n.server.Close()
}

// Hung is a request that a node answers when it is told to.
type Hung struct {
	Arrived, Release chan struct{} // the first is closed by the node, the second by the test
}

// Hang makes the node's next request wait.
func (n *Node) Hang() *Hung {
	r := &Hung{make(chan struct{}), make(chan struct{})}
	f := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		close(r.Arrived)
		select {
		case <-r.Release:
			_, _ = w.Write([]byte("done"))
		case <-req.Context().Done(): // a test that fails closes the node, which would wait for this
		}
	})
	n.Handler.Store(&f)
	return r
}

// Ask sends the request that Hang waits for, and returns when it has arrived at the node; the channel gets the body, or the error.
func (r *Hung) Ask(addr string) <-chan string {
	answer := make(chan string, 1)
	go func() {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+addr+"/hang", nil) // it ends with the node
		if err != nil {
			answer <- err.Error()
			return
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			answer <- err.Error()
			return
		}
		data, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			answer <- err.Error()
			return
		}
		answer <- string(data)
	}()
	select {
	case <-r.Arrived:
	case got := <-answer: // it never got there
		answer <- got
	}
	return answer
}
