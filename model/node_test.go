package model

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParseNode(t *testing.T) {
	good := map[string]string{
		"10.0.0.1:8080": "10.0.0.1:8080", "[::1]:8080": "[::1]:8080", "[2001:DB8::0:1]:1": "[2001:db8::1]:1",
		"[::ffff:10.0.0.1]:80": "10.0.0.1:80", "Node-1.Example.:65535": "node-1.example:65535", "fn_8080:8080": "fn_8080:8080",
		"localhost:1": "localhost:1", "a:08080": "a:8080", "*Web.internal.:80": "*web.internal:80",
	}
	for in, want := range good {
		n, err := ParseNode(in)
		if err != nil || n.String() != want {
			t.Errorf("%q: got %q, %v; want %q", in, n, err, want)
			continue
		}
		if !serverOf(n).validName() {
			t.Errorf("%q: server name %q is none", in, n.ServerName())
		}
		if again, err := ParseNode(n.String()); err != nil || again != n {
			t.Errorf("%q: its canonical form reads as %v, %v", in, again, err)
		}
	}
	bad := map[string]string{ // input → a part of the reason
		"": "empty", "host": "port is missing", "host:": "no number", "host:0": "between 1 and 65535", "host:70000": "between 1 and 65535",
		"host:-1": "no number", "host:+1": "no number", "host:http": "no number", "[::1]": "port is missing", "::1:80": "brackets",
		"http://h:1": "URL", "unix@/x:1": "families", "fd@3:1": "families", "a b:1": "neither", "a\nb:1": "neither", "a\tb:1": "neither",
		`"a":1`: "neither", "a'b:1": "neither", "$HOME:1": "neither", "a#b:1": "neither", "a;b:1": "neither", `a\b:1`: "neither",
		":80": "host is missing", "-a:1": "neither", "a-:1": "neither", "a..b:1": "neither", "ä:1": "neither", "a\x00:1": "neither",
		"[fe80::1%eth0]:80": "zone", "[1.2.3.4]:80": "no IPv6", "[::1:80": "not closed", "[::1:80]": "port is missing", "127.1:80": "notation", "0x7f.1:80": "notation",
		"2130706433:80": "notation", "0177.0.0.1:80": "notation", "host.0x7f000001:80": "notation",
		strings.Repeat("a", 300): "300 characters", strings.Repeat("a.", 127) + "b:1": "at most 209", strings.Repeat("a", 64) + ":1": "neither",
		"abns@x:1": "families", "../x:1": "families", "**a:1": "neither", "*:1": "host is missing", "*.a:1": "neither", "a*:1": "neither",
		"*10.0.0.1:1": "stands before a DNS name", "*[::1]:1": "stands before a DNS name", "*127.1:1": "notation",
	}
	for in, want := range bad {
		n, err := ParseNode(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %+v, %v; want an error with %q", in, n, err, want)
		} else if strings.ContainsAny(err.Error(), "\n\r\x00") {
			t.Errorf("%q: the error has more than one line: %q", in, err)
		}
	}
}

// longest is an address as long as one can be.
var longest = netip.MustParseAddrPort("[1111:2222:3333:4444:5555:6666:7777:8888]:80")

func serverOf(n Node) Server {
	return Server{Name: n.ServerName(), IP: n.IP, Host: n.Host, Many: n.Many, Port: n.Port}
}

// TestServerAt: what comes from a name is named after its address, and what is an address stays.
func TestServerAt(t *testing.T) {
	for in, want := range map[string]string{
		"web.internal:8080": "web.internal:8080_1111:2222:3333:4444:5555:6666:7777:8888", "*web:80": "web:80_1111:2222:3333:4444:5555:6666:7777:8888",
		"10.0.0.5:80": "10.0.0.5:80", strings.Repeat("a.", 104) + "a:65535": strings.Repeat("a.", 104) + "a:65535_1111:2222:3333:4444:5555:6666:7777:8888",
	} {
		n, err := ParseNode(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		s := serverOf(n).At(longest)
		if s.Name != want || !ValidName(s.Name) || s.Many || s.IP != longest.Addr() {
			t.Errorf("%q: %+v, want the name %q", in, s, want)
		}
	}
}

func FuzzParseNode(f *testing.F) {
	for _, s := range []string{"10.0.0.1:80", "[::1]:80", "a.b:1", "a\nb:1", "::", "[fe80::1%x]:1", "*a.b:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseNode(s)
		if err != nil {
			return
		}
		if !serverOf(n).validName() || !ValidName(serverOf(n).At(longest).Name) || n.Port == 0 {
			t.Fatalf("%q: accepted as %+v", s, n)
		}
		again, err := ParseNode(n.String())
		if err != nil || again != n {
			t.Fatalf("%q: %+v reads back as %+v, %v", s, n, again, err)
		}
	})
}

func TestPolicy(t *testing.T) {
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	own := []Bind{{Port: 8081}, {IP: netip.MustParseAddr("10.0.0.5"), Port: 9000}}
	local := []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("2001:db8::5")}
	tests := []struct {
		policy Policy
		addr   string
		want   string // part of the refusal; empty: allowed
	}{
		{Policy{}, "10.0.0.1:80", ""},
		{Policy{}, "127.0.0.1:80", ""},
		{Policy{}, "0.0.0.0:80", "unspecified"},
		{Policy{}, "[::]:80", "unspecified"},
		{Policy{}, "169.254.169.254:80", "link-local"},
		{Policy{}, "[::ffff:169.254.169.254]:80", "link-local"},
		{Policy{}, "[fe80::1]:80", "link-local"},
		{Policy{}, "224.0.0.1:80", "multicast"},
		{Policy{}, "239.1.1.1:80", "multicast"},
		{Policy{}, "255.255.255.255:80", "broadcast"},
		{Policy{}, "[ff05::1]:80", "multicast"},
		{Policy{Own: own, Local: local}, "127.0.0.1:8081", "own address"},
		{Policy{Own: own, Local: local}, "127.9.9.9:8081", "own address"},
		{Policy{Own: own, Local: local}, "[::1]:8081", "own address"},
		{Policy{Own: own, Local: local}, "10.0.0.5:8081", "own address"},
		{Policy{Own: own, Local: local}, "[2001:db8::5]:8081", "own address"},
		{Policy{Own: own, Local: local}, "10.0.0.6:8081", ""},
		{Policy{Own: own, Local: local}, "10.0.0.5:9000", "own address"},
		{Policy{Own: own, Local: local}, "127.0.0.1:9000", ""},
		{Policy{Deny: prefixes("10.0.0.0/8")}, "10.1.1.1:80", "--node-deny"},
		{Policy{Allow: prefixes("10.0.0.0/8")}, "192.168.0.1:80", "--node-allow"},
		{Policy{Allow: prefixes("10.0.0.0/8")}, "10.1.1.1:80", ""},
		{Policy{Allow: prefixes("10.0.0.0/8"), Deny: prefixes("10.1.0.0/16")}, "10.1.1.1:80", "--node-deny"},
	}
	for _, test := range tests {
		err := test.policy.Check(netip.MustParseAddrPort(test.addr))
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", test.addr, err, test.want)
		}
	}
}
