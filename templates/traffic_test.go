package templates

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// fields gives the header of a received request as lower-case lines in order, without the request line.
func fields(head string) []string {
	lines := strings.Split(strings.TrimSuffix(head, "\r\n\r\n"), "\r\n")[1:]
	for i, l := range lines {
		name, value, _ := strings.Cut(l, ":")
		lines[i] = strings.ToLower(name) + ":" + value
	}
	slices.Sort(lines)
	return lines
}

// TestHeaders sends header fields and looks at what a node gets (safety: who may do what, rule 4).
func TestHeaders(t *testing.T) {
	t.Parallel()
	const mine = "x-forwarded-for: 127.0.0.1"
	cases := []struct {
		name    string
		send    []string
		untrust []string // what the node gets from anybody
		trusted []string // from a trusted proxy; nil: the same
		newer   []string // from anybody, since 3.0; nil: the same
	}{
		{"nothing", nil, []string{mine}, nil, nil},
		{"own and trace headers", []string{"X-Own: 1", "Traceparent: 00-a-b-01", "X-B3-TraceId: c", "Cookie: d", "Authorization: e"},
			[]string{"authorization: e", "cookie: d", "traceparent: 00-a-b-01", "x-b3-traceid: c", mine, "x-own: 1"}, nil, nil},
		{"forwarded", []string{"X-Forwarded-For: 9.9.9.9", "x-forwarded-for: 8.8.8.8, 7.7.7.7", "X-FORWARDED-PROTO: https", "X-Forwarded-Anything: a",
			"Forwarded: for=9.9.9.9", "X-Real-IP: 9.9.9.9", "X_Forwarded_For: a"},
			[]string{mine},
			[]string{"forwarded: for=9.9.9.9", "x-forwarded-anything: a", "x-forwarded-for: 127.0.0.1", "x-forwarded-for: 8.8.8.8, 7.7.7.7",
				"x-forwarded-for: 9.9.9.9", "x-forwarded-proto: https", "x-real-ip: 9.9.9.9", "x_forwarded_for: a"}, nil},
		{"for the balancer alone", []string{"Proxy: http://evil", "XXX-FXLB-WAIT: 5s", "xxx-fxlb-wait: 6s"}, []string{mine}, nil, nil},
		{"connection", []string{"Connection: X-Forwarded-For, X-Own, keep-alive", "X-Own: 1"}, []string{mine, "x-own: 1"}, nil, nil},
		{"connection twice", []string{"Connection: keep-alive", "connection: X-Forwarded-For"}, []string{mine}, nil, nil},
		{"websocket", []string{"Connection: keep-alive, Upgrade, X-Forwarded-For", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="},
			[]string{"connection: upgrade", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version: 13", "upgrade: websocket", mine}, nil, nil},
		{"upgrade, h2c", []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"},
			[]string{"http2-settings: AAMAAABkAAQAAP__", mine}, nil, nil},
		{"upgrade, h2c behind another", []string{"Connection: upgrade", "Upgrade: websocket, H2C", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="},
			[]string{"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", mine}, nil, // 3.0 takes h2c out of the list by itself
			[]string{"connection: upgrade", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", "upgrade: websocket", mine}},
		{"upgrade without connection", []string{"Upgrade: h2c"}, []string{mine}, nil, nil},
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		node := startNode(t, "node")
		ports := holdPorts(t, 2)
		s := sample(ports[0], node.addr)
		s.Listeners[0].Management = false
		trusted := s.Listeners[0]
		trusted.Bind.Port = uint16(ports[1])
		trusted.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.1/32")}
		route := s.Routes[0]
		route.Bind = trusted.Bind
		s.Listeners, s.Routes = append(s.Listeners, trusted), append(s.Routes, route)
		start(t, h, s, sampleGlobals())
		for i, port := range ports {
			for _, c := range cases {
				want := c.untrust
				if i == 1 && c.trusted != nil {
					want = c.trusted
				}
				if c.newer != nil && h.AtLeast(3, 0) {
					want = c.newer
				}
				want = append(slices.Clone(want), "host: h:81")
				slices.Sort(want)
				request := "GET /a HTTP/1.1\r\nHost: h:81\r\n" + strings.Join(append(c.send, ""), "\r\n") + "\r\n"
				answer := once(t, port, request)
				got := node.take()
				if len(got) != 1 || !slices.Equal(fields(got[0]), want) {
					t.Errorf("%s, listener %d: sent %q, %q arrived, want %q", c.name, i, c.send, got, want)
				}
				if strings.Contains(strings.ToLower(answer), "fxlb") || !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
					t.Errorf("%s: answer %q", c.name, answer)
				}
			}
		}
	})
}

// once sends a request and reads the header of its answer.
func once(t *testing.T, port int, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // the peer may have been first
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	var answer strings.Builder
	for b := make([]byte, 4096); !strings.Contains(answer.String(), "\r\n\r\n"); {
		n, err := c.Read(b)
		answer.Write(b[:n])
		if err != nil {
			break
		}
	}
	return answer.String()
}

// TestWebSocket carries bytes both ways after an upgrade.
func TestWebSocket(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		node := startNode(t, "node")
		node.on("/chat", func(c net.Conn, _ string) {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n") //nolint:errcheck // the test sees it
			io.Copy(c, c)                                                                                                                                                    //nolint:errcheck // as above
		})
		port := holdPort(t)
		start(t, h, sample(port, node.addr), sampleGlobals())
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close() //nolint:errcheck // the peer may have been first
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 0, 1024)
		for b := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); {
			if _, err := c.Read(b); err != nil {
				t.Fatal(err)
			}
			head = append(head, b...)
		}
		if low := strings.ToLower(string(head)); !strings.HasPrefix(low, "http/1.1 101 ") || !strings.Contains(low, "upgrade: websocket") {
			t.Fatalf("answer %q", head)
		}
		for _, word := range []string{"ping", "\x00\xff\r\n\r\n"} {
			if _, err := io.WriteString(c, word); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, len(word))
			if _, err := io.ReadFull(c, b); err != nil || string(b) != word {
				t.Fatalf("sent %q, got %q: %v", word, b, err)
			}
		}
	})
}

// TestErrors looks at what a client gets when the balancer answers by itself.
func TestErrors(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		node, node2 := startNode(t, "node"), startNode(t, "node")
		for _, n := range []*rawNode{node, node2} {
			n.on("/closed", func(net.Conn, string) {})
			n.on("/garbage", func(c net.Conn, _ string) { io.WriteString(c, "garbage\r\n\r\n") }) //nolint:errcheck // the test sees it
			n.on("/silent", func(c net.Conn, _ string) { io.Copy(io.Discard, c) })                //nolint:errcheck // as above
		}
		management, socket := startManagement(t)
		g := sampleGlobals()
		g.ManagementSocket = socket
		ports := holdPorts(t, 3)
		s := sample(ports[0], node.addr, node2.addr)
		s.Services[0].Timeouts.Server = 300 * time.Millisecond
		empty := sample(ports[1])
		empty.Services[0].Name, empty.Routes[0].Service = "empty", "empty"
		s.Listeners, s.Routes, s.Services = append(s.Listeners, empty.Listeners...), append(s.Routes, empty.Routes...), append(s.Services, empty.Services...)
		lone := sample(ports[2])
		s.Listeners = append(s.Listeners, lone.Listeners...)
		start(t, h, s, g)
		for _, c := range []struct {
			name      string
			port      int
			request   string
			status    int
			says      string
			delivered int // how often a node got it
		}{
			{"no nodes", ports[1], "GET /a", 503, "no healthy node", 0},
			{"no service", ports[2], "GET /a", 503, "no healthy node", 0},
			{"node closes, POST", ports[0], "POST /closed", 502, "closed the connection", 1},
			{"node closes, GET", ports[0], "GET /closed", 502, "closed the connection", 4},
			{"node closes, HEAD", ports[0], "HEAD /closed", 502, "", 4},
			{"garbage", ports[0], "GET /garbage", 502, "no HTTP", 1},
			{"silent", ports[0], "GET /silent", 504, "in time", 1},
		} {
			answer := exchange(t, fmt.Sprintf("127.0.0.1:%d", c.port), c.request+" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
			head, body, _ := strings.Cut(answer, "\r\n\r\n")
			if !strings.HasPrefix(head, fmt.Sprintf("HTTP/1.1 %d ", c.status)) || !strings.Contains(strings.ToLower(head), "content-type: application/json") {
				t.Errorf("%s: %q", c.name, head)
			}
			if c.says != "" && (!strings.HasPrefix(body, `{"error":{"message":"`) || !strings.HasSuffix(body, "\"}}\n") || !strings.Contains(body, c.says)) {
				t.Errorf("%s: body %q", c.name, body)
			}
			if got := len(node.take()) + len(node2.take()); got != c.delivered {
				t.Errorf("%s: the nodes got it %d times, want %d", c.name, got, c.delivered)
			}
		}
		for _, port := range ports { // management works on every port, with no node as well
			answer := exchange(t, fmt.Sprintf("127.0.0.1:%d", port), "GET /1/lb/nodes HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 9.9.9.9\r\nConnection: close\r\n\r\n")
			got := management.take()
			if !strings.HasPrefix(answer, "HTTP/1.1 200 ") || len(got) != 1 || management.peer != "127.0.0.1" {
				t.Fatalf("management: %q, arrived %q from %q", answer, got, management.peer)
			}
			if f := fields(got[0]); !slices.Contains(f, "x-forwarded-for: 9.9.9.9") || slices.Contains(f, "x-forwarded-for: 127.0.0.1") {
				t.Errorf("management must see the client's own header, got %q", f)
			}
		}
	})
}

// TestManagementAway shows what a client gets while fnlb itself does not run.
func TestManagementAway(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		g := sampleGlobals()
		g.ManagementSocket = shortDir(t) + "/nobody.sock"
		node := startNode(t, "node")
		port := holdPort(t)
		start(t, h, sample(port, node.addr), g)
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		began := time.Now()
		answer := exchange(t, addr, "GET /1/lb/nodes HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(answer, "HTTP/1.1 503 ") || !strings.Contains(answer, "management does not run now") {
			t.Errorf("management: %q", answer)
		}
		t.Logf("answered after %s", time.Since(began).Round(time.Millisecond))
		if answer := exchange(t, addr, "GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
			t.Errorf("traffic: %q", answer)
		}
	})
}

// TestDeadNode shows that a request whose node does not answer any more goes to another one at once, whatever its method when
// it was never sent, and only as GET when it was.
func TestDeadNode(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		ports := holdPorts(t, 2)
		dead := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(ports[1]))
		s := sample(ports[0], startNode(t, "a").addr, dead, startNode(t, "b").addr)
		s.Services[0].Check.Interval = time.Hour // the checks must not find out
		s.Services[0].Check.Fall = 200
		start(t, h, s, sampleGlobals())
		for i := range 40 {
			began := time.Now()
			method := []string{"GET", "POST"}[i%2]
			answer := exchange(t, fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("%s /p%d HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx", method, i))
			if !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
				t.Errorf("%s /p%d: %q", method, i, answer)
			}
			if took := time.Since(began); took > 900*time.Millisecond {
				t.Errorf("%s /p%d took %s: a retry waited", method, i, took)
			}
		}
	})
}

// TestTLS speaks HTTP/1.1 and HTTP/2 to a listener with a certificate.
func TestTLS(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		node := startNode(t, "node")
		management, socket := startManagement(t)
		g := sampleGlobals()
		g.ManagementSocket, g.Certs = socket, map[string]string{"listen.pem": "/run/fnlb/certs/listen.pem"}
		port := holdPort(t)
		s := sample(port, node.addr)
		s.Listeners[0].TLS, s.Routes[0].Cert = true, "listen.pem"
		h.Start(t, local(t, render(t, s, g, h.Version)), "r1")
		for _, protocol := range []string{"http/1.1", "h2"} {
			protocols := new(http.Protocols)
			protocols.SetHTTP1(protocol == "http/1.1")
			protocols.SetHTTP2(protocol == "h2")
			transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Protocols: protocols} //nolint:gosec // the certificate is the test's own
			client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
			for path, n := range map[string]*rawNode{"/a//b?c": node, "/1/lb/nodes": management} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d%s", port, path), nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("X-Forwarded-For", "9.9.9.9")
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					t.Error(err)
				}
				if err := resp.Body.Close(); err != nil {
					t.Error(err)
				}
				got := n.take()
				if resp.StatusCode != 200 || resp.ProtoMajor != map[string]int{"http/1.1": 1, "h2": 2}[protocol] || len(got) != 1 ||
					!strings.HasPrefix(got[0], "GET "+path+" HTTP/1.1\r\n") {
					t.Errorf("%s %s: %s %d, arrived %q", protocol, path, resp.Proto, resp.StatusCode, got)
				}
			}
			transport.CloseIdleConnections()
		}
		old := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}} //nolint:gosec // that it is refused is the test
		if c, err := old.DialContext(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			t.Error("TLS 1.1 is accepted")
			c.Close() //nolint:errcheck // the test has failed
		}
	})
}
