package check

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

func sampleRule() model.Check {
	return model.Check{Interval: 3 * time.Second, Timeout: 5 * time.Second, Rise: 1, Fall: 2, Asks: []model.Ask{{Path: "/version", MinVersion: "0.0.235"}}}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	if err := Validate(sampleRule()); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		name string
		do   func(*model.Check)
		want string // empty: valid
	}{
		{"no version", func(c *model.Check) { c.Asks[0].MinVersion = "" }, ""},
		{"query", func(c *model.Check) { c.Asks[0].Path = "/a%20b;c='d'?x=$y&z=(1)*,@:!~+" }, ""},
		{"empty path", func(c *model.Check) { c.Asks[0].Path = "" }, "start with /"},
		{"relative path", func(c *model.Check) { c.Asks[0].Path = "version" }, "start with /"},
		{"URL", func(c *model.Check) { c.Asks[0].Path = "http://h/version" }, "start with /"},
		{"long path", func(c *model.Check) { c.Asks[0].Path = "/" + strings.Repeat("a", 255) }, "256 bytes"},
		{"space", func(c *model.Check) { c.Asks[0].Path = "/a b" }, "%20"},
		{"newline", func(c *model.Check) { c.Asks[0].Path = "/a\nb" }, "%0A"},
		{"NUL", func(c *model.Check) { c.Asks[0].Path = "/\x00" }, "%00"},
		{"quote", func(c *model.Check) { c.Asks[0].Path = `/"` }, "%22"},
		{"backslash", func(c *model.Check) { c.Asks[0].Path = `/\` }, "%5C"},
		{"fragment", func(c *model.Check) { c.Asks[0].Path = "/#a" }, "%23"},
		{"not ASCII", func(c *model.Check) { c.Asks[0].Path = "/é" }, "%C3"},
		{"half an escape", func(c *model.Check) { c.Asks[0].Path = "/%2" }, "%25"},
		{"no escape", func(c *model.Check) { c.Asks[0].Path = "/%zz" }, "%25"},
		{"no interval", func(c *model.Check) { c.Interval = 0 }, "interval"},
		{"short interval", func(c *model.Check) { c.Interval = time.Microsecond }, "interval"},
		{"negative timeout", func(c *model.Check) { c.Timeout = -1 }, "timeout"},
		{"long timeout", func(c *model.Check) { c.Timeout = 600 * time.Hour }, "596h"},
		{"no rise", func(c *model.Check) { c.Rise = 0 }, "rise"},
		{"no fall", func(c *model.Check) { c.Fall = 0 }, "fall"},
		{"no paths", func(c *model.Check) { c.Asks = nil }, "1 to 16"},
		{"timeout of all paths", func(c *model.Check) { c.Timeout, c.Asks = 300*time.Hour, append(c.Asks, c.Asks...) }, "for 2 paths together"},
		{"too many paths", func(c *model.Check) { c.Asks = make([]model.Ask, 17) }, "1 to 16"},
		{"second path", func(c *model.Check) { c.Asks = append(c.Asks, model.Ask{Path: "no"}) }, "start with /"},
		{"two paths", func(c *model.Check) { c.Asks = append(c.Asks, model.Ask{Path: "/", Bodies: []string{"ok", "OK"}}) }, ""},
		{"version and body", func(c *model.Check) { c.Asks[0].Bodies = []string{"ok"} }, "choose one"},
		{"empty body", func(c *model.Check) { c.Asks[0] = model.Ask{Path: "/", Bodies: []string{""}} }, "must not be empty"},
		{"body with space around", func(c *model.Check) { c.Asks[0] = model.Ask{Path: "/", Bodies: []string{"ok "}} }, "white space"},
		{"body of two lines", func(c *model.Check) { c.Asks[0] = model.Ask{Path: "/", Bodies: []string{"o\nk"}} }, "one line"},
		{"body with NUL", func(c *model.Check) { c.Asks[0] = model.Ask{Path: "/", Bodies: []string{"o\x00k"}} }, "one line"},
		{"body that is no text", func(c *model.Check) { c.Asks[0] = model.Ask{Path: "/", Bodies: []string{"\xff"}} }, "UTF-8"},
		{"long bodies", func(c *model.Check) { c.Asks[0] = model.Ask{Path: "/", Bodies: []string{strings.Repeat("x", 1200)}} }, "too long"},
		{"many bodies", func(c *model.Check) { c.Asks[0] = model.Ask{Path: "/", Bodies: make([]string, 33)} }, "at most 32"},
		{"TCP with a path", func(c *model.Check) { c.Kind = model.CheckTCP }, "asks for no path"},
		{"version", func(c *model.Check) { c.Asks[0].MinVersion = "1.2.3-rc" }, "pre-release"},
	} {
		rule := sampleRule()
		c.do(&rule)
		err := Validate(rule)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && strings.Trim(err.Error(), printable) != "" {
			t.Errorf("%s: not printable: %q", c.name, err)
		}
		if lines, err2 := Directives(rule); (err2 == nil) != (err == nil) || (len(lines) == 0) != (err != nil) {
			t.Errorf("%s: Directives disagrees: %v", c.name, err2)
		}
	}
}

func TestServerWords(t *testing.T) {
	t.Parallel()
	rule := sampleRule()
	rule.Interval = 1500 * time.Millisecond
	if got, want := strings.Join(ServerWords(rule), " "), "check inter 1500ms fall 2 rise 1"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// asked is what a node got of one request.
type asked struct{ line, host string }

// recorder is a node that keeps what it was asked.
func recorder(t *testing.T, network, address string) (netip.AddrPort, func() []asked) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var got []asked
	var all sync.WaitGroup
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		all.Wait()
	})
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()                                //nolint:errcheck // the peer may have been first
				c.SetDeadline(time.Now().Add(5 * time.Second)) //nolint:errcheck // fails only on a closed connection
				var text string
				for b := make([]byte, 1024); !strings.Contains(text, "\r\n\r\n"); {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					text += string(b[:n])
				}
				lines := strings.Split(text, "\r\n")
				a := asked{line: lines[0]}
				for _, h := range lines[1:] {
					if v, ok := strings.CutPrefix(strings.ToLower(h), "host: "); ok {
						a.host = v
					}
				}
				mu.Lock()
				got = append(got, a)
				mu.Unlock()
				sized("200 OK", good)(c, nil)
			})
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort(), func() []asked {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(got)
	}
}

// TestSameRequest shows that a node cannot tell our probe from HAProxy's check: same path and same Host, whatever is in them.
func TestSameRequest(t *testing.T) {
	t.Parallel()
	nodes := []struct{ name, network, address, host string }{
		{"192.0.2.1:80", "tcp4", "127.0.0.1:0", "192.0.2.1:80"},
		{"node-1.example.org:8080", "tcp4", "127.0.0.1:0", "node-1.example.org:8080"},
		{"2001:db8::1:80", "tcp6", "[::1]:0", "[2001:db8::1]:80"},
		{"web", "tcp4", "127.0.0.1:0", "web"},
		{"a:b", "tcp4", "127.0.0.1:0", "a:b"},
		{"a:b:c", "tcp4", "127.0.0.1:0", "a:b:c"},
	}
	rule := tableRule(least)
	rule.Asks[0].Path = "/a%20b;c='d'?x=$y&z=(1)*,@:!~+"
	cfg := "defaults\n  mode http\n  timeout connect 2s\n  timeout server 2s\n  timeout client 2s\n" + backend(t, "b", rule, nil)
	got := make([]func() []asked, len(nodes))
	for i, n := range nodes {
		var addr netip.AddrPort
		addr, got[i] = recorder(t, n.network, n.address)
		if r := NewProber().Probe(t.Context(), rule, addr, n.name); !r.OK {
			t.Fatal(r.Reason)
		}
		cfg += fmt.Sprintf("  server %s %s %s\n", n.name, addr, strings.Join(ServerWords(rule), " "))
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		for server, status := range finished(t, h.Start(t, cfg, "r1")) {
			if !strings.HasPrefix(status, "L7OK") {
				t.Errorf("%s: %s", server, status)
			}
		}
		for i, n := range nodes {
			want := asked{"GET " + rule.Asks[0].Path + " HTTP/1.1", n.host}
			for k, a := range got[i]() {
				if a != want {
					t.Errorf("%s, request %d: %q, want %q", n.name, k, a, want)
				}
			}
		}
	})
}

func TestProbeWithoutAnswer(t *testing.T) {
	t.Parallel()
	p := NewProber()
	closed := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(haproxytest.FreePort(t)))
	if r := p.Probe(t.Context(), sampleRule(), closed, "n"); r.OK || r.Final || r.Reason != fmt.Sprintf("connection to %s refused", closed) {
		t.Errorf("%+v", r)
	}
	silent := node(t, hold(""))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	began := time.Now()
	if r := p.Probe(ctx, sampleRule(), silent, "n"); r.OK || r.Reason != "the probe was stopped" || time.Since(began) > 2*time.Second {
		t.Errorf("after %s: %+v", time.Since(began), r)
	}
	if r := p.Probe(ctx, sampleRule(), silent, "n"); r.OK || r.Reason != "the probe was stopped" {
		t.Errorf("context that has ended: %+v", r)
	}
	bad := sampleRule()
	bad.Asks[0].Path = "no"
	if r := p.Probe(t.Context(), bad, silent, "n"); r.OK || !strings.Contains(r.Reason, "start with /") {
		t.Errorf("bad rule: %+v", r)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(header+"Content-Length: 21\r\n\r\n"+good, least)
	f.Add(header+"Transfer-Encoding: chunked\r\n\r\n15\r\n"+good+"\r\n0\r\n\r\n", least)
	f.Add("HTTP/1.1 404 \xff\r\n\r\n", "")
	f.Add(header+"\r\n{\"version\":\"\x1b[31m\"}", least)
	f.Add(header+"Content-Length: 4\r\n\r\n ok\n", "body ok")
	f.Fuzz(func(t *testing.T, text, version string) {
		rule := tableRule(version)
		if body, is := strings.CutPrefix(version, "body "); is {
			rule.Asks[0] = model.Ask{Path: "/", Bodies: []string{body}}
		}
		if Validate(rule) != nil {
			return
		}
		here, there := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			there.Read(make([]byte, 4096)) //nolint:errcheck // the request
			there.Write([]byte(text))      //nolint:errcheck // the reader may have had enough
			there.Close()                  //nolint:errcheck // a pipe
		}()
		p := NewProber()
		pattern, err := p.compiled(rule.Asks[0])
		if err != nil {
			t.Fatal(err)
		}
		got, err := ask(here, rule.Asks[0], "h", pattern)
		here.Close() //nolint:errcheck // a pipe
		<-done
		var r Result
		if err != nil {
			r = no(answerReason(rule, rule.Asks[0], err))
		} else {
			r = judge(rule.Asks[0], pattern, got)
		}
		if len(r.Reason) > maxReason || strings.Trim(r.Reason, printable) != "" || r.Reason == "" || len(got.body) > buffer {
			t.Errorf("%+v", r)
		}
	})
}
