package lb

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1:8080":              "http://127.0.0.1:8080",
		"localhost:8080":              "http://localhost:8080",
		"LocalHost":                   "http://localhost:80",
		"[::1]:8080":                  "http://[::1]:8080",
		"[2001:DB8:0::1]:0080":        "http://[2001:db8::1]:80",
		"https://node/":               "https://node:443",
		"HTTP://node:81/base":         "http://node:81/base",
		"http://node:81/base/":        "http://node:81/base",
		"http://node/a%2Fb/":          "http://node:80/a%2Fb",
		"http://node/b?key=1":         "http://node:80/b?key=1",
		"http://node/b?":              "http://node:80/b",
		"node:8080/base":              "http://node:8080/base",
		"http://[fe80::1%25eth0]:80/": "http://[fe80::1%25eth0]:80",
	} {
		n, err := parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if n.key != want {
			t.Errorf("%s: %s, not %s", text, n.key, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"", ":8080", "http://", "ftp://node", "unix:///run/x", "node:0", "node:65536", "node:http", "node:", "::1:80",
		"http://[1.2.3.4]:80", "no de:80", "node\n:80", "no\x00de", "http://node#x", "http://u:secret@node", "u:secret@node:80", "http://no%64e:80",
		"http://u:secret@no de", "http://node/%zz?secret", "nöde:80", "a,b:80", "[::1:80", "http://node:80:90"} {
		n, err := parse(text)
		if err == nil {
			t.Errorf("%q: %s", text, n.key)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the secret stands in the error %v", text, err)
		}
	}
}

// TestPoint: as httputil joins, and back.
func TestPoint(t *testing.T) {
	for _, row := range []struct{ node, asked, want string }{
		{"h:1", "/dir", "http://h:1/dir"},
		{"http://h:1/base", "/dir", "http://h:1/base/dir"},
		{"http://h:1/base/", "/dir", "http://h:1/base/dir"},
		{"http://h:1/base", "/", "http://h:1/base/"},
		{"http://h:1/base", "/a%2Fb", "http://h:1/base/a%2Fb"},
		{"http://h:1/x%2Fy", "/a b", "http://h:1/x%2Fy/a%20b"},
		{"http://h:1/base?k=v", "/dir?q=1;2&r", "http://h:1/base/dir?k=v&q=1;2&r"},
		{"http://h:1/base?k=v", "/dir", "http://h:1/base/dir?k=v"},
		{"https://[::1]:2", "/dir?q=%zz", "https://[::1]:2/dir?q=%zz"},
		{"http://h:1/base//", "//x", "http://h:1/base///x"},
	} {
		n := mustParse(t, row.node)[0]
		in, err := url.ParseRequestURI(row.asked)
		if err != nil {
			t.Fatal(err)
		}
		out := &http.Request{Host: "client.example", Header: http.Header{}}
		point(out, in, n.url)
		if out.URL.String() != row.want || out.Host != "client.example" {
			t.Errorf("%s at %s: %s for %s, not %s", row.asked, row.node, out.URL, out.Host, row.want)
		}
		if !n.below(out.URL) {
			t.Errorf("%s is not seen as one of %s", out.URL, row.node)
		}
		again := &http.Request{Header: http.Header{}}
		point(again, n.strip(out.URL), n.url)
		if again.URL.String() != row.want {
			t.Errorf("%s: stripped to %s, which gives %s", out.URL, n.strip(out.URL), again.URL)
		}
	}
}

// FuzzParse: whatever is a node, its key is one too, and the same; nothing panics.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"127.0.0.1:8080", "http://h/base/?q", "[::1]:80", "https://h/a%2Fb/", "u@h", "h//", "http://h/%2F", "h:80/?#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parse(text)
		if err != nil {
			return
		}
		again, err := parse(n.key)
		if err != nil || again.key != n.key || again.hash != n.hash {
			t.Fatalf("%q: %q, and that is %v, %v", text, n.key, again, err)
		}
		if n.url.Port() == "" || n.url.Hostname() == "" || n.url.User != nil {
			t.Fatalf("%q: %q", text, n.key)
		}
	})
}

// FuzzPoint: what comes out is what httputil makes of it, leads to the node, and can be taken apart again.
func FuzzPoint(f *testing.F) {
	for _, s := range [][2]string{{"h:80", "/x"}, {"http://h/base", "/dir?q=1"}, {"http://h/a%2Fb/?k=1", "/c%2Fd"}, {"http://h/b", "//x//"}, {"http://h/%2F", "/%2F"},
		{"http://h/b/", "http://other/x"}, {"http://h//", "/"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, nodeText, asked string) {
		n, err := parse(nodeText)
		if err != nil {
			return
		}
		in, err := url.ParseRequestURI(asked)
		if err != nil || !strings.HasPrefix(in.Path, "/") {
			return
		}
		out := &http.Request{Host: "client", Header: http.Header{}}
		point(out, in, n.url)
		if out.URL.Host != n.url.Host || out.URL.Scheme != n.url.Scheme || out.URL.User != nil || out.Host != "client" {
			t.Fatalf("%s at %s leads to %s", asked, nodeText, out.URL)
		}
		theirs := *in
		theirs.User = nil
		req := &http.Request{URL: &theirs, Header: http.Header{}}
		(&httputil.ProxyRequest{Out: req}).SetURL(n.url)
		if got, want := out.URL.String(), req.URL.String(); got != want {
			t.Fatalf("%s at %s: %s, and httputil has %s", asked, nodeText, got, want)
		}
		again := &http.Request{Header: http.Header{}}
		point(again, n.strip(out.URL), n.url)
		if again.URL.EscapedPath() != out.URL.EscapedPath() && again.URL.Path != out.URL.Path {
			t.Fatalf("%s at %s: %s, stripped and pointed again %s", asked, nodeText, out.URL, again.URL)
		}
	})
}
