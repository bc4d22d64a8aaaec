package templates

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// startBundle runs HAProxy with what the built-in template gives and the files beside it.
func startBundle(t *testing.T, h haproxytest.HAProxy, s model.State, g Globals) *haproxytest.Instance {
	t.Helper()
	b, err := ours().Render(s, g, abilities(t, h.Version))
	if err != nil {
		t.Fatal(err)
	}
	writeFiles(t, g.RunDir, b)
	return h.Start(t, string(b.Main), "r1")
}

func writeFiles(t *testing.T, dir string, b conf.Bundle) {
	t.Helper()
	for name, f := range b.Files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// routing is a State of many listeners with patterns of their own; the nth pattern of each leads to the service sN, whose base path is /N,
// so that the node sees which one was taken.
type routing struct {
	state    model.State
	patterns [][]string // by listener
}

const restService = "rest"

func newRouting(node *rawNode, ports []int, patterns [][]string) routing {
	r := routing{patterns: patterns}
	most := 0
	for i, port := range ports {
		s := sample(port, node.addr)
		bind := s.Listeners[0].Bind
		s.Listeners[0].Routed = true
		r.state.Listeners = append(r.state.Listeners, s.Listeners...)
		if i%2 == 0 { // every other one has a service for the rest
			r.state.Routes = append(r.state.Routes, model.Route{Bind: bind, Service: restService})
		}
		for n, text := range patterns[i] {
			p, err := model.ParsePattern(text)
			if err != nil {
				panic(err)
			}
			r.state.Routes = append(r.state.Routes, model.Route{Bind: bind, Pattern: p, Service: fmt.Sprintf("s%d", n)})
		}
		most = max(most, len(patterns[i]))
	}
	for n := -1; n < most; n++ {
		svc := sample(1).Services[0]
		svc.Name, svc.BasePath, svc.Algorithm, svc.Feedback, svc.Check = fmt.Sprintf("s%d", n), fmt.Sprintf("/%d", n), model.TwoRandom, false, model.Check{Kind: model.CheckOff}
		if n < 0 {
			svc.Name, svc.BasePath = restService, ""
		}
		r.state.Services = append(r.state.Services, svc)
		r.state.Servers = append(r.state.Servers, servers(svc.Name, node.addr)...)
	}
	return r
}

// mux is the same as Go has it; a pattern's handler says its number.
func (r routing) mux(listener int) *http.ServeMux {
	mux := http.NewServeMux()
	for n, p := range r.patterns[listener] {
		mux.HandleFunc(p, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "%d", n) })
	}
	return mux
}

// found is what became of a request.
type found struct {
	status   int    // 200, 404, or 301 for any redirect to the slash
	path     string // as the server sees it
	location string // path and query, decoded
}

// asked gives what ServeMux makes of a request, as HAProxy would say it.
func (r routing) asked(t *testing.T, listener int, mux *http.ServeMux, raw string) found {
	t.Helper()
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	h, pattern := mux.Handler(req)
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	target := originForm(raw)
	switch {
	case rec.Code == http.StatusTemporaryRedirect:
		return found{status: 301, location: decoded(t, rec.Header().Get("Location"))}
	case pattern != "":
		return found{status: 200, path: "/" + rec.Body.String() + target}
	case listener%2 == 0:
		return found{status: 200, path: target}
	}
	return found{status: 404}
}

// originForm is path and query of a request; with a whole URL, the node gets that as it was sent.
func originForm(head string) string {
	target := strings.Fields(head)[1]
	if strings.HasPrefix(target, "http://") {
		target = target[len("http://"):]
		target = target[strings.IndexByte(target, '/'):]
	}
	return target
}

// decoded is a Location in one of the forms that mean the same.
func decoded(t *testing.T, location string) string {
	t.Helper()
	u, err := url.Parse(location)
	if err != nil {
		t.Fatal(err)
	}
	return u.Path + "?" + u.RawQuery
}

// client is a kept-alive connection.
type client struct {
	net.Conn
	in *bufio.Reader
}

func connect(t *testing.T, port int) *client {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	return &client{c, bufio.NewReader(c)}
}

// ask sends a request and gives what came of it; a connection that HAProxy closes is made again.
func (c *client) ask(t *testing.T, port int, node *rawNode, raw string) found {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	method, _, _ := strings.Cut(raw, " ")
	resp, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err = firstOf(err, resp.Body.Close()); err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	f := found{status: resp.StatusCode}
	if heads := node.take(); len(heads) == 1 {
		f.path = originForm(heads[0])
	} else if len(heads) > 1 {
		t.Fatalf("%q: %q arrived", raw, heads)
	}
	if f.status == 301 {
		f.location = decoded(t, resp.Header.Get("Location"))
	}
	if f.status == 404 && (resp.Header.Get("Content-Type") != "application/json" || method != "HEAD" && !strings.HasPrefix(string(body), `{"error":{"message":"`)) {
		t.Errorf("%q: not found is said by %s %q", raw, resp.Header.Get("Content-Type"), body)
	}
	if resp.Close {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		*c = *connect(t, port)
	}
	return f
}

func firstOf(errs ...error) error {
	i := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	if i < 0 {
		return nil
	}
	return errs[i]
}

// The words that patterns and URLs are made of: few, so that many touch each other, and with every character that a path may have.
var (
	muxSegments = []string{"a", "a", "b", "b", "ab", "A", "a.b", "a-_~", "a%2Fb", "a;v=1", "x,y", "@:", "a=b&c", "!$'()*+", "%C3%A9", "1"}
	muxHosts    = []string{"", "", "", "h", "h.example", "192.0.2.1", "2001:db8::1"}
	muxAsked    = []string{"h", "h", "h.example", "other", "h:80", "h.example:8080", "192.0.2.1:81", "[2001:db8::1]:80", "x.h"}
	muxQueries  = []string{"", "", "", "?", "?x=1", "?q=/a/../b?c", "?a=%2f&b"}
)

func muxPath(r *rand.Rand) string {
	p := ""
	for range r.IntN(4) {
		p += "/" + muxSegments[r.IntN(len(muxSegments))]
	}
	return p
}

func muxPattern(r *rand.Rand) string {
	return muxHosts[r.IntN(len(muxHosts))] + muxPath(r) + []string{"/", "/{$}", "/", "/" + muxSegments[r.IntN(len(muxSegments))]}[r.IntN(4)]
}

func muxRequest(r *rand.Rand, patterns []string) string {
	path := muxPath(r)
	if r.IntN(2) == 0 { // near one that is there
		path = patterns[r.IntN(len(patterns))]
		path = strings.TrimSuffix(strings.TrimSuffix(path[strings.IndexByte(path, '/'):], "{$}"), "/") + []string{"", "/", "/a", "/a/"}[r.IntN(4)]
	} else if r.IntN(2) == 0 {
		path += "/"
	}
	if path == "" {
		path = "/"
	}
	host := muxAsked[r.IntN(len(muxAsked))]
	query := muxQueries[r.IntN(len(muxQueries))]
	method := []string{"GET", "GET", "GET", "HEAD", "PUT", "DELETE"}[r.IntN(6)]
	switch r.IntN(12) {
	case 0:
		return method + " " + path + query + " HTTP/1.0\r\n\r\n"
	case 1:
		return method + " http://" + host + path + query + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
	}
	return method + " " + path + query + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
}

// TestServeMux: for patterns and requests at random, HAProxy with our template chooses what Go's http.ServeMux chooses, redirects as it does, and
// says 404, or goes to the service of the rest, where it finds nothing.
func TestServeMux(t *testing.T) {
	t.Parallel()
	const listeners, patterns, requests = 24, 90, 170
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		r := rand.New(rand.NewPCG(7, uint64(len(h.Version))+uint64(h.Version[2])))
		all := make([][]string, listeners)
		for i := range all {
			for len(all[i]) < 1+i*patterns/listeners*2 {
				p := muxPattern(r)
				leaves := p != "/" || i%4 == 2 // with it, nothing is not found
				if leaves && !slices.Contains(all[i], p) {
					all[i] = append(all[i], p)
				}
			}
		}
		node := startNode(t, "node")
		ports := holdPorts(t, listeners)
		routes := newRouting(node, ports, all)
		g := sampleGlobals()
		g.RunDir, g.Bundled = shortDir(t), "bundle"
		startBundle(t, h, routes.state, g)
		outcomes := map[int]int{}
		for i, port := range ports {
			mux, c := routes.mux(i), connect(t, port)
			for range requests {
				raw := muxRequest(r, all[i])
				want := routes.asked(t, i, mux, raw)
				if got := c.ask(t, port, node, raw); got != want {
					t.Errorf("patterns %q\nrequest %q: HAProxy %+v, ServeMux %+v", all[i], raw, got, want)
				}
				outcomes[want.status]++
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if t.Failed() {
				return
			}
		}
		t.Logf("%v", outcomes)
		for _, status := range []int{200, 301, 404} {
			if outcomes[status] < 100 {
				t.Errorf("only %d requests with status %d: the generator is worthless", outcomes[status], status)
			}
		}
	})
}

// TestServeMuxDiffers: what docs/routes.md lists, where we do something else than ServeMux on purpose.
func TestServeMuxDiffers(t *testing.T) {
	t.Parallel()
	patterns := []string{"h/a", "h.example/", "[2001:db8::1]/", "/s/", "/e%2Fe", "/t/{$}", "/p", "/d/"}
	number := func(p string) string { return fmt.Sprintf("/%d", slices.Index(patterns, p)) }
	request := func(path, host string) string { return "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
	cases := []struct {
		name, raw string
		want      found
		older     *found // before 3.0; nil: the same
	}{
		{"host in upper case", request("/a", "H"), found{200, number("h/a") + "/a", ""}, nil},
		{"dot behind the host", request("/x", "h.example."), found{200, number("h.example/") + "/x", ""}, nil},
		{"dot and port behind the host", request("/x", "h.example.:80"), found{200, number("h.example/") + "/x", ""}, nil},
		{"IPv6 without port", request("/x", "[2001:db8::1]"), found{200, number("[2001:db8::1]/") + "/x", ""}, nil},
		{"IPv6 written otherwise", request("/x", "[2001:db8:0::1]"), found{404, "", ""}, nil},
		{"empty segment", request("/d//x", "z"), found{200, number("/d/") + "/d//x", ""}, nil},
		{"empty segment before", request("//p", "z"), found{404, "", ""}, nil},
		{"dots", request("/d/../p", "z"), found{200, number("/d/") + "/d/../p", ""}, nil},
		{"dots to another", request("/x/../p", "z"), found{404, "", ""}, nil},
		{"escape of a letter", request("/%70", "z"), found{404, "", ""}, nil},
		{"escape in lower case", request("/e%2fe", "z"), found{404, "", ""}, nil},
		{"escape", request("/e%2Fe", "z"), found{200, number("/e%2Fe") + "/e%2Fe", ""}, nil},
		{"empty host", request("/p", ""), found{200, number("/p") + "/p", ""}, nil},
		{"host with a slash", request("/x", "h.example/d"), found{400, "", ""}, nil},
		{"two hosts", "GET /p HTTP/1.1\r\nHost: h\r\nHost: z\r\n\r\n", found{400, "", ""}, nil},
		{"another host in the URL", "GET http://h/a HTTP/1.1\r\nHost: z\r\n\r\n", found{400, "", ""}, nil},
		{"URL without a path", "GET http://h.example HTTP/1.1\r\nHost: h.example\r\n\r\n", found{200, number("h.example/") + "/", ""}, &found{404, "", ""}},
		{"the whole server", "OPTIONS * HTTP/1.1\r\nHost: h.example\r\n\r\n", found{404, "", ""}, nil},
		{"redirect of a POST", "POST /s HTTP/1.1\r\nHost: z\r\nContent-Length: 0\r\n\r\n", found{301, "", "/s/?"}, nil},
		{"redirect before {$}", request("/t?a=1", "z"), found{301, "", "/t/?a=1"}, nil},
		{"below {$}", request("/t/x", "z"), found{404, "", ""}, nil},
		{"long path", request("/d/"+strings.Repeat("x/", 3500), "z"), found{200, number("/d/") + "/d/" + strings.Repeat("x/", 3500), ""}, nil},
		{"management", request("/1/lb/nodes", "h.example"), found{503, "", ""}, nil},
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		node := startNode(t, "node")
		ports := holdPorts(t, 2)
		g := sampleGlobals()
		g.RunDir, g.Bundled, g.ManagementSocket = shortDir(t), "bundle", shortDir(t)+"/nobody.sock"
		routes := newRouting(node, ports, [][]string{nil, patterns})
		startBundle(t, h, routes.state, g)
		for _, c := range cases {
			want := c.want
			if c.older != nil && !h.AtLeast(3, 0) {
				want = *c.older
			}
			conn := connect(t, ports[1])
			if got := conn.ask(t, ports[1], node, c.raw); got != want {
				t.Errorf("%s: %+v, want %+v", c.name, got, want)
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		}
		// A listener without a route goes to its service for the rest.
		conn := connect(t, ports[0])
		if got := conn.ask(t, ports[0], node, request("/x?y", "h")); got != (found{200, "/x?y", ""}) {
			t.Errorf("the rest: %+v", got)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestKnownMaps: a template that has rendered other routes before gives what a fresh one gives.
func TestKnownMaps(t *testing.T) {
	t.Parallel()
	used := Builtin()
	g := sampleGlobals()
	g.RunDir, g.Bundled = "/run/fnlb", "bundle"
	route := func(s model.State, pattern string) model.State {
		p, err := model.ParsePattern(pattern)
		if err != nil {
			t.Fatal(err)
		}
		s.Routes = append(slices.Clone(s.Routes), model.Route{Bind: s.Listeners[0].Bind, Pattern: p, Service: "nodes"})
		return s
	}
	plain := sample(8081, addrs("192.0.2.1:80")...)
	other := g
	other.RunDir = "/run/other"
	for i, c := range []struct {
		state   model.State
		globals Globals
	}{
		{route(plain, "/a"), g}, {route(plain, "/b"), g}, {route(plain, "/b"), g}, {route(plain, "/b"), other}, {plain, g}, {route(plain, "/a"), g}, {route(sample(8082), "/a"), g},
	} {
		got, err := used.Render(c.state, c.globals, abilities(t, "2.6"))
		if err != nil {
			t.Fatal(err)
		}
		want, err := Builtin().Render(c.state, c.globals, abilities(t, "2.6"))
		if err != nil {
			t.Fatal(err)
		}
		if got.Revision() != want.Revision() || len(got.Files) != len(want.Files) {
			t.Errorf("rendering %d: %d files, want %d; text\n%s", i, len(got.Files), len(want.Files), got.Main)
		}
	}
}

// TestRoutesRefused: what could mean something else in a map or in the text is no rendering, and a template that does not know the maps is told.
func TestRoutesRefused(t *testing.T) {
	t.Parallel()
	g := sampleGlobals()
	g.RunDir, g.Bundled = "/run/fnlb", "bundle"
	good := model.Pattern{Path: "/a", Match: model.Prefix}
	for name, c := range map[string]struct {
		change func(s *model.State, r *model.Route, g *Globals)
		want   string
	}{
		"a space":          {func(_ *model.State, r *model.Route, _ *Globals) { r.Path = "/a b" }, "no character of a path"},
		"a newline":        {func(_ *model.State, r *model.Route, _ *Globals) { r.Host = "h\n/x" }, "host"},
		"no service":       {func(_ *model.State, r *model.Route, _ *Globals) { r.Service = "none" }, "there is no service"},
		"twice":            {func(s *model.State, r *model.Route, _ *Globals) { s.Routes = append(s.Routes, *r) }, "two routes"},
		"the rest twice":   {func(_ *model.State, r *model.Route, _ *Globals) { r.Pattern = model.Pattern{} }, "two routes for the rest"},
		"two certificates": {func(s *model.State, r *model.Route, _ *Globals) { r.Cert, s.Routes[0].Cert = "a", "b" }, "two certificates"},
		"no run directory": {func(_ *model.State, _ *model.Route, g *Globals) { g.RunDir = "" }, "run directory"},
		"a comma in it":    {func(_ *model.State, _ *model.Route, g *Globals) { g.RunDir = "/a,b" }, "run directory"},
		"statistics": {func(s *model.State, _ *model.Route, _ *Globals) {
			s.Listeners[0] = model.Listener{Bind: s.Listeners[0].Bind, Statistics: true, ClientTimeout: time.Minute}
			s.Routes = s.Routes[:0]
		}, "leads nowhere else"},
		"no such algorithm": {func(s *model.State, _ *model.Route, _ *Globals) { s.Services[0].Algorithm = 99 }, "no algorithm"},
		"base path":         {func(s *model.State, _ *model.Route, _ *Globals) { s.Services[0].BasePath = "/a\n" }, "base path"},
		"factor without hash": {func(s *model.State, _ *model.Route, _ *Globals) {
			s.Services[0].Algorithm, s.Services[0].Feedback, s.Services[0].BalanceFactor = model.TwoRandom, false, 125
		}, "has none"},
		"nothing": {func(*model.State, *model.Route, *Globals) {}, ""},
	} {
		s, globals := sample(8081, addrs("192.0.2.1:80")...), g
		r := model.Route{Bind: s.Listeners[0].Bind, Pattern: good, Service: "nodes"}
		c.change(&s, &r, &globals)
		s.Routes = append(s.Routes, r)
		_, err := ours().Render(s, globals, abilities(t, "2.6"))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	s := sample(8081, addrs("192.0.2.1:80")...)
	s.Routes = append(s.Routes, model.Route{Bind: s.Listeners[0].Bind, Pattern: good, Service: "nodes"})
	own, err := Parse("own.tmpl", []byte("frontend f\n  bind :80\n"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := own.Render(s, g, abilities(t, "2.6"))
	if err != nil || len(b.Files) > 0 || len(b.Notes) != 2 || !strings.Contains(b.Notes[0].Reason, "lead nowhere") {
		t.Errorf("a template that does not know the maps: %v, %d files, %+v", err, len(b.Files), b.Notes)
	}
}
