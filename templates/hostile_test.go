package templates

import (
	"errors"
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
	{"path", "/version", func(v string, s *model.State, _ *Globals) { s.Services[0].Check.Asks[0].Path = v }},
	{"path after a slash", "version", func(v string, s *model.State, _ *Globals) { s.Services[0].Check.Asks[0].Path = "/" + v }},
	{"body", "ok", func(v string, s *model.State, _ *Globals) {
		s.Services[0].Check.Asks = []model.Ask{{Path: "/", Bodies: []string{v}}}
	}},
	{"version", "0.0.235", func(v string, s *model.State, _ *Globals) { s.Services[0].Check.Asks[0].MinVersion = v }},
	{"certificate", "listen.pem", func(v string, s *model.State, _ *Globals) { s.Listeners[0].TLS, s.Routes[0].Cert = true, v }},
	{"file of a certificate", "/certs/listen.pem", func(v string, s *model.State, g *Globals) {
		s.Listeners[0].TLS, s.Routes[0].Cert, g.Certs = true, "listen.pem", map[string]string{"listen.pem": v}
	}},
	{"listener's name", "port__80", func(v string, s *model.State, _ *Globals) { s.Listeners[0].Name = v }},
	{"socket of peers", "/peers.sock", func(v string, s *model.State, g *Globals) {
		g.PeersSocket, s.Services[0].Sticky = v, model.Sticky{Size: 1, Expire: time.Minute}
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
	g.Certs = map[string]string{"listen.pem": "/certs/listen.pem"}
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
			service.Check.Asks[0].Path = "/" + v
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
		{"certificate that is not there", func(s *model.State, _ *Globals) { s.Listeners[0].TLS, s.Routes[0].Cert = true, "a.pem" }, "not there"},
		{"listener's name", func(s *model.State, _ *Globals) { s.Listeners[0].Name = "a b" }, "its name"},
		{"statistics that lead on", func(s *model.State, _ *Globals) { s.Listeners[0].Statistics = true }, "leads nowhere"},
		{"sticky without size", func(s *model.State, _ *Globals) {
			s.Services[0].Feedback, s.Services[0].Sticky.Expire = false, time.Hour
		}, "sticky size"},
		{"sticky for ever", func(s *model.State, _ *Globals) { s.Services[0].Feedback, s.Services[0].Sticky.Size = false, 1 }, "sticky expire"},
		{"feedback and stickiness", func(s *model.State, _ *Globals) { s.Services[0].Sticky = model.Sticky{Size: 1, Expire: time.Hour} }, "load feedback"},
		{"feedback without hash", func(s *model.State, _ *Globals) { s.Services[0].Algorithm = model.LeastConn }, "load feedback"},
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

// TestLimits runs templates that would never end, or would take all memory: each is refused with its place.
func TestLimits(t *testing.T) {
	t.Parallel()
	nested := strings.Repeat("{{if true}}", 300)
	for _, c := range []struct{ name, text, want string }{
		{"syntax", "a\nb {{if}}", "template: user.tmpl:2: missing value for if; line 2 is \"b {{if}}\""},
		{"unknown function", "{{nothing}}", "user.tmpl:1"},
		{"missing field", "a\n\n  {{.Nothing}}", "can't evaluate field Nothing in type templates.Data; line 3 is \"{{.Nothing}}\""},
		{"index out of range", "\n{{index .Pools 99}}", "user.tmpl:2"},
		{"2018", "\n{{if true}}{{range $port, $backends := .}}{{end}}{{end}}", "user.tmpl:2: it ranges over the whole of the data"},
		{"2018 with a dot", "{{range .}}{{end}}", "write {{range .Services}}"},
		{"empty", " \n", "empty"},
		{"loop that writes nothing", "\n{{range 1000000000}}{{range 1000000000}}{{end}}{{end}}", "user.tmpl:2: it ran for more than"},
		{"loop in an if", "\n\n{{if true}}{{with 1}}{{range 1000000000000}}{{$x := .}}{{end}}{{end}}{{end}}", "user.tmpl:3: it ran"},
		{"loop in a template", "{{define \"a\"}}\n{{range 1000000000000}}{{end}}{{end}}{{template \"a\"}}", "user.tmpl:2: it ran"},
		{"loop in an else", "\n{{if .Stats}}{{else}}{{range .Missing}}{{else}}{{end}}{{range 1000000000000}}{{end}}{{end}}", "user.tmpl:2"},
		{"recursion", "\n{{define \"a\"}}{{template \"a\"}}{{end}}{{template \"a\"}}", "user.tmpl:2: templates call each other more than 200 deep"},
		{"recursion through blocks", "{{define \"a\"}}" + nested + "{{template \"a\"}}" + strings.Repeat("{{end}}", 300) + "{{end}}{{template \"a\"}}",
			"more than 200 deep"},
		{"nested blocks", "\n" + strings.Repeat("{{if true}}", 600) + strings.Repeat("{{end}}", 600), "user.tmpl:2: its blocks are nested more than 500 deep"},
		{"nested ranges", strings.Repeat("{{range 1}}", 5000) + strings.Repeat("{{end}}", 5000), "more than 500 deep"},
		{"open blocks", strings.Repeat("{{if 1}}", 10000), "user.tmpl:1"},
		{"parentheses", "{{" + strings.Repeat("(", MaxSource-2), "user.tmpl:1"},
		{"large template", strings.Repeat("x", MaxSource+1), "it has more than 1048576 bytes"},
		{"much text", "\n{{range 100000000}}" + strings.Repeat("x", 1<<19) + "{{end}}", "user.tmpl:2: its text has more than 4194304 bytes"},
		{"many lines", "\n{{range 100000000}}\n\n\n\n\n\n\n\n{{end}}", "user.tmpl:2: its text has more than 65536 lines"},
		{"a gigabyte by values", "{{$x := printf \"%1000000d\" 1}}\n{{range 100000}}\n{{$x}}{{end}}", "user.tmpl:3: its text has more than"},
		{"large value", "{{$x := \"aaaaaaaa\"}}{{range 60}}{{$x = printf \"%s%s\" $x $x}}{{end}}", "more than 1048576 bytes"},
		{"large value by print", "{{$x := \"aaaaaaaa\"}}{{range 60}}{{$x = print $x $x}}{{end}}", "more than 1048576 bytes"},
		{"many values", "{{$x := printf \"%1000000d\" 1}}\n" + strings.Repeat("{{$y := print $x}}\n", 100), "all values together have too many bytes"},
		{"many verbs", "\n{{printf \"" + strings.Repeat("%1000000d", 100) + "\" 1}}", "at most 64 are possible"},
		{"many arguments", "\n{{$x := printf \"%1000000d\" 1}}{{print" + strings.Repeat(" $x", 1000) + "}}", "at most 64 are possible"},
		{"quote", "\n{{quote \"a\\nb\"}}", "user.tmpl:2"},
		{"chunk", "{{chunk 0 .Management.Paths}}", "at least one"},
		{"words of the template", "{{\n\"a\x1b[31m\nb", "user.tmpl:2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tmpl, err := Parse("user.tmpl", []byte(c.text))
			if err == nil {
				tmpl.limits = limits{time: time.Hour, text: 4 << 20, lines: 1 << 16, values: 16 << 20} // for a busy machine
				if strings.HasPrefix(c.name, "loop") {
					tmpl.limits.time = 100 * time.Millisecond
				}
				var b conf.Bundle
				if b, err = tmpl.Render(sample(8081), sampleGlobals(), abilities(t, "2.6")); len(b.Main) > 0 {
					t.Error("there is a text with the error")
				}
			}
			var placed *Error
			if !errors.As(err, &placed) {
				t.Fatalf("%v is no *Error", err)
			}
			if !strings.Contains(err.Error(), c.want) || strings.ContainsAny(err.Error(), "\n\x1b") || len(err.Error()) > 2000 {
				t.Errorf("%.2000q", err.Error())
			}
			if p := placed.Places()[0]; p.Template != "user.tmpl" || p.TemplateLine == 0 && strings.Contains(err.Error(), "user.tmpl:") && !strings.Contains(err.Error(), "user.tmpl: ") {
				t.Errorf("its place is %+v", p)
			}
			if strings.Contains(err.Error(), "panicked") {
				t.Error("it is a fault of ours")
			}
		})
	}
}

// TestStandardLimits: what a user's template has; test/e2e reaches them.
func TestStandardLimits(t *testing.T) {
	t.Parallel()
	tmpl, err := Parse("user.tmpl", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if want := (limits{time: 5 * time.Second, text: 64 << 20, lines: 2 << 20, values: 256 << 20}); tmpl.limits != want {
		t.Errorf("the limits are %+v", tmpl.limits)
	}
}

// TestPanic: what panics inside of text/template is an error.
func TestPanic(t *testing.T) {
	t.Parallel()
	err := guard(func() error {
		return fmt.Errorf("line %d", []int{}[len(t.Name())%2])
	})
	if err == nil || !strings.Contains(err.Error(), "panicked: runtime error") {
		t.Error(err)
	}
}

// FuzzTemplate: whatever a template is, it gives a text with a whole map or an error with a place, and ends.
func FuzzTemplate(f *testing.F) {
	f.Add(builtin)
	for _, s := range []string{"{{range .Services}}{{.Publish.Port}}{{end}}", "{{define \"a\"}}{{.}}{{end}}{{template \"a\" 1}}", "{{- 1 -}}\r\n{{/* */}}",
		"{{with $x := .Stats}}{{else with 1}}{{$x}}{{end}}", "{{block \"a\" .}}x{{end}}", "{{range $i, $c := 3}}{{break}}{{end}}", "{{range .Pools}}{{range $s := .Servers}}{{.Name}}{{with $s.Weight}}{{.}}{{end}}{{else}}x{{end}}{{end}}", "frontend a\n rspdel ^ETag:.*\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, source string) {
		tmpl, err := Parse("fuzz.tmpl", []byte(source))
		var b conf.Bundle
		if err == nil {
			tmpl.limits = limits{time: 200 * time.Millisecond, text: 4 << 20, lines: 1 << 16, values: 16 << 20}
			b, err = tmpl.Render(sample(8081, addrs("192.0.2.1:80")...), sampleGlobals(), abilities(t, "2.6"))
		}
		sameWithoutLoops(t, source, sample(8081, addrs("192.0.2.1:80", "192.0.2.2:80")...))
		var placed *Error
		switch {
		case errors.As(err, &placed):
			if strings.Contains(err.Error(), "panicked") || strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Errorf("%q: %q", source, err)
			}
		case err != nil:
			t.Errorf("%q: %q has no place", source, err)
		default:
			if lines := strings.Count(string(b.Main), "\n"); len(b.Origin.Lines) != lines && len(b.Origin.Lines) != lines+1 {
				t.Errorf("%q: %d lines, the map has %d", source, lines, len(b.Origin.Lines))
			}
			for i, line := range b.Origin.Lines {
				if line < 1 || line > strings.Count(source, "\n")+1 {
					t.Errorf("%q: line %d comes from %d", source, i+1, line)
				}
			}
		}
	})
}
