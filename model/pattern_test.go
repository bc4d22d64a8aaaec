package model

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

func TestParsePattern(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		want Pattern
		out  string // as String gives it; empty: as it came in
	}{
		{"/", Pattern{Path: "/", Match: Prefix}, ""},
		{"/{$}", Pattern{Path: "/", Match: Exact}, ""},
		{"/a", Pattern{Path: "/a", Match: Exact}, ""},
		{"/a/", Pattern{Path: "/a", Match: Prefix, Slash: true}, ""},
		{"/a/{$}", Pattern{Path: "/a/", Match: Exact, Slash: true}, ""},
		{"/a/b.c/", Pattern{Path: "/a/b.c", Match: Prefix, Slash: true}, ""},
		{"example.org/", Pattern{Host: "example.org", Path: "/", Match: Prefix}, ""},
		{"Example.ORG./a", Pattern{Host: "example.org", Path: "/a", Match: Exact}, "example.org/a"},
		{"192.0.2.1/a/", Pattern{Host: "192.0.2.1", Path: "/a", Match: Prefix, Slash: true}, ""},
		{"[2001:DB8:0::1]/", Pattern{Host: "[2001:db8::1]", Path: "/", Match: Prefix}, "[2001:db8::1]/"},
		{"2001:db8::1/", Pattern{Host: "[2001:db8::1]", Path: "/", Match: Prefix}, "[2001:db8::1]/"},
		{"/a%2Fb;c=1,d!$&'()*+=:@~/", Pattern{Path: "/a%2Fb;c=1,d!$&'()*+=:@~", Match: Prefix, Slash: true}, ""},
		{"xn--bcher-kva.example/_/-", Pattern{Host: "xn--bcher-kva.example", Path: "/_/-", Match: Exact}, ""},
	} {
		got, err := ParsePattern(c.in)
		if err != nil || got != c.want {
			t.Errorf("%q gives %+v, %v", c.in, got, err)
			continue
		}
		if out := got.String(); out != c.in && out != c.out {
			t.Errorf("%q is written %q", c.in, out)
		}
		if again, err := ParsePattern(got.String()); err != nil || again != got {
			t.Errorf("%q read again gives %+v, %v", c.in, again, err)
		}
	}
}

func TestParsePatternRefuses(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                               "must not be empty",
		"GET /":                          "method",
		"/a b":                           "space",
		"a":                              "has no /",
		"/a/{x}":                         "only {$} at the end",
		"/{x...}":                        "only {$} at the end",
		"/{$}/a":                         "only {$} at the end",
		"/a{$}":                          "only {$} at the end",
		"{host}/":                        "host has a wildcard",
		"*.example.org/":                 "host has a wildcard",
		"example.org:80/":                "has a port",
		"[::1]:80/":                      "has a port",
		"fe80::1%eth0/":                  "zone",
		"a..b/":                          "host is no name",
		"bücher.example/":                "xn--",
		strings.Repeat("a", 64) + "/":    "host is no name",
		strings.Repeat("a.", 127) + "b/": "255 bytes",
		"/a?b":                           "query",
		"/a//b":                          `write "/a/b"`,
		"/a/../b/":                       `write "/b/"`,
		"/./":                            `write "/"`,
		"//":                             `write "/"`,
		"/%61":                           "write a in place of %61",
		"/%2":                            "two hexadecimal digits",
		"/%zz":                           "two hexadecimal digits",
		"/ü":                             "%C3",
		"/a#b":                           "%23",
		"/a\nb":                          "%0A",
		"/a\x00":                         "%00",
		`/"`:                             "%22",
		"/" + strings.Repeat("a", 1024):  "1025 bytes",
	} {
		p, err := ParsePattern(in)
		if want == "" {
			if err != nil {
				t.Errorf("%q is refused: %v", in, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %+v, %v; want %q", in, p, err, want)
		}
	}
}

func TestPatternValidate(t *testing.T) {
	t.Parallel()
	for _, p := range []Pattern{
		{Host: "a"}, {Path: "/"}, {Slash: true}, {Match: 3, Path: "/"}, {Match: Prefix}, {Match: Prefix, Path: "/a/"}, {Match: Prefix, Path: "/", Slash: true},
		{Match: Exact, Path: "/a", Slash: true}, {Match: Exact, Path: "/", Slash: true}, {Match: Exact, Host: "A", Path: "/"},
		{Match: Exact, Host: "a b", Path: "/"}, {Match: Exact, Path: "/a b"}, {Match: Exact, Host: "::1", Path: "/"},
	} {
		if err := p.Validate(); err == nil {
			t.Errorf("%+v is accepted", p)
		}
	}
}

func TestHostOf(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "", "a": "a", "A.Example.": "a.example", "a:80": "a", "a.:80": "a", "a:": "a", "[::1]": "[::1]", "[::1]:80": "[::1]", "192.0.2.1:1": "192.0.2.1",
	} {
		if got := HostOf(in); got != want {
			t.Errorf("%q gives %q", in, got)
		}
	}
}

func TestBasePath(t *testing.T) {
	t.Parallel()
	for in, good := range map[string]bool{"/a": true, "/a/b%20c": true, "/": false, "/a/": false, "": false, "a": false, "/a/..": false, "/a\n": false, "/a?b": false} {
		if err := ValidBasePath(in); (err == nil) != good {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// TestRouteJSON: a route is kept as JSON, and one of an earlier version is the rest.
func TestRouteJSON(t *testing.T) {
	t.Parallel()
	bind := Bind{IP: netip.MustParseAddr("192.0.2.1"), Port: 80}
	for _, r := range []Route{
		{Bind: bind, Service: "s"},
		{Bind: bind, Pattern: Pattern{Host: "h", Path: "/a", Match: Prefix, Slash: true}, Service: "s"},
	} {
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var got Route
		if err := json.Unmarshal(data, &got); err != nil || got != r {
			t.Errorf("%s gives %+v, %v", data, got, err)
		}
	}
	var got Route
	if err := json.Unmarshal([]byte(`{"bind":{"ip":"192.0.2.1","port":80},"service":"s"}`), &got); err != nil || got != (Route{Bind: bind, Service: "s"}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func FuzzParsePattern(f *testing.F) {
	for _, s := range []string{"/", "/a/", "h/{$}", "GET h/{x}", "[::1]/%2F", "a.:80/..", "/\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePattern(s)
		if err != nil {
			return
		}
		if p.Validate() != nil {
			t.Fatalf("%q gives %+v, which is not valid", s, p)
		}
		if again, err := ParsePattern(p.String()); err != nil || again != p {
			t.Fatalf("%q gives %+v, written %q, read again %+v, %v", s, p, p, again, err)
		}
		if key := p.Host + p.Path; strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || key[0] == '#' {
			t.Fatalf("%q gives the key %q", s, key)
		}
		if p.Host != "" && HostOf(p.Host) != p.Host {
			t.Fatalf("%q: no request has the host %q", s, p.Host)
		}
	})
}
