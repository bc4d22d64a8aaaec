package app

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor"
)

// balancerToExplain is a balancer with five ports: one of nodes and pools, one of TLS, one of routes alone on one address, statistics, and one that
// could not be had.
func balancerToExplain(t testing.TB) (*supervisor.Status, discovery.Status) {
	t.Helper()
	bind := func(s string) model.Bind {
		if strings.HasPrefix(s, ":") {
			s = "[::]" + s
		}
		at := netip.MustParseAddrPort(s)
		b := model.Bind{IP: at.Addr(), Port: at.Port()}
		if at.Addr() == netip.IPv6Unspecified() {
			b.IP = netip.Addr{}
		}
		return b
	}
	route := func(at, pattern, service string) model.Route {
		r := model.Route{Bind: bind(at), Service: service}
		if pattern != "" {
			var err error
			if r.Pattern, err = model.ParsePattern(pattern); err != nil {
				t.Fatal(err)
			}
		}
		return r
	}
	rows := model.Rows{
		Listeners: []model.Listener{
			{Bind: bind(":80"), Management: true, Routed: true}, {Bind: bind(":443"), TLS: true}, {Bind: bind("192.0.2.1:8080")}, {Bind: bind(":1936"), Statistics: true},
		},
		Routes: []model.Route{
			route(":80", "", "nodes"), route(":80", "/a/", "pool"), route(":80", "h.example/a/b", "deep"), route(":80", "/empty", "empty"), route(":443", "", "nodes"),
			route("192.0.2.1:8080", "/only", "pool"),
		},
		Services: []model.Service{
			{Name: "nodes"}, {Name: "pool", Algorithm: model.TwoRandom, BasePath: "/base"}, {Name: "deep", Algorithm: model.LeastConn, Sticky: model.Sticky{Size: 1}}, {Name: "empty"},
		},
	}
	none, err := model.NewWeight(0)
	if err != nil {
		t.Fatal(err)
	}
	sup := &supervisor.Status{
		Phase: model.Serving, Rows: rows,
		Servers: []model.ServerStatus{
			{Service: "nodes", Name: "n1", Address: "10.0.0.1:80", Health: model.Up}, {Service: "nodes", Name: "n2", Address: "10.0.0.2:80", Health: model.Up},
			{Service: "nodes", Name: "n3", Health: model.Down, LastCheck: "connection refused"},
			{Service: "nodes", Name: "n4", Health: model.Up, Weight: none}, {Service: "nodes", Name: "n5", Health: model.Draining, Admin: model.Drain, LastCheck: "status 200"},
			{Service: "pool", Name: "p1", Health: model.Up}, {Service: "deep", Name: "d1", Health: model.Down}, {Service: "new", Name: "x", Health: model.Pending, LastCheck: "status 503"},
		},
		Problems: []model.Problem{{Owner: model.Owner{Source: "docker", Name: "web"}, Reason: "listen on :90: it is taken", Mend: "free it"}},
	}
	wanted := rows
	wanted.Listeners = append(wanted.Listeners[:len(wanted.Listeners):len(wanted.Listeners)], model.Listener{Bind: bind(":90")}, model.Listener{Bind: bind(":91")})
	wanted.Routes = append(wanted.Routes[:len(wanted.Routes):len(wanted.Routes)], route(":80", "/new/", "new"))
	col := discovery.Status{State: model.State{Rows: wanted, Offers: []model.Offer{{Owner: model.Owner{Source: "pools", Name: "/a/"}, Rows: model.Rows{Routes: rows.Routes[1:2]}}}}}
	return sup, col
}

func TestExplainURL(t *testing.T) {
	t.Parallel()
	sup, col := balancerToExplain(t)
	for _, c := range []struct {
		url   string
		fate  model.Fate
		wants []string // parts of the Explanation as JSON
	}{
		{"http://lb/x", model.Served, []string{`"http://lb:80/x"`, `"(rest)"`, "by a hash of the path among these 2 servers", "connection refused", "its weight is 0", "status 200"}},
		{"lb", model.Served, []string{`"http://lb:80/"`, `"nodes"`}},
		{"http://lb/a/x?y=1#z", model.Served, []string{`"http://lb:80/a/x?y=1"`, `"/a/"`, `"pools"`, `"path":"/base/a/x"`, "the only one", "it takes only what no other route does"}},
		{"http://LB./a?y=/b", model.Redirected, []string{`"location":"/a/?y=/b"`}},
		{"http://h.example:80/a/b", model.NoServer, []string{`"h.example/a/b"`, "a route of the host comes before one of any", "503"}},
		{"http://h.example:80/a/b/c", model.Served, []string{`"/a/"`}},
		{"http://lb/empty", model.NoServer, []string{"no servers"}},
		{"http://lb/new/x", model.Served, []string{`"nodes"`, "not in force: server x has not passed its first check: status 503"}},
		{"http://lb/1/lb/status", model.Own, nil},
		{"http://lb/1/lb/other", model.Served, nil},
		{"http://lb/a//b", model.Served, []string{`"/a/"`}},
		{"http://lb/%61/", model.Served, []string{`"http://lb:80/%61/"`, `"(rest)"`}},
		{"https://lb/", model.Served, []string{":443"}},
		{"https://lb:80/", model.Unheard, []string{"speaks no TLS", "http://"}},
		{"http://lb:443/", model.Unheard, []string{"TLS and nothing else", "https://"}},
		{"http://192.0.2.1:8080/only", model.Served, []string{"192.0.2.1:8080"}},
		{"http://lb:8080/no", model.Unrouted, []string{"no route of this port"}},
		{"http://192.0.2.2:8080/only", model.Unheard, []string{"nobody listens on port 8080 of 192.0.2.2", "192.0.2.1:8080"}},
		{"http://[::ffff:192.0.2.1]:8080/only", model.Served, nil},
		{"http://[2001:db8::1]/a/x", model.Served, []string{`"http://[2001:db8::1]:80/a/x"`}},
		{"http://lb:1936/", model.Page, nil},
		{"http://lb:9999/", model.Unheard, []string{"nobody listens on port 9999", ":80"}},
		{"http://lb:90/", model.Unheard, []string{":90 is wanted by docker web: it is taken", "free it"}},
		{"http://lb:91/", model.Unheard, []string{":91 is wanted, and not in force"}},
		{"example.org/?u=http://x", model.Served, []string{`"http://example.org:80/?u=http://x"`}},
	} {
		at, err := parseTarget(c.url)
		if err != nil {
			t.Errorf("%s: %v", c.url, err)
			continue
		}
		e := explainTarget(at, sup, col)
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(data), `\u0026`, "&")
		if e.Fate != c.fate || e.Why == "" {
			t.Errorf("%s: %s", c.url, text)
		}
		for _, w := range c.wants {
			if !strings.Contains(text, w) {
				t.Errorf("%s: %s lacks %q", c.url, text, w)
			}
		}
	}
	at, err := parseTarget("http://lb/")
	if err != nil {
		t.Fatal(err)
	}
	if e := explainTarget(at, &supervisor.Status{Phase: model.Starting}, discovery.Status{}); e.Fate != model.Unheard || len(e.Notes) != 1 {
		t.Errorf("before anything is in force: %+v", e)
	}
}

func TestExplainURLRefuses(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "empty", "ftp://h/": "scheme", "http://": "no host", "http://h:0/": "no port", "http://h:99999/": "no port", "http://h:x/": "cannot be read", "http://u:p@h/": "leave the user out",
		"http://h/a b": "%20", "http://h/\x1b[31m": "%1B", "http://h/é": "%C3", "http://[::1/": "cannot be read", "http://h/%zz": "cannot be read", "/a": "no host",
		"http://h/" + strings.Repeat("a", maxURL): "at most",
	} {
		if at, err := parseTarget(in); err == nil || !strings.Contains(err.Error(), want) || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
			t.Errorf("%.60q: %+v, %v", in, at, err)
		}
	}
}

// TestExplainBounded: of a thousand routes that would take a request ten are told.
func TestExplainBounded(t *testing.T) {
	t.Parallel()
	sup, col := balancerToExplain(t)
	path := ""
	for i := range 400 {
		path += fmt.Sprintf("/%d", i%10)
		sup.Rows.Routes = append(sup.Rows.Routes, model.Route{Bind: sup.Rows.Listeners[0].Bind, Pattern: model.Pattern{Path: path, Match: model.Prefix}, Service: "pool"})
	}
	at, err := parseTarget("http://lb" + path + "/x")
	if err != nil {
		t.Fatal(err)
	}
	if e := explainTarget(at, sup, col); e.Fate != model.Served || len(e.Others) != maxOthers {
		t.Errorf("%s, %d others", e.Fate, len(e.Others))
	}
}

func FuzzExplainURL(f *testing.F) {
	for _, s := range []string{"http://lb/a/x", "https://[::1]:443/%2f?#", "h", "//", "http://h:80\\x/", "http://h/1/lb/status?x=;"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at, err := parseTarget(text)
		if err != nil {
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Fatalf("%q: %q", text, err)
			}
			return
		}
		sup, col := balancerToExplain(t)
		e := explainTarget(at, sup, col)
		if e.Fate == "" || e.Why == "" || strings.ContainsFunc(e.URL, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("%q: %+v", text, e)
		}
		again, err := parseTarget(e.URL)
		if err != nil || explainTarget(again, sup, col).Fate != e.Fate {
			t.Fatalf("%q is understood as %q, which gives %+v, %v", text, e.URL, again, err)
		}
	})
}
