package e2e

import (
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
