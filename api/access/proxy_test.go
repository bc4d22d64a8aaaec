package access

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// header is a PROXY header of version 2 (proxy-protocol.txt, section 2.2).
func header(command, family byte, addresses ...byte) string {
	h := []byte("\r\n\r\n\x00\r\nQUIT\n")
	h = append(h, 0x20|command, family, 0, byte(len(addresses)))
	return string(append(h, addresses...))
}

var (
	v4     = header(1, 0x11, 10, 1, 2, 3, 10, 0, 0, 1, 0x9c, 0x40, 0x1f, 0x91)
	public = header(1, 0x11, 203, 0, 113, 9, 10, 0, 0, 1, 0x9c, 0x40, 0x1f, 0x91)
	toLoop = header(1, 0x11, 127, 0, 0, 1, 127, 0, 0, 1, 0x9c, 0x40, 0x1f, 0x91)
	noone  = header(0, 0x00)
)

// listen serves the rules behind a Unix socket, as HAProxy reaches it.
func listen(t *testing.T, r Rules) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "x")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: r.Wrap(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.WriteString(w, req.RemoteAddr)
	}), Traffic)}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(FromHAProxy(l)) }()
	t.Cleanup(func() {
		if err := errors.Join(srv.Close(), ignore(<-ended, http.ErrServerClosed)); err != nil {
			t.Error(err)
		}
	})
	return path
}

func ignore(err, none error) error {
	if errors.Is(err, none) {
		return nil
	}
	return err
}

func TestFromHAProxy(t *testing.T) {
	path := listen(t, Rules{})
	const get = "GET /1/lb/nodes HTTP/1.1\r\nHost: lb.example\r\nConnection: close\r\n\r\n"
	const health = "GET /1/lb/healthz HTTP/1.1\r\nHost: lb.example\r\nConnection: close\r\n\r\n"
	for _, tt := range []struct {
		name, sent string
		status     int // 0: closed without an answer, or with 400
		body       string
	}{
		{"true peer", v4 + get, 200, "10.1.2.3:40000"},
		{"v6", header(1, 0x21, append(append(append(net.ParseIP("fd00::1"), net.ParseIP("fd00::2")...), 0, 1), 0, 2)...) + get, 200, "[fd00::1]:1"},
		{"public peer", public + get, 403, ""},
		{"arrived on loopback, so Host counts", toLoop + get, 403, ""},
		{"LOCAL", noone + get, 403, ""},
		{"LOCAL, health", noone + health, 200, "@"},
		{"Unix client", header(1, 0x31, make([]byte, 216)...) + get, 403, ""},
		{"no header", get, 0, ""},
		{"no header, health", health, 0, ""},
		{"version 1", "PROXY TCP4 10.1.2.3 10.0.0.1 40000 8081\r\n" + get, 0, ""},
		{"undefined family", header(1, 0x13, 10, 1, 2, 3, 10, 0, 0, 1, 0, 1, 0, 2) + get, 0, ""},
		{"too short", header(1, 0x11, 10, 1, 2, 3) + get, 0, ""},
		{"garbage", "\x00\xff\x00\xff\x00\xff\x00\xff\x00\xff\x00\xff\x00\xff\x00\xff\r\n\r\n", 0, ""},
		{"two headers, the second lies", public + v4 + get, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second) // less than headerTime
			defer cancel()
			context.AfterFunc(ctx, func() { _ = conn.Close() })
			if _, err := io.WriteString(conn, tt.sent); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if ctx.Err() != nil {
				t.Fatal("no answer")
			}
			if tt.status == 0 {
				if err == nil && resp.StatusCode != http.StatusBadRequest {
					t.Errorf("answered %s", resp.Status)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != tt.status || tt.body != "" && string(body) != tt.body {
				t.Errorf("answered %s %q, %v", resp.Status, body, err)
			}
		})
	}
}
