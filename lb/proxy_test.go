package lb

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// proxyOf gives the proxy of the old call in front of nodes.
func proxyOf(t *testing.T, nodes ...string) *httptest.Server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := ConsistentHashReverseProxy(ctx, nodes)
	rt := p.Transport.(*FallbackRoundTripper)
	rt.log = slog.New(slog.DiscardHandler)
	t.Cleanup(func() { // after the front has been closed
		cancel()
		rt.wg.Wait()
		rt.CloseIdleConnections()
	})
	return front(t, p)
}

// get asks by a client that follows no redirect.
func ask(t testing.TB, front *httptest.Server, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := front.Client().Transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// TestPathStays: each path on the node that a proxy with another order of nodes has it on, whatever the query and the method.
func TestPathStays(t *testing.T) {
	nodes := []*server{named(t, "a"), named(t, "b"), named(t, "c")}
	one := proxyOf(t, nodes[0].addr, nodes[1].addr, nodes[2].addr)
	other := proxyOf(t, nodes[2].addr, "http://"+nodes[0].addr+"/", nodes[1].addr, nodes[2].addr)
	seen := map[string]bool{}
	for i := range 30 {
		path := fmt.Sprintf("/app/f%d", i)
		_, first := ask(t, one, request(t, "GET", one.URL+path, ""))
		name := first[:1]
		seen[name] = true
		if first != name+" "+path+" " {
			t.Fatalf("answered %q", first)
		}
		if _, got := ask(t, other, request(t, "POST", other.URL+path+"?q="+first[:1], "body")); got != name+" "+path+"?q="+name+" body" {
			t.Fatalf("%s is on %s, and %q answered", path, name, got)
		}
	}
	if len(seen) != 3 {
		t.Errorf("only %d nodes were asked", len(seen))
	}
}

// TestProxyFallsBack: with the body, and at the fallback's base path; the Host header stays.
func TestProxyFallsBack(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	p := proxyOf(t, "http://"+a.addr+"/base?k=1", "http://"+b.addr+"/other")
	a.kill()
	for i := range 8 {
		req := request(t, "POST", fmt.Sprintf("%s/f%d?q=1;2", p.URL, i), "body")
		req.Host = "www.example.org"
		resp, got := ask(t, p, req)
		if want := fmt.Sprintf("b /other/f%d?q=1;2 body", i); got != want || resp.Header.Get("X-Host") != "www.example.org" {
			t.Errorf("%q for %s", got, resp.Header.Get("X-Host"))
		}
	}
}

// TestHeaders: those that tell of the client, which no Connection header can have removed.
func TestHeaders(t *testing.T) {
	a := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q %q %q %q %q", r.Header["X-Forwarded-For"], r.Header["X-Forwarded-Proto"], r.Header["Forwarded"], r.Header["User-Agent"], r.Header["Accept-Encoding"])
	})
	p := proxyOf(t, a.addr)
	req := request(t, "GET", p.URL, "")
	req.Header = http.Header{"X-Forwarded-For": {"192.0.2.1", "192.0.2.2"}, "X-Forwarded-Proto": {"https"}, "Forwarded": {"for=x"},
		"User-Agent": {""}, "Connection": {"X-Forwarded-For, X-Forwarded-Proto"}, "Accept-Encoding": {"identity"}}
	if _, got := ask(t, p, req); got != `["192.0.2.1, 192.0.2.2, 127.0.0.1"] ["https"] ["for=x"] [] ["identity"]` {
		t.Error(got)
	}
}

// TestBadNodes: those that are good serve; without any, a request has the status 502.
func TestBadNodes(t *testing.T) {
	var log strings.Builder
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	a := named(t, "a")
	for i := range 5 {
		if _, got := ask(t, proxyOf(t, "::", a.addr, "http://u:secret@h", "", "%zz\n"), request(t, "GET", "http://"+a.addr+fmt.Sprint("/", i), "")); got != fmt.Sprintf("a /%d ", i) {
			t.Error(got)
		}
	}
	for _, nodes := range [][]string{nil, {"", "http://"}} {
		p := proxyOf(t, nodes...)
		if resp, _ := ask(t, p, request(t, "POST", p.URL, "body")); resp.StatusCode != http.StatusBadGateway {
			t.Errorf("%q: status %d", nodes, resp.StatusCode)
		}
	}
	if got := log.String(); strings.Count(got, "node left out") == 0 || strings.Contains(got, "secret") {
		t.Error(got)
	}
}

// TestErrorHandler has the sentinel.
func TestErrorHandler(t *testing.T) {
	a := named(t, "a")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := ConsistentHashReverseProxy(ctx, []string{a.addr})
	var got atomic.Value
	p.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
		got.Store(err)
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	a.kill()
	f := front(t, p)
	if resp, _ := ask(t, f, request(t, "GET", f.URL, "")); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("status %d", resp.StatusCode)
	}
	if err, ok := got.Load().(error); !ok || !errors.Is(err, ErrNoFallbackNodeFound) {
		t.Errorf("error %v", err)
	}
}

// upgrading echoes what comes after an upgrade.
func upgrading(t *testing.T) *server {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" {
			http.Error(w, "no upgrade", http.StatusBadRequest)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		io.Copy(conn, rw) //nolint:errcheck // the client ends it
	})
}

// TestUpgrade: of the node, and of the fallback; by the old call and with bounded loads.
func TestUpgrade(t *testing.T) {
	a, b := upgrading(t), upgrading(t)
	balancer := running(t, []string{a.addr, b.addr}, WithBalanceFactor(125))
	fronts := []*httptest.Server{proxyOf(t, a.addr, b.addr), front(t, balancer)}
	try := func() {
		t.Helper()
		for _, f := range fronts {
			for i := range 4 {
				upgrade(t, f, fmt.Sprintf("/%d", i))
			}
		}
	}
	try()
	a.kill()
	try()
}

func upgrade(t *testing.T, f *httptest.Server, path string) {
	t.Helper()
	conn, err := net.Dial("tcp", f.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // a TCP connection has deadlines
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", path)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	for _, word := range []string{"hello", "again"} {
		fmt.Fprint(conn, word)
		echo := make([]byte, len(word))
		if _, err := io.ReadFull(r, echo); err != nil || string(echo) != word {
			t.Fatalf("%q, %v", echo, err)
		}
	}
}

// TestStreaming: trailers both ways, chunks that come before the body's end, early hints, and a body that is asked for by 100 Continue.
func TestStreaming(t *testing.T) {
	goOn := make(chan struct{})
	a := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.Header().Set("Trailer", "Sum")
		fmt.Fprintf(w, "%s %s\n", body, r.Trailer.Get("Length"))
		w.(http.Flusher).Flush()
		<-goOn
		fmt.Fprint(w, "end")
		w.Header().Set("Sum", "42")
	})
	p := proxyOf(t, a.addr)
	var continued, hinted atomic.Bool
	trace := &httptrace.ClientTrace{
		Got100Continue: func() { continued.Store(true) },
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if code == http.StatusEarlyHints && h.Get("Link") != "" {
				hinted.Store(true)
			}
			return nil
		},
	}
	req := request(t, "POST", p.URL, "body")
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), trace))
	req.Header.Set("Expect", "100-continue")
	req.Trailer = http.Header{"Length": {"4"}}
	client := &http.Transport{ExpectContinueTimeout: patience}
	defer client.CloseIdleConnections()
	resp, err := client.RoundTrip(req)
	if err != nil {
		close(goOn)
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	line, err := r.ReadString('\n') // while the node still waits
	close(goOn)
	if err != nil || line != "body 4\n" {
		t.Errorf("%q, %v", line, err)
	}
	rest, err := io.ReadAll(r)
	if err != nil || string(rest) != "end" || resp.Trailer.Get("Sum") != "42" {
		t.Errorf("%q, trailer %q, %v", rest, resp.Trailer, err)
	}
	if !continued.Load() || !hinted.Load() {
		t.Errorf("100 Continue %v, early hints %v", continued.Load(), hinted.Load())
	}
}

// TestHTTP2: from the client by TLS, to the nodes without it, both ways streamed, with trailers; a node that dies has a fallback.
func TestHTTP2(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Sum")
		http.NewResponseController(w).EnableFullDuplex() //nolint:errcheck // HTTP/2 is always so
		fmt.Fprint(w, r.Proto)
		w.(http.Flusher).Flush()
		for part := make([]byte, 100); ; {
			n, err := r.Body.Read(part)
			w.Write(part[:n]) //nolint:errcheck // the client notices
			w.(http.Flusher).Flush()
			if err != nil {
				break
			}
		}
		w.Header().Set("Sum", "42")
	})
	h2c := func(s *http.Server) {
		s.Protocols = new(http.Protocols)
		s.Protocols.SetUnencryptedHTTP2(true)
	}
	a, b := serveWith(t, handler, h2c), serveWith(t, handler, h2c)
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	balancer := running(t, []string{a.addr, b.addr}, WithTransport(transport))
	f := httptest.NewUnstartedServer(balancer)
	f.EnableHTTP2 = true
	f.StartTLS()
	defer f.Close()
	client := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: f.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}}
	defer client.CloseIdleConnections()
	try := func(path string) {
		t.Helper()
		body, write := io.Pipe()
		req := request(t, "POST", f.URL+path, "")
		req.Body = body
		resp, err := client.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		for _, want := range []string{"HTTP/2.0", "ping", "pong"} {
			if want[0] == 'p' {
				fmt.Fprint(write, want)
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
				t.Fatalf("%q, %v", got, err)
			}
		}
		write.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.Trailer.Get("Sum") != "42" || resp.ProtoMajor != 2 {
			t.Errorf("%v, trailer %v, %s", err, resp.Trailer, resp.Proto)
		}
	}
	for i := range 4 {
		try(fmt.Sprintf("/%d", i))
	}
	a.kill()
	transport.CloseIdleConnections()
	for i := range 4 {
		try(fmt.Sprintf("/%d", i))
	}
}

// TestBuffersAreKept: a buffer of another size is not taken back.
func TestBuffersAreKept(t *testing.T) {
	var b httputil.BufferPool = buffers{}
	b.Put(make([]byte, 3))
	if got := b.Get(); len(got) != bufferSize {
		t.Errorf("%d bytes", len(got))
	}
}
