package templates

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// rawNode is a node that keeps the bytes of each request's header as they came, and answers with its name in X-Node. What it
// does with a request can be changed by path.
type rawNode struct {
	name string
	addr netip.AddrPort // not valid for a Unix socket
	peer string         // what the PROXY header of the last connection said

	mu   sync.Mutex
	got  []string
	does map[string]func(c net.Conn, head string)
}

// startNode listens on a free port of 127.0.0.1.
func startNode(t *testing.T, name string) *rawNode {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &rawNode{name: name, addr: l.Addr().(*net.TCPAddr).AddrPort(), does: map[string]func(net.Conn, string){}}
	n.serve(t, l)
	return n
}

// startManagement listens where HAProxy expects fnlb.
func startManagement(t *testing.T) (*rawNode, string) {
	t.Helper()
	path := filepath.Join(shortDir(t), "api.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	n := &rawNode{name: "management"}
	n.serve(t, l)
	return n, path
}

// shortDir is a folder whose path is short enough for a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tmpl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (n *rawNode) serve(t *testing.T, l net.Listener) {
	var all sync.WaitGroup
	conns := map[net.Conn]bool{}
	var mu sync.Mutex
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		mu.Lock()
		for c := range conns {
			c.Close() //nolint:errcheck // the peer may have been first
		}
		mu.Unlock()
		all.Wait()
	})
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			all.Go(func() {
				n.connection(c)
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
				c.Close() //nolint:errcheck // the peer may have been first
			})
		}
	})
}

// proxySignature begins the PROXY protocol's header, version 2.
var proxySignature = []byte("\r\n\r\n\x00\r\nQUIT\n")

func (n *rawNode) connection(c net.Conn) {
	r := bufio.NewReader(c)
	if b, err := r.Peek(len(proxySignature)); err == nil && bytes.Equal(b, proxySignature) {
		h := make([]byte, 16)
		if _, err := io.ReadFull(r, h); err != nil {
			return
		}
		rest := make([]byte, binary.BigEndian.Uint16(h[14:]))
		if _, err := io.ReadFull(r, rest); err != nil {
			return
		}
		n.mu.Lock()
		n.peer = "local"
		if h[12]&15 == 1 && h[13] == 0x11 { // PROXY, TCP over IPv4
			n.peer = netip.AddrFrom4([4]byte(rest[:4])).String()
		}
		n.mu.Unlock()
	}
	for {
		head, length, err := readHead(r)
		if err != nil {
			return
		}
		n.mu.Lock()
		check := strings.HasPrefix(head, "GET ") && strings.Contains(head, "/version HTTP/1.") // also those of others, to a port that was theirs
		if !check {
			n.got = append(n.got, head)
		}
		_, target, _ := strings.Cut(head, " ")
		path, _, _ := strings.Cut(target, " ")
		do := n.does[path]
		n.mu.Unlock()
		if length < 0 {
			if err := discardChunked(r); err != nil {
				return
			}
		} else if _, err := io.CopyN(io.Discard, r, length); err != nil {
			return
		}
		if do != nil {
			do(c, head)
			return
		}
		body := "{\"version\":\"9.9.9\"}\n"
		if strings.HasPrefix(head, "HEAD ") {
			body = ""
		}
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nX-Node: "+n.name+"\r\nXXX-FXLB-WAIT: 1s\r\nContent-Length: 20\r\n\r\n"+body); err != nil {
			return
		}
	}
}

// readHead reads one header and says how long the body is: -1 when it is chunked.
func readHead(r *bufio.Reader) (head string, length int64, err error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", 0, err
		}
		head += line
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch {
		case strings.EqualFold(name, "content-length"):
			length = 0
			for _, c := range value {
				length = length*10 + int64(c-'0')
			}
		case strings.EqualFold(name, "transfer-encoding"):
			length = -1
		}
		if line == "\r\n" {
			return head, length, nil
		}
	}
}

// discardChunked reads a chunked body, which HAProxy has made well-formed.
func discardChunked(r *bufio.Reader) error {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		end := strings.TrimRight(line, "\r\n") == "0"
		for line != "\r\n" {
			if line, err = r.ReadString('\n'); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

// on makes the node do something else for a path.
func (n *rawNode) on(path string, do func(c net.Conn, head string)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.does[path] = do
}

// take gives the headers received since the last call.
func (n *rawNode) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	got := n.got
	n.got = nil
	return got
}

// exchange sends raw bytes and reads until the balancer closes, or for two seconds.
func exchange(t *testing.T, addr, raw string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // the peer may have been first
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	var late net.Error
	switch {
	case errors.As(err, &late) && late.Timeout():
		return string(b) + "(kept open)"
	case err != nil:
		return string(b) + "(" + err.Error() + ")"
	}
	return string(b)
}
