package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"
)

// Echo answers an upgrade and then every line with itself.
func Echo(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "websocket" {
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return // the client has gone
	}
	defer func() { _ = conn.Close() }() // the test looks at the other end
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
	for rw.Flush() == nil {
		line, err := rw.ReadString('\n')
		if err != nil {
			return
		}
		_, _ = rw.WriteString(line) // Flush has the error
	}
}

// WebSocket is one long connection through the balancer; what it speaks after the upgrade is lines.
type WebSocket struct {
	conn net.Conn
	r    *bufio.Reader
}

// DialWebSocket opens one through the balancer.
func DialWebSocket(t *testing.T, addr string, i int) *WebSocket {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ws := &WebSocket{conn, bufio.NewReader(conn)}
	if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "GET /ws%d HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", i); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(ws.r, nil) //nolint:bodyclose // the answer to an upgrade has none
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade %d: %v, %v", i, resp, err)
	}
	return ws
}

// Ping sends a line and wants it back.
func (ws *WebSocket) Ping() error {
	if err := ws.conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		return err
	}
	if _, err := ws.conn.Write([]byte("ping\n")); err != nil {
		return err
	}
	line, err := ws.r.ReadString('\n')
	if err == nil && line != "ping\n" {
		err = fmt.Errorf("it says %q", line)
	}
	return err
}

// Close cuts the connection.
func (ws *WebSocket) Close() { _ = ws.conn.Close() } // nothing is asked of it any more
