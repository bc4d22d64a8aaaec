package model

import (
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// some is a pattern of few words, so that many touch each other.
func some(r *rand.Rand, hosts []string) string {
	p := hosts[r.IntN(len(hosts))]
	for range r.IntN(4) {
		p += "/" + []string{"a", "b", "ab", "a.b", "a%2Fb"}[r.IntN(5)]
	}
	switch r.IntN(3) {
	case 0:
		p += "/"
	case 1:
		p += "/{$}"
	}
	if !strings.Contains(p, "/") {
		p += "/"
	}
	return p
}

// TestTableAgainstServeMux: for patterns and paths at random, the table finds what Go's ServeMux does.
func TestTableAgainstServeMux(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	hosts := []string{"", "", "h", "h.example", "192.0.2.1"}
	outcomes := map[string]int{}
	for range 150 {
		mux := http.NewServeMux()
		var routes []Route
		for range 1 + r.IntN(12) {
			s := some(r, hosts)
			if slices.ContainsFunc(routes, func(o Route) bool { return o.Service == s }) {
				continue
			}
			p, err := ParsePattern(s)
			if err != nil {
				t.Fatal(err)
			}
			mux.HandleFunc(s, func(http.ResponseWriter, *http.Request) {})
			routes = append(routes, Route{Pattern: p, Service: s})
		}
		table := NewTable(routes)
		for range 120 {
			url := strings.TrimSuffix(some(r, []string{""}), "{$}")
			host := hosts[r.IntN(len(hosts))]
			req := httptest.NewRequest(http.MethodGet, url, nil)
			req.Host = host
			h, want := mux.Handler(req)
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, req)
			got, ok := table.Find(HostOf(host), url)
			switch redirect := rec.Code == http.StatusTemporaryRedirect; {
			case want == "":
				outcomes["none"]++
				if ok {
					t.Fatalf("%q: %q%s: ServeMux finds nothing, the table %+v", routes, host, url, got)
				}
			case !ok || got.Route.Service != want || got.Redirect != redirect:
				t.Fatalf("%q: %q%s: ServeMux finds %q, redirect %v, the table %+v", routes, host, url, want, redirect, got)
			case redirect:
				outcomes["redirect"]++
			default:
				outcomes["found"]++
			}
		}
	}
	for _, o := range []string{"none", "redirect", "found"} {
		if outcomes[o] < 100 {
			t.Errorf("%s: only %d of these", o, outcomes[o])
		}
	}
}

// TestTable is about what ServeMux does not know: a prefix that takes its path as well, and hosts that are none.
func TestTable(t *testing.T) {
	t.Parallel()
	whole := Route{Pattern: Pattern{Path: "/a", Match: Prefix}, Service: "whole"}
	exact := Route{Pattern: Pattern{Path: "/a", Match: Exact}, Service: "exact"}
	rest := Route{Service: "rest"}
	host := Route{Pattern: Pattern{Host: "h", Path: "/b", Match: Prefix}, Service: "host"}
	table := NewTable([]Route{rest, whole, host})
	for _, c := range []struct{ host, path, want string }{
		{"", "/a", "whole"}, {"", "/a/b", "whole"}, {"x", "/a/", "whole"}, {"", "/ab", ""}, {"", "/", ""}, {"", "*", ""}, {"", "", ""},
		{"h", "/b", "host"}, {"h", "/b/c", "host"}, {"h/b", "/c", ""}, {"", "/b", ""}, {"h", "/a", "whole"},
	} {
		if got, _ := table.Find(c.host, c.path); got.Route.Service != c.want {
			t.Errorf("%q %q: %+v, want %q", c.host, c.path, got, c.want)
		}
	}
	if got, _ := NewTable([]Route{whole, exact}).Find("", "/a"); got.Route != exact {
		t.Errorf("beside an exact route: %+v", got)
	}
}
