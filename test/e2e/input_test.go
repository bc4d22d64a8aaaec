package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// StartShared is Start with management on the traffic port.
func StartShared(t *testing.T, h haproxytest.HAProxy, args ...string) *Balancer {
	t.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", haproxytest.FreePort(t))
	b := &Balancer{T: t, Dir: TempDir(t), Traffic: addr, Mgmt: addr}
	b.Run(h, args...)
	return b
}

// answer is what came back for a request that was written byte by byte.
type answer struct {
	status int
	header http.Header
	body   string
}

// send writes a request as it stands over a connection of its own and reads the answer, also when the other side does not read all.
func send(t *testing.T, addr, request string) answer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = io.WriteString(conn, request) // who refuses a long body does not wait for its end
	}()
	defer func() {
		_ = conn.Close()
		<-written
	}()
	if err := conn.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%.80q: %v", request, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%.80q: %v", request, err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// request is the text of a management call.
func request(method, path, body string) string {
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body)
}

// badNodes maps nodes to a part of the answer.
func badNodes(b *Balancer) map[string]string {
	return map[string]string{
		"":                              "it is empty",
		"127.0.0.1":                     "the port is missing",
		"[::1]":                         "the port is missing",
		"127.0.0.1:0":                   "between 1 and 65535",
		"127.0.0.1:70000":               "between 1 and 65535",
		"127.0.0.1:http":                "the port is no number",
		"127.0.0.1: 80":                 "the port is no number",
		" 127.0.0.1:80":                 "neither an address nor a DNS name",
		"a b:80":                        "neither an address nor a DNS name",
		"http://h:1":                    "a URL is no node",
		strings.Repeat("a", 300) + ":1": "characters",
		"a\nb:1":                        "neither an address nor a DNS name",
		"a:1\nglobal":                   "the port is no number",
		"127.0.0.1:80\n":                "the port is no number",
		`"a":1`:                         "neither an address nor a DNS name",
		`a':1`:                          "neither an address nor a DNS name",
		"a#:1":                          "neither an address nor a DNS name",
		"$HOME:1":                       "neither an address nor a DNS name",
		"a\\:1":                         "neither an address nor a DNS name",
		"a\x00:1":                       "neither an address nor a DNS name",
		"unix@/x":                       "address families",
		"unix@/x:1":                     "address families",
		"fd@3":                          "address families",
		"abns@x:1":                      "address families",
		"::1:80":                        "brackets",
		"[fe80::1%lo]:80":               "zone",
		"127.1:80":                      "notation",
		"0x7f000001:80":                 "notation",
		"169.254.169.254:80":            "link-local",
		"[fe80::1]:80":                  "link-local",
		"0.0.0.0:80":                    "unspecified",
		"[::]:80":                       "unspecified",
		"224.0.0.1:80":                  "multicast",
		"[ff02::1]:80":                  "multicast",
		"255.255.255.255:80":            "broadcast",
		b.Traffic:                       "own address",
		b.Mgmt:                          "own address",
		"[::ffff:" + strings.Replace(b.Traffic, ":", "]:", 1): "own address",
	}
}

// badBodies maps bodies to a status and a part of the answer.
var badBodies = map[string]struct {
	status int
	msg    string
}{
	"":                               {400, "empty"},
	"{":                              {400, "ends too early"},
	`{"node":`:                       {400, "ends too early"},
	`{"node":}`:                      {400, "at byte"},
	`{'node':'127.0.0.1:1'}`:         {400, "at byte"},
	`node=127.0.0.1:1`:               {400, "no JSON"},
	`{}`:                             {400, "missing"},
	`[]`:                             {400, "an array"},
	`["127.0.0.1:1"]`:                {400, "an array"},
	`null`:                           {400, "null"},
	`"127.0.0.1:1"`:                  {400, "a string"},
	`{"node":null}`:                  {400, "null"},
	`{"node":1}`:                     {400, "a number"},
	`{"node":["127.0.0.1:1"]}`:       {400, "an array"},
	`{"Node":"127.0.0.1:1"}`:         {400, "unknown key"},
	`{"node":"127.0.0.1:1","x":1}`:   {400, "unknown key"},
	`{"node":"127.0.0.1:1"}{}`:       {400, "follows"},
	`{"node":"127.0.0.1:1"} x`:       {400, "follows"},
	"{\"node\":\"127.0.0.1:1\xff\"}": {400, "UTF-8"},
	strings.Repeat("[", 50_000):      {400, "no JSON"},
	`{"node":"` + strings.Repeat("a", 2<<20) + `:1"}`:             {413, "longer than"},
	strings.Repeat(" ", 2<<20) + `{"node":"127.0.0.1:1"}`:         {413, "longer than"},
	`{"node":"127.0.0.1:1","node":"127.0.0.1:2"}`:                 {400, "twice"},
	`{"node":"127.0.0.1:1","nod` + "\\u0065" + `":"127.0.0.1:2"}`: {400, "twice"},
}

// TestBadInput: everything bad that comes over HTTP is answered with 4xx and a word, and changes nothing.
func TestBadInput(t *testing.T) {
	for name, start := range map[string]func(*testing.T, haproxytest.HAProxy, ...string) *Balancer{"own port": Start, "shared port": StartShared} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, h haproxytest.HAProxy) {
				n, m := NewNode(t, "a"), NewNode(t, "m")
				b := start(t, h, "--nodes", n.Addr)
				b.WaitLog(0, "haproxy started")
				b.WaitOnline(n)
				wanted, applies := b.WaitApplied().Wanted, len(b.changes())

				refused := func(what, req string, status int, part string) answer {
					t.Helper()
					got := send(t, b.Mgmt, req)
					var msg struct{ Msg *string }
					if err := json.Unmarshal([]byte(got.body), &msg); err != nil || msg.Msg == nil {
						t.Errorf("%.60q: %d, and no msg in %q", what, got.status, got.body)
					} else if status != 0 && got.status != status || got.status < 400 || got.status > 499 || !strings.Contains(*msg.Msg, part) || strings.Contains(*msg.Msg, "\n") {
						t.Errorf("%.60q: %d %q, wanted is %d with %q", what, got.status, *msg.Msg, status, part)
					}
					return got
				}
				for node, part := range badNodes(b) {
					body, err := json.Marshal(map[string]string{"node": node})
					if err != nil {
						t.Fatal(err)
					}
					refused(node, request("PUT", "/1/lb/nodes", string(body)), 0, part)
				}
				for body, want := range badBodies {
					for _, method := range []string{"PUT", "DELETE"} {
						refused(method+" "+body, request(method, "/1/lb/nodes", body), want.status, want.msg)
					}
				}
				for path, allow := range map[string]string{"/1/lb/nodes": "DELETE, GET, HEAD, OPTIONS, PUT", "/1/lb/status": "GET, HEAD, OPTIONS", "/1/lb/readyz": "GET, HEAD, OPTIONS"} {
					for _, method := range []string{"POST", "PATCH", "BREW"} {
						got := refused(method+" "+path, request(method, path, ""), 405, method)
						if got.header.Get("Allow") != allow {
							t.Errorf("%s %s: Allow %q", method, path, got.header.Get("Allow"))
						}
					}
				}
				if name == "own port" { // on a shared one these are the nodes'
					for _, path := range []string{"/", "/1/lb", "/1/lb/", "/1/lb/nodes/", "/1/lb/Nodes", "//1/lb/nodes", "/./1/lb/nodes", "/1/lb/x/../nodes", "/1/lb%2fnodes"} {
						refused(path, request("PUT", path, `{"node":"127.0.0.1:1"}`), 404, "unknown command")
					}
				}
				// The same node twice is a success by contract, and no change.
				b.Put(n.Addr)

				// A good change afterwards is the next one there is.
				b.Put(m.Addr)
				b.WaitOnline(n, m)
				if st := b.WaitApplied(); st.Wanted != wanted+1 || len(st.Problems) > 0 || len(st.Degraded) > 0 {
					t.Errorf("revision %d after %d, problems %v %v", st.Wanted, wanted, st.Problems, st.Degraded)
				}
				if all := b.changes(); len(all) != applies+1 {
					t.Errorf("%d applies, before were %d: %+v", len(all), applies, all)
				}
				// Nothing that was refused is still held: the stop waits for no connection.
				b.Signal(syscall.SIGTERM)
				if code := b.WaitExit(); code != 0 {
					t.Errorf("exit code %d", code)
				}
			})
		})
	}
}

// seen is a request as it reached a node.
type seen struct {
	host   string
	uri    string
	header http.Header
}

// record makes a node keep what reaches it.
func record(n *Node) <-chan seen {
	ch := make(chan seen, 16)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ch <- seen{r.Host, r.RequestURI, r.Header.Clone()}
		w.Header().Set("XXX-FXLB-WAIT", "1s")
		w.Header().Set("X-Else", "passes")
	})
	n.Handler.Store(&h)
	return ch
}

// lies is what a client says about itself, and one header of its own.
const lies = "X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 7.7.7.7\r\nX-Forwarded-Proto: gopher\r\nX-Forwarded-Host: evil\r\nX-FORWARDED-Prefix: /x\r\n" +
	"Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nProxy: http://evil/\r\nXXX-FXLB-WAIT: 9s\r\nxxx-fxlb-wait: 9s\r\nX-Mine: a\r\n"

const traces = "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nTracestate: a=b\r\nB3: 1-2-1\r\nX-B3-Traceid: 1\r\nX-B3-Spanid: 2\r\n" +
	"X-B3-Sampled: 1\r\nUber-Trace-Id: 1:2:3:1\r\nX-Request-Id: 9\r\n"

// TestHeaders is rule 4 of who may do what: what reaches the node is the truth, and what is the node's never reaches the client.
func TestHeaders(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		b := Start(t, h, "--nodes", n.Addr)
		b.WaitOnline(n)
		nodeSaw := record(n)
		for name, connection := range map[string]string{
			"none":     "",
			"strip":    "Connection: X-Forwarded-For, X-Real-IP, traceparent\r\n",
			"close":    "Connection: close, x-forwarded-for\r\n",
			"two":      "Connection: close\r\nConnection: X-Forwarded-For\r\n",
			"upgrade":  "Connection: Upgrade, X-Forwarded-For\r\nUpgrade: other\r\n",
			"h2c":      "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
			"list h2c": "Connection: Upgrade\r\nUpgrade: other, h2c\r\n",
		} {
			got := send(t, b.Traffic, "GET /A%20b/../%2f?q=1&q=%20 HTTP/1.1\r\nHost: Example.ORG:1234\r\n"+connection+lies+traces+"\r\n")
			if got.status != 200 || got.header.Get("X-Else") != "passes" || got.header.Get("XXX-FXLB-WAIT") != "" {
				t.Errorf("%s: the client got %d %v %s", name, got.status, got.header, got.body)
				continue
			}
			saw := <-nodeSaw
			if saw.host != "Example.ORG:1234" || saw.uri != "/A%20b/../%2f?q=1&q=%20" {
				t.Errorf("%s: the node saw host %q, target %q", name, saw.host, saw.uri)
			}
			for key, want := range map[string][]string{
				"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Proto": nil, "X-Forwarded-Host": nil, "X-Forwarded-Prefix": nil, "Forwarded": nil,
				"X-Real-Ip": nil, "Proxy": nil, "Xxx-Fxlb-Wait": nil, "X-Mine": {"a"},
			} {
				if !slices.Equal(saw.header[key], want) {
					t.Errorf("%s: the node saw %s %q, wanted is %q", name, key, saw.header[key], want)
				}
			}
			for line := range strings.SplitSeq(strings.TrimSpace(traces), "\r\n") {
				key, want, _ := strings.Cut(line, ": ")
				if !slices.Equal(saw.header[key], []string{want}) {
					t.Errorf("%s: the node saw %s %q", name, key, saw.header[key])
				}
			}
			for _, c := range saw.header["Connection"] {
				if !slices.Contains([]string{"upgrade", "close", "keep-alive"}, strings.ToLower(c)) {
					t.Errorf("%s: the node saw Connection %q", name, c)
				}
			}
			if up := strings.ToLower(strings.Join(saw.header["Upgrade"], ",")); strings.Contains(up, "h2c") {
				t.Errorf("%s: the node saw Upgrade %q", name, up)
			}
		}
	})
}

// TestTrustedProxy: a peer that is trusted says where the request came from, and Connection still strips nothing.
func TestTrustedProxy(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		b := Start(t, h, "--nodes", n.Addr, "--trusted-proxies", "127.0.0.1")
		b.WaitOnline(n)
		nodeSaw := record(n)
		if got := send(t, b.Traffic, "GET / HTTP/1.1\r\nHost: x\r\nConnection: X-Forwarded-For\r\n"+lies+"\r\n"); got.status != 200 {
			t.Fatalf("the client got %d %s", got.status, got.body)
		}
		saw := <-nodeSaw
		if got := strings.Join(saw.header["X-Forwarded-For"], ", "); got != "6.6.6.6, 7.7.7.7, 127.0.0.1" {
			t.Errorf("X-Forwarded-For %q", got)
		}
		want := map[string]string{"X-Forwarded-Proto": "gopher", "X-Forwarded-Host": "evil", "Forwarded": "for=6.6.6.6", "X-Real-Ip": "6.6.6.6", "Proxy": "", "Xxx-Fxlb-Wait": "", "Connection": ""}
		for _, key := range slices.Sorted(maps.Keys(want)) {
			if got := saw.header.Get(key); got != want[key] {
				t.Errorf("%s %q, wanted is %q", key, got, want[key])
			}
		}
	})
}

// TestWebSocket: the upgrade passes, bytes flow both ways, and a reload does not cut them.
func TestWebSocket(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n, m := NewNode(t, "a"), NewNode(t, "m")
		b := Start(t, h, "--nodes", n.Addr)
		b.WaitOnline(n)
		ended := make(chan struct{})
		echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(ended)
			if r.Header.Get("Upgrade") != "websocket" || !strings.EqualFold(r.Header.Get("Connection"), "upgrade") || r.Header.Get("Sec-Websocket-Key") == "" {
				t.Errorf("the node saw %v", r.Header)
			}
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			// The key and its answer are those of RFC 6455, section 1.3.
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
			_, _ = io.Copy(conn, rw)
		})
		n.Handler.Store(&echo)
		conn, err := net.Dial("tcp", b.Traffic)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
			t.Fatalf("%d %v", resp.StatusCode, resp.Header)
		}
		ping := func(text string) {
			t.Helper()
			if _, err := io.WriteString(conn, text); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(text))
			if _, err := io.ReadFull(r, got); err != nil || string(got) != text {
				t.Fatalf("%q came back as %q: %v", text, got, err)
			}
		}
		ping("before")
		b.Put(m.Addr)
		b.WaitOnline(n, m)
		b.WaitApplied()
		ping("after a reload")
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		<-ended
	})
}

// TestBodies: large bodies pass whole in both directions, with a length and in chunks, and a part of an answer arrives when it was
// written, not when the answer ends.
func TestBodies(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := NewNode(t, "a")
		b := Start(t, h, "--nodes", n.Addr)
		b.WaitOnline(n)
		mirror := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			data, err := io.ReadAll(r.Body)
			if err != nil {
				t.Errorf("the node reads: %v", err)
			}
			w.Header().Set("X-Length", fmt.Sprint(r.ContentLength))
			_, _ = w.Write(data)
		})
		n.Handler.Store(&mirror)
		body := bytes.Repeat([]byte("0123456789abcdef"), 20<<20/16)
		for want, reader := range map[string]io.Reader{fmt.Sprint(len(body)): bytes.NewReader(body), "-1": io.MultiReader(bytes.NewReader(body))} {
			resp, err := http.Post("http://"+b.Traffic+"/big", "application/octet-stream", reader)
			if err != nil {
				t.Fatal(err)
			}
			back, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || sha256.Sum256(back) != sha256.Sum256(body) || resp.Header.Get("X-Length") != want {
				t.Errorf("length %s: %d bytes came back, %v, the node saw length %s", want, len(back), err, resp.Header.Get("X-Length"))
			}
		}

		more := make(chan struct{})
		stream := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for range 3 {
				_, _ = io.WriteString(w, "part\n")
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Error(err)
				}
				<-more
			}
		})
		n.Handler.Store(&stream)
		resp, err := http.Get("http://" + b.Traffic + "/stream")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		r := bufio.NewReader(resp.Body)
		for range 3 {
			if line, err := r.ReadString('\n'); err != nil || line != "part\n" {
				t.Errorf("%q %v", line, err)
			}
			more <- struct{}{}
		}
		if _, err := r.ReadByte(); err != io.EOF { //nolint:errorlint // a reader gives io.EOF itself
			t.Errorf("after the last part: %v", err)
		}
	})
}
