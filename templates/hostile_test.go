package templates

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// places are all strings of a State and of Globals that reach the text: each puts a value into one of them.
var places = []struct {
	name   string
	benign string
	put    func(v string, s *model.State, g *Globals)
}{
	{"service", "nodes", func(v string, s *model.State, _ *Globals) {
		s.Services[0].Name, s.Routes[0].Service = v, v
		for i := range s.Servers {
			s.Servers[i].Service = v
		}
	}},
	{"service of a route", "nodes", func(v string, s *model.State, _ *Globals) { s.Routes[0].Service = v }},
	{"service of a server", "nodes", func(v string, s *model.State, _ *Globals) { s.Servers[0].Service = v }},
	{"server", "192.0.2.1:80", func(v string, s *model.State, _ *Globals) { s.Servers[0].Name = v }},
	{"zone", "", func(v string, s *model.State, _ *Globals) {
		s.Servers[0].IP = netip.MustParseAddr("fe80::1").WithZone(v)
	}},
	{"zone of a listener", "", func(v string, s *model.State, _ *Globals) {
		s.Listeners[0].Bind.IP = netip.MustParseAddr("fe80::1").WithZone(v)
		s.Routes[0].Bind = s.Listeners[0].Bind
	}},
	{"host", "node", func(v string, s *model.State, _ *Globals) { s.Servers[0].Host = v }},
	{"owner", "192.0.2.1:80", func(v string, s *model.State, _ *Globals) { s.Servers[0].Owner = model.Owner{Source: v, Name: v} }},
	{"path", "/version", func(v string, s *model.State, _ *Globals) { s.Services[0].Check.Path = v }},
	{"path after a slash", "version", func(v string, s *model.State, _ *Globals) { s.Services[0].Check.Path = "/" + v }},
	{"version", "0.0.235", func(v string, s *model.State, _ *Globals) { s.Services[0].Check.MinVersion = v }},
	{"certificate", "listen.pem", func(v string, s *model.State, _ *Globals) { s.Listeners[0].TLS, s.Routes[0].Cert = true, v }},
	{"folder of certificates", "/certs", func(v string, s *model.State, g *Globals) {
		s.Listeners[0].TLS, s.Routes[0].Cert, g.CertDir = true, "listen.pem", v
	}},
	{"user", "nobody", func(v string, _ *model.State, g *Globals) { g.User = v }},
	{"group", "nogroup", func(v string, _ *model.State, g *Globals) { g.Group = v }},
	{"state file", "/state", func(v string, _ *model.State, g *Globals) { g.StateFile = v }},
	{"management socket", "/api.sock", func(v string, _ *model.State, g *Globals) { g.ManagementSocket = v }},
	{"management path", "/1/lb/nodes", func(v string, _ *model.State, g *Globals) { g.ManagementPaths = []string{v} }},
	{"pid file", "/pid", func(v string, _ *model.State, g *Globals) { g.PidFile = v }},
	{"socket", "/sock", func(v string, _ *model.State, g *Globals) { g.SockFile = v }},
}

func skeleton(t testing.TB, text []byte) []string {
	t.Helper()
	parsed, err := conf.Parse(text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return parsed.Skeleton()
}

func withValue(t testing.TB, place int, value string) (conf.Bundle, error) {
	t.Helper()
	s, g := sample(8081, addrs("192.0.2.1:80", "192.0.2.2:80")...), sampleGlobals()
	g.CertDir = "/certs"
	places[place].put(value, &s, &g)
	return ours().Render(s, g, abilities(t, "3.0"))
}

var (
	formsMu sync.Mutex
	forms   = map[int][]string{} // by place
)

// benignForm is the form of the text with the benign value.
func benignForm(t testing.TB, place int) []string {
	t.Helper()
	formsMu.Lock()
	defer formsMu.Unlock()
	if forms[place] == nil {
		b, err := withValue(t, place, places[place].benign)
		if err != nil {
			t.Fatalf("%s: benign value: %v", places[place].name, err)
		}
		forms[place] = skeleton(t, b.Main)
	}
	return forms[place]
}

// hold checks that a value is refused or stays a value: the text has the form that a benign value gives.
func hold(t testing.TB, place int, value string) (refused bool) {
	t.Helper()
	b, err := withValue(t, place, value)
	if err != nil {
		if strings.ContainsAny(err.Error(), "\n\r\x00") {
			t.Errorf("%s %q: the error has more than one line: %q", places[place].name, value, err)
		}
		return true
	}
	if value == "" || places[place].benign == "" {
		return false // an empty value may leave a line out
	}
	if got, want := skeleton(t, b.Main), benignForm(t, place); !slices.Equal(got, want) {
		t.Errorf("%s %q changes the form of the text:\n%s", places[place].name, value, b.Main)
	}
	return false
}

var hostile = []string{
	"a\nglobal\n  lua-load /x.lua", "a\r\nb", "a b", "a #", "#", "a\tb", "a\\", `\`, `a"b`, `"`, `'`, `a'b"c`, "$HOME", "${HOME}", `"$HOME"`, "a\x00b",
	"a\x1b[31m", "a\u00a0b", "\u2028", "\xff\xfe", "%[src]", "%%", "a,b", "a;b", "{", "}", "if", "unless", "!", "a:b", "..", ".", "/", "../x", "-", "@1", "unix@/x",
	"{{.}}", "<<", strings.Repeat("a", 256), strings.Repeat("a", 1<<16), "é", "\u202e", ".if 1", "a disabled", "127.0.0.1:80 backup", "\n", "\r", "",
}

// TestHostile is the property of safety.md, hostile input 1, for values that failed others.
func TestHostile(t *testing.T) {
	t.Parallel()
	refused := 0
	for i := range places {
		for _, v := range hostile {
			if hold(t, i, v) {
				refused++
			}
		}
	}
	if refused == 0 || refused == len(places)*len(hostile) {
		t.Errorf("%d values were refused: the test is worthless", refused)
	}
}

// TestHostileInHAProxy gives all that was not refused to the real parser, in one text.
func TestHostileInHAProxy(t *testing.T) {
	t.Parallel()
	s, g := sample(8081), sampleGlobals()
	accepted := func(place string, v string) bool {
		i := slices.IndexFunc(places, func(p struct {
			name   string
			benign string
			put    func(v string, s *model.State, g *Globals)
		}) bool {
			return p.name == place
		})
		_, err := withValue(t, i, v)
		return err == nil
	}
	for i, v := range hostile {
		service := s.Services[0]
		service.Name = fmt.Sprintf("s%d", i)
		if accepted("service", v) {
			service.Name = v
		}
		if accepted("path after a slash", v) {
			service.Check.Path = "/" + v
		}
		s.Services = append(s.Services, service)
		if accepted("server", v) {
			s.Servers = append(s.Servers, model.Server{Service: "nodes", Name: v, IP: netip.MustParseAddr("192.0.2.1"), Port: uint16(i + 1)})
		}
		if accepted("management path", "/"+v) {
			g.ManagementPaths = append(g.ManagementPaths, "/"+v)
		}
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		if err := h.Check(t, render(t, s, g, h.Version)); err != nil {
			t.Error(err)
		}
	})
}

func FuzzHostile(f *testing.F) {
	for i := range places {
		for _, v := range hostile[:12] {
			f.Add(uint8(i), v)
		}
	}
	f.Fuzz(func(t *testing.T, place uint8, value string) {
		hold(t, int(place)%len(places), value)
	})
}

// TestRefused lists rows that cannot be rendered, with what the error must say.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		do   func(s *model.State, g *Globals)
		want string
	}{
		{"no client timeout", func(s *model.State, _ *Globals) { s.Listeners[0].ClientTimeout = 0 }, "timeout client"},
		{"no connect timeout", func(s *model.State, _ *Globals) { s.Services[0].Timeouts.Connect = 0 }, "timeout connect"},
		{"negative server timeout", func(s *model.State, _ *Globals) { s.Services[0].Timeouts.Server = -time.Second }, "timeout server"},
		{"long queue timeout", func(s *model.State, _ *Globals) { s.Services[0].Timeouts.Queue = 1000 * time.Hour }, "timeout queue"},
		{"negative hard stop", func(_ *model.State, g *Globals) { g.HardStop = -1 }, "hard-stop-after"},
		{"balance factor", func(s *model.State, _ *Globals) { s.Services[0].BalanceFactor = 100 }, "above 100"},
		{"max conn", func(s *model.State, _ *Globals) { s.Services[0].MaxConn = 1 << 31 }, "max conn"},
		{"check", func(s *model.State, _ *Globals) { s.Services[0].Check.Rise = 0 }, "rise"},
		{"no address", func(s *model.State, _ *Globals) { s.Servers[0].IP = netip.Addr{} }, "cannot be rendered"},
		{"no port", func(s *model.State, _ *Globals) { s.Servers[0].Port = 0 }, "no port"},
		{"no port to listen on", func(s *model.State, _ *Globals) { s.Listeners[0].Bind.Port, s.Routes[0].Bind.Port = 0, 0 }, "cannot be rendered"},
		{"server twice", func(s *model.State, _ *Globals) { s.Servers = append(s.Servers, s.Servers[0]) }, "two servers"},
		{"service twice", func(s *model.State, _ *Globals) { s.Services = append(s.Services, s.Services[0]) }, "taken"},
		{"name of management", func(s *model.State, _ *Globals) { s.Services[0].Name = managementName }, "taken"},
		{"listener twice", func(s *model.State, _ *Globals) { s.Listeners = append(s.Listeners, s.Listeners[0]) }, "twice"},
		{"two routes", func(s *model.State, _ *Globals) { s.Routes = append(s.Routes, s.Routes[0]) }, "two routes"},
		{"unknown service", func(s *model.State, _ *Globals) { s.Routes[0].Service = "other" }, "no service"},
		{"server of an unknown service", func(s *model.State, _ *Globals) { s.Servers[0].Service = "other" }, "no service"},
		{"TLS without certificate", func(s *model.State, _ *Globals) { s.Listeners[0].TLS = true }, "certificate"},
		{"certificate without TLS", func(s *model.State, _ *Globals) { s.Routes[0].Cert = "a.pem" }, "TLS"},
		{"certificate without folder", func(s *model.State, _ *Globals) { s.Listeners[0].TLS, s.Routes[0].Cert = true, "a.pem" }, "file name"},
		{"trusted proxy", func(s *model.State, _ *Globals) { s.Listeners[0].TrustedProxies = make([]netip.Prefix, 1) }, "no network"},
		{"no management socket", func(_ *model.State, g *Globals) { g.ManagementSocket = "" }, "management"},
		{"management path", func(_ *model.State, g *Globals) { g.ManagementPaths = []string{"-f"} }, "start with /"},
		{"no management paths", func(_ *model.State, g *Globals) { g.ManagementPaths = nil }, "management"},
	} {
		s, g := sample(8081, addrs("192.0.2.1:80")...), sampleGlobals()
		c.do(&s, &g)
		b, err := Builtin().Render(s, g, abilities(t, "2.6"))
		if err == nil || !strings.Contains(err.Error(), c.want) || len(b.Main) > 0 {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestLimits runs templates that would never end.
func TestLimits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, want string }{
		{"syntax", "a\nb {{if}}", "user.tmpl:2"},
		{"unknown function", "{{nothing}}", "user.tmpl:1"},
		{"missing field", "a\n\n{{.Nothing}}", "user.tmpl:3"},
		{"older contract", "{{range $port, $backends := .}}{{end}}", "user.tmpl:1"},
		{"empty", " \n", "empty"},
		{"loop that writes nothing", "\n{{range 1000000000}}{{range 1000000000}}{{end}}{{end}}", "user.tmpl:2:2: executing"},
		{"loop in an if", "\n\n{{if true}}{{with 1}}{{range 1000000000000}}{{$x := .}}{{end}}{{end}}{{end}}", "user.tmpl:3"},
		{"loop in a template", "{{define \"a\"}}\n{{range 1000000000000}}{{end}}{{end}}{{template \"a\"}}", "user.tmpl:2"},
		{"loop by recursion", "{{define \"a\"}}{{template \"a\"}}{{end}}{{template \"a\"}}", "user.tmpl:1"},
		{"much text", "{{range 100000000}}" + strings.Repeat("x", 8<<20) + "{{end}}", "user.tmpl: its text has more than 67108864 bytes"},
		{"large value", "{{$x := \"aaaaaaaa\"}}{{range 60}}{{$x = printf \"%s%s\" $x $x}}{{end}}", "more than 1048576 bytes"},
		{"large value by print", "{{$x := \"aaaaaaaa\"}}{{range 60}}{{$x = print $x $x}}{{end}}", "more than 1048576 bytes"},
		{"quote", "\n{{quote \"a\\nb\"}}", "user.tmpl:2"},
		{"chunk", "{{chunk 0 .Management.Paths}}", "at least one"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tmpl, err := Parse("user.tmpl", []byte(c.text))
			if err == nil {
				if strings.HasPrefix(c.name, "loop") {
					tmpl.limit = 100 * time.Millisecond
				}
				var b conf.Bundle
				if b, err = tmpl.Render(sample(8081), sampleGlobals(), abilities(t, "2.6")); len(b.Main) > 0 {
					t.Error("there is a text with the error")
				}
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}
