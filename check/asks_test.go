package check

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// odd are bodies with everything that has a meaning in an expression or in HAProxy's text.
var odd = []string{`a.b*(c)|[d]{2}^$\`, `it's "fine" $HOME #1 %[src]`, "grün"}

// bodies is the table: what a node does, and whether that passes a rule that wants the body ok or OK, or one of odd.
var bodies = []struct {
	name string
	does behaviour
	want bool
}{
	{"ok", sized("200 OK", "ok"), true},
	{"OK", sized("200 OK", "OK"), true},
	{"Ok", sized("200 OK", "Ok"), false},
	{"white space around", sized("200 OK", "\t\r\n\v\f ok \r\n\n"), true},
	{"white space within", sized("200 OK", "o k"), false},
	{"no-break space around", sized("200 OK", "\u00a0ok"), false},
	{"more behind", sized("200 OK", "okay"), false},
	{"more before", sized("200 OK", "not ok"), false},
	{"twice", sized("200 OK", "ok\nok"), false},
	{"quoted", sized("200 OK", `"ok"`), false},
	{"NUL behind", sized("200 OK", "ok\x00"), false},
	{"empty", sized("200 OK", ""), false},
	{"white space alone", sized("200 OK", " \n"), false},
	{"500", sized("500 Internal Server Error", "ok"), true},
	{"404", sized("404 Not Found", "ok\n"), true},
	{"redirect", sized("302 Found", "ok", "Location: /elsewhere"), true},
	{"204", say("HTTP/1.1 204 No Content\r\n\r\n"), false},
	{"chunked", say(header + "Transfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n"), true},
	{"chunked, more behind", say(header + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n2\r\nay\r\n0\r\n\r\n"), false},
	{"two pieces", drip(50*time.Millisecond, header+"Content-Length: 2\r\n\r\no", "k"), true},
	{"two pieces, the first a good one", drip(100*time.Millisecond, header+"Content-Length: 4\r\n\r\nok", "ay"), false},
	{"chunks in two pieces, the first a good one", drip(100*time.Millisecond, header+"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "2\r\nay\r\n0\r\n\r\n"), false},
	{"until the end", say(header + "\r\nok"), true},
	{"until the end, in two pieces", drip(100*time.Millisecond, header+"\r\nok", "ay"), false},
	{"kept open", hold(header + "Content-Length: 2\r\n\r\nok"), true},
	{"kept open without length", hold(header + "\r\nok"), false},
	{"the rest never comes", hold(header + "Content-Length: 4\r\n\r\nok"), false},
	{"HTTP/1.0", say("HTTP/1.0 200 OK\r\n\r\nok"), true},
	{"huge", sized("200 OK", "ok"+strings.Repeat("x", 1<<20)), false},
	{"silent", hold(""), false},
	{"closed", say(""), false},
	{"first odd one", sized("200 OK", odd[0]), true},
	{"second odd one", sized("200 OK", odd[1]+"\n"), true},
	{"third odd one", sized("200 OK", odd[2]), true},
	{"near the first odd one", sized("200 OK", strings.ReplaceAll(odd[0], ".", "x")), false},
	{"first part of it", sized("200 OK", "a.b"), false},
}

// patientRule has times that no busy machine exceeds.
func patientRule() model.Check {
	return model.Check{Interval: 2 * time.Second, Timeout: 4 * time.Second, Rise: 1, Fall: 1}
}

// TestBodies gives one table of answers to our probe and to the checks of each HAProxy: both must find what the table says.
func TestBodies(t *testing.T) {
	t.Parallel()
	rule := patientRule()
	rule.Asks = []model.Ask{{Path: "/healthz", Bodies: append([]string{"ok", "OK"}, odd...)}}
	addrs := make([]netip.AddrPort, len(bodies))
	for i, b := range bodies {
		addrs[i] = node(t, b.does)
	}
	t.Run("probe", func(t *testing.T) {
		t.Parallel()
		p := NewProber()
		for i, b := range bodies {
			t.Run(b.name, func(t *testing.T) {
				t.Parallel()
				r := p.Probe(t.Context(), rule, addrs[i], "node:80")
				if r.OK != b.want || r.Final || r.Mend != "" || len(r.Reason) > maxReason || strings.Trim(r.Reason, printable) != "" {
					t.Errorf("%+v, want pass %v", r, b.want)
				}
			})
		}
	})
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		cfg := "defaults\n  mode http\n  timeout connect 2s\n  timeout server 2s\n  timeout client 2s\n" + backend(t, "body", rule, addrs)
		found := finished(t, h.Start(t, cfg, "r1"))
		for i, b := range bodies {
			if got := found[fmt.Sprintf("body/s%d", i)]; strings.HasPrefix(got, "L7OK") != b.want {
				t.Errorf("%s: HAProxy found %s, want pass %v", b.name, got, b.want)
			}
		}
	})
}

// byPath is a node that does something else for each path, and counts.
type byPath struct {
	does  map[string]behaviour
	mu    sync.Mutex
	asked []string
}

// got lists what it was asked for so far.
func (n *byPath) got() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.asked, " ")
}

func (n *byPath) listen(t *testing.T) netip.AddrPort {
	return listen(t, func(c net.Conn, request string, gone <-chan struct{}) {
		path := strings.Fields(request)[1]
		n.mu.Lock()
		n.asked = append(n.asked, path)
		n.mu.Unlock()
		n.does[path](c, gone)
	})
}

// TestAsks: all paths of a rule must pass, each on a connection of its own, one after another until one does not, and in the time of all of
// them together.
func TestAsks(t *testing.T) {
	t.Parallel()
	rule := patientRule()
	rule.Asks = []model.Ask{{Path: "/a"}, {Path: "/b", Bodies: []string{"ok"}}, {Path: "/c", MinVersion: least}}
	slow := func(b behaviour) behaviour {
		return func(c net.Conn, gone <-chan struct{}) {
			select {
			case <-time.After(rule.Timeout * 2 / 5): // all of them need more than the time of one
			case <-gone:
			}
			b(c, gone)
		}
	}
	a, b, c := sized("200 OK", "any"), sized("200 OK", "ok\n"), sized("200 OK", good)
	cases := []struct {
		name    string
		a, b, c behaviour
		want    bool
		reason  string
		asked   string // what a probe asks
	}{
		{"all", a, b, c, true, "", "/a /b /c"},
		{"the first", sized("500 Oops", "any"), b, c, false, "/a gave status 500", "/a"},
		{"the second", a, sized("200 OK", "no"), c, false, `"no"`, "/a /b"},
		{"the third", a, b, sized("200 OK", `{"version":"0.0.1"}`), false, "0.0.1", "/a /b /c"},
		{"cut at the second", a, reset(""), c, false, "reset", "/a /b"},
		{"all are slow", slow(a), slow(b), slow(c), true, "", "/a /b /c"},
	}
	addrs := make([]netip.AddrPort, len(cases))
	nodes := make([]*byPath, len(cases))
	for i, c := range cases {
		nodes[i] = &byPath{does: map[string]behaviour{"/a": c.a, "/b": c.b, "/c": c.c}}
		addrs[i] = nodes[i].listen(t)
	}
	p := NewProber()
	for i, c := range cases {
		r := p.Probe(t.Context(), rule, addrs[i], "node:80")
		if r.OK != c.want || !strings.Contains(r.Reason, c.reason) {
			t.Errorf("%s: %+v, want pass %v", c.name, r, c.want)
		}
		if got := nodes[i].got(); got != c.asked {
			t.Errorf("%s: asked %q, want %q", c.name, got, c.asked)
		}
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		cfg := "defaults\n  mode http\n  timeout connect 2s\n  timeout server 2s\n  timeout client 2s\n" + backend(t, "asks", rule, addrs)
		found := finished(t, h.Start(t, cfg, "r1"))
		for i, c := range cases {
			if got := found[fmt.Sprintf("asks/s%d", i)]; strings.HasPrefix(got, "L7OK") != c.want {
				t.Errorf("%s: HAProxy found %s, want pass %v", c.name, got, c.want)
			}
		}
	})
}
