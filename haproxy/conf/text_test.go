package conf

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func parse(t *testing.T, s string) Text {
	t.Helper()
	text, err := Parse([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestParseSections(t *testing.T) {
	got := parse(t, `# a comment
.if defined(X)
global
	maxconn 10   # not more

defaults from base
  mode http
defaults base
backend "my be" from base
	server s1 127.0.0.1:1 '' check
	a \
	b
   frontend`)
	want := Text{Sections: []Section{
		{No: 2, Lines: []Line{{2, []string{".if", "defined(X)"}}}},
		{Kind: "global", No: 3, Lines: []Line{{4, []string{"maxconn", "10"}}}},
		{Kind: "defaults", From: "base", No: 6, Lines: []Line{{7, []string{"mode", "http"}}}},
		{Kind: "defaults", Name: "base", No: 8},
		{Kind: "backend", Name: "my be", From: "base", No: 9, Lines: []Line{
			{10, []string{"server", "s1", "127.0.0.1:1"}}, {11, []string{"a", `\`}}, {12, []string{"b"}},
		}},
		{Kind: "frontend", No: 13},
	}}
	if !reflect.DeepEqual(got.Sections, want.Sections) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestSkeleton(t *testing.T) {
	benign := parse(t, "backend a\n  option httpchk\n  no option forwardfor\n  http-request set-header X y if { path /a }\n  server a 127.0.0.1:1 check\n")
	want := []string{"backend", "  option httpchk (2)", "  no option forwardfor (3)", "  http-request set-header (9)", "  server (4)"}
	if got := benign.Skeleton(); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	other := parse(t, "backend 'x y'\n  option httpchk\n  no option forwardfor\n  http-request set-header '#' \"a\\$\" if { path '\"' }\n  server global 127.0.0.1:2 check\n")
	if got := other.Skeleton(); !slices.Equal(got, want) {
		t.Errorf("values changed it: %q", got)
	}
	for _, hostile := range []string{"server a 127.0.0.1:1 disabled # check", "server a 127.0.0.1:1 check disabled", "server a 127.0.0.1:1 check\nglobal\n lua-load /x.lua"} {
		text := parse(t, "backend a\n  option httpchk\n  no option forwardfor\n  http-request set-header X y if { path /a }\n  "+hostile+"\n")
		if got := text.Skeleton(); slices.Equal(got, want) && !strings.Contains(hostile, "#") {
			t.Errorf("%q is not seen", hostile)
		}
	}
}

func TestBinds(t *testing.T) {
	ip := netip.MustParseAddr
	for _, test := range []struct {
		line string
		want []Bind
	}{
		{"bind :80", []Bind{{Raw: ":80", Port: 80, Checkable: true}}},
		{"bind *:80 ssl crt /x", []Bind{{Raw: "*:80", Port: 80, Checkable: true}}},
		{"bind 0.0.0.0:80", []Bind{{Raw: "0.0.0.0:80", IP: ip("0.0.0.0"), Port: 80, Checkable: true}}},
		{"bind :::80", []Bind{{Raw: ":::80", IP: ip("::"), Port: 80, Checkable: true}}},
		{"bind [::]:80 v4v6", []Bind{{Raw: "[::]:80", IP: ip("::"), Port: 80, Checkable: true}}},
		{"bind ipv6@:80", []Bind{{Raw: "ipv6@:80", IP: ip("::"), Port: 80, Checkable: true}}},
		{"bind ipv4@:80", []Bind{{Raw: "ipv4@:80", Port: 80, Checkable: true}}},
		{"bind ipv4@10.0.0.1:80", []Bind{{Raw: "ipv4@10.0.0.1:80", IP: ip("10.0.0.1"), Port: 80, Checkable: true}}},
		{"bind ::1:8080", []Bind{{Raw: "::1:8080", IP: ip("::1"), Port: 8080, Checkable: true}}},
		{"bind 10.0.0.1:80,[::1]:81,:82", []Bind{
			{Raw: "10.0.0.1:80", IP: ip("10.0.0.1"), Port: 80, Checkable: true},
			{Raw: "[::1]:81", IP: ip("::1"), Port: 81, Checkable: true},
			{Raw: ":82", Port: 82, Checkable: true},
		}},
		{"bind 10.0.0.1:80-82", []Bind{
			{Raw: "10.0.0.1:80-82", IP: ip("10.0.0.1"), Port: 80, Checkable: true},
			{Raw: "10.0.0.1:80-82", IP: ip("10.0.0.1"), Port: 81, Checkable: true},
			{Raw: "10.0.0.1:80-82", IP: ip("10.0.0.1"), Port: 82, Checkable: true},
		}},
		{"bind :80 interface eth0", []Bind{{Raw: ":80", Port: 80}}},
		{"bind 10.0.0.1:80 transparent", []Bind{{Raw: "10.0.0.1:80", IP: ip("10.0.0.1"), Port: 80}}},
		{"bind unix@/x:80", []Bind{{Raw: "unix@/x:80"}}},
		{"bind /x/y.sock mode 600", []Bind{{Raw: "/x/y.sock"}}},
		{"bind abns@x:80", []Bind{{Raw: "abns@x:80"}}},
		{"bind fd@3", []Bind{{Raw: "fd@3"}}},
		{"bind sockpair@4", []Bind{{Raw: "sockpair@4"}}},
		{"bind quic4@:443 ssl", []Bind{{Raw: "quic4@:443"}}},
		{"bind udp@:53", []Bind{{Raw: "udp@:53"}}},
		{`bind "$IP:80"`, []Bind{{Raw: "$IP:80"}}},
		{`bind ":${PORT}"`, []Bind{{Raw: ":${PORT}"}}},
		{"bind localhost:80", []Bind{{Raw: "localhost:80"}}},
		{"bind 10.0.0.1", []Bind{{Raw: "10.0.0.1"}}},
		{"bind 10.0.0.1:0", []Bind{{Raw: "10.0.0.1:0"}}},
		{"bind 10.0.0.1:70000", []Bind{{Raw: "10.0.0.1:70000"}}},
		{"bind 10.0.0.1:9-8", []Bind{{Raw: "10.0.0.1:9-8"}}},
		{"bind", nil},
		{"binder :80", nil},
	} {
		for _, kind := range []string{"frontend", "listen", "peers"} {
			want := slices.Clone(test.want)
			for i := range want {
				want[i].Section, want[i].No = "x", 3
			}
			if got := parse(t, kind+" x\n\n  "+test.line+"\n").Binds(); !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %s:\ngot  %+v\nwant %+v", kind, test.line, got, want)
			}
		}
	}
	if got := parse(t, "defaults\n bind :80\nbackend b\n bind :80\nglobal\n stats socket /x\n stats socket :99 level admin\n stats timeout 1s\n").Binds(); !reflect.DeepEqual(got,
		[]Bind{{No: 6, Raw: "/x"}, {No: 7, Raw: ":99", Port: 99, Checkable: true}}) {
		t.Errorf("other sections: %+v", got)
	}
}

func TestBindsAreBounded(t *testing.T) {
	got := parse(t, "frontend f\n  bind "+strings.Repeat(":1-65535,", 100)+":1\n").Binds()
	if len(got) > maxBinds+100 {
		t.Fatalf("%d binds", len(got))
	}
	if last := got[len(got)-2]; last.Checkable || last.Raw != ":1-65535" {
		t.Errorf("what was not expanded is checkable: %+v", last)
	}
}

func TestServers(t *testing.T) {
	got := parse(t, `
backend be
  default-server inter 1s weight 7
  server a 127.0.0.1:80 check id 12 weight 20
  server b [::1]:81 id 13
  server c ::1:82
  server d ipv6@::1:83
  server e unix@/x
  server f localhost:80
  server g 127.0.0.1
  server h 127.0.0.1:+1
  server i "$X:80" weight
  server j
listen li
  server a 127.0.0.1:80 check id 5 weight x
frontend f
  server z 127.0.0.1:80
`).Servers()
	want := []string{
		"be a 127.0.0.1:80 127.0.0.1:80 12 20 4", "be b [::1]:81 [::1]:81 13 7 5", "be c ::1:82 [::1]:82 0 7 6", "be d ipv6@::1:83 [::1]:83 0 7 7",
		"be e unix@/x invalid AddrPort 0 7 8", "be f localhost:80 invalid AddrPort 0 7 9", "be g 127.0.0.1 invalid AddrPort 0 7 10",
		"be h 127.0.0.1:+1 invalid AddrPort 0 7 11", "be i $X:80 invalid AddrPort 0 7 12", "li a 127.0.0.1:80 127.0.0.1:80 5 1 15",
	}
	var lines []string
	for _, s := range got {
		lines = append(lines, fmt.Sprint(s.Backend, " ", s.Name, " ", s.Raw, " ", s.Addr, " ", s.ID, " ", s.Weight, " ", s.No))
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

// What was made of a text must not be told of another one.
func TestPoolsOfEachText(t *testing.T) {
	first := parse(t, "backend b\n server s 127.0.0.1:1\n")
	if a, b := first.Pools(), first.Pools(); &a[0] != &b[0] {
		t.Error("the list is made twice")
	}
	other := Text{Sections: parse(t, "backend b\n server s 127.0.0.1:2\n").Sections}
	if got := other.Pools()[0].Members[0].Raw; got != "127.0.0.1:2" {
		t.Errorf("server at %s", got)
	}
}
