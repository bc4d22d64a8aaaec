package templates

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares text with the file, or writes it.
func golden(t *testing.T, file, text string) {
	t.Helper()
	file = filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if text != string(want) {
		t.Errorf("%s differs (go test -update writes it); got:\n%s", file, text)
	}
}

func addrs(list ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range list {
		out = append(out, netip.MustParseAddrPort(a))
	}
	return out
}

// cases are the golden configurations.
func cases() map[string]struct {
	state   model.State
	globals Globals
	version string
} {
	type c = struct {
		state   model.State
		globals Globals
		version string
	}
	three := sample(8081, addrs("192.0.2.3:8080", "192.0.2.1:8080", "[2001:db8::1]:80")...)
	return map[string]c{
		"nodes-2.6": {three, sampleGlobals(), "2.6"},
		"nodes-3.0": {three, sampleGlobals(), "3.0"},
		"no-nodes":  {sample(8081), sampleGlobals(), "2.6"},
		"nothing":   {model.State{}, Globals{}, "2.6"},
		"everything": {full(), Globals{
			User: "nobody", Group: "nogroup", StateFile: "/run/fnlb/server state", Certs: map[string]string{"listen.pem": "/run/fnlb/certs/listen.pem"},
			ManagementSocket: "/run/fnlb/management/api.sock", ManagementPaths: many("/1/lb/p", 45), AccessLog: true,
			HardStop: 90 * time.Second,
		}, "3.0"},
		"classic": {classic(), func() Globals {
			g := sampleGlobals()
			g.User, g.PeersSocket = "nobody", "/run/fnlb/management/peers.sock"
			return g
		}(), "3.0"},
		"routes":  {routed(), func() Globals { g := sampleGlobals(); g.RunDir, g.Bundled = "/run/fnlb", "bundle"; return g }(), "2.6"},
		"no-ipv6": {wide(), func() Globals { g := sampleGlobals(); g.IPv4Only = true; return g }(), "2.6"},
	}
}

// classic is what docker-loadbalancer's users rely on, with its statistics page, beside a service without checks.
func classic() model.State {
	s := sample(8081, addrs("172.17.0.2:80", "172.17.0.3:80")...)
	s.Listeners[0] = model.Listener{Bind: model.Bind{Port: 80}, Name: "port__80", MaxConn: 3000, ClientTimeout: time.Minute}
	s.Routes[0].Bind.Port, s.Routes[0].Service = 80, "port__80_backends"
	svc := &s.Services[0]
	svc.Name, svc.Sticky, svc.Compress, svc.OriginalTo, svc.Feedback = "port__80_backends", model.Sticky{Size: 200 << 10, Expire: 520 * time.Minute}, true, true, false
	svc.Check = model.Check{Kind: model.CheckTCP, Interval: 2 * time.Second, Timeout: 5 * time.Second, Rise: 1, Fall: 2}
	for i := range s.Servers {
		s.Servers[i].Service = svc.Name
	}
	none := *svc
	none.Name, none.Check, none.Sticky = "unchecked", model.Check{Kind: model.CheckOff}, model.Sticky{}
	s.Services = append(s.Services, none)
	s.Servers = append(s.Servers, model.Server{Service: none.Name, Name: "only", IP: netip.MustParseAddr("172.17.0.4"), Port: 80})
	s.Listeners = append(s.Listeners, model.Listener{Bind: model.Bind{Port: 1936}, Name: "stats", Statistics: true, ClientTimeout: time.Minute})
	return s
}

// routed has routes by host and path: on a listener with a service for the rest, and on one without and without management.
func routed() model.State {
	s := sample(8081, addrs("192.0.2.1:8080")...)
	s.Listeners[0].TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for n, algorithm := range []model.Algorithm{model.TwoRandom, model.LeastConn, model.RoundRobin, model.Source} {
		svc := s.Services[0]
		svc.Name, svc.Algorithm, svc.Feedback, svc.BasePath = algorithm.String(), algorithm, false, []string{"", "/base%20path/x", "/$'(a)", ""}[n]
		s.Services = append(s.Services, svc)
		s.Servers = append(s.Servers, servers(svc.Name, addrs("192.0.2.2:80")...)...)
	}
	alone := model.Listener{Bind: model.Bind{IP: netip.MustParseAddr("127.0.0.1"), Port: 8082}, ClientTimeout: time.Minute}
	empty := model.Listener{Bind: model.Bind{IP: netip.MustParseAddr("127.0.0.1"), Port: 8083}, ClientTimeout: time.Minute, Routed: true}
	s.Listeners = append(s.Listeners, alone, empty)
	for n, pattern := range []string{"/", "example.org/a/", "/a", "example.org/{$}", "[2001:db8::1]/b;c=$d'/"} {
		p, err := model.ParsePattern(pattern)
		if err != nil {
			panic(err)
		}
		r := model.Route{Bind: s.Listeners[n%2].Bind, Pattern: p, Service: s.Services[1+n%4].Name}
		s.Routes = append(s.Routes, r)
	}
	return s
}

func many(prefix string, n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprint(prefix, i))
	}
	return list
}

func weight(n int) model.Weight {
	w, err := model.NewWeight(n)
	if err != nil {
		panic(err)
	}
	return w
}

// wide listens on all addresses.
func wide() model.State {
	s := sample(8081, addrs("192.0.2.1:8080")...)
	s.Listeners[0].Bind.IP, s.Routes[0].Bind.IP = netip.Addr{}, netip.Addr{}
	return s
}

// full uses every field of the model: several listeners and services, TLS, trusted proxies, limits, any version accepted.
func full() model.State {
	s := wide()
	s.Servers = append(servers("nodes", addrs("192.0.2.1:8080", "192.0.2.2:8080")...), servers("other", addrs("192.0.2.9:1")...)...)
	s.Servers[0].Weight, s.Servers[1].Admin = weight(20), model.Drain
	tls := model.Bind{IP: netip.MustParseAddr("::"), Port: 443}
	empty := model.Bind{IP: netip.MustParseAddr("2001:db8::2"), Port: 80}
	s.Listeners = append(s.Listeners,
		model.Listener{Bind: tls, TLS: true, ClientTimeout: time.Minute},
		model.Listener{Bind: empty, ClientTimeout: 1500 * time.Millisecond})
	s.Routes = append(s.Routes, model.Route{Bind: tls, Service: "other", Cert: "listen.pem"})
	for i := range 25 {
		s.Listeners[0].TrustedProxies = append(s.Listeners[0].TrustedProxies, netip.MustParsePrefix(fmt.Sprintf("10.%d.1.2/16", i)))
	}
	s.Listeners[0].TrustedProxies = append(s.Listeners[0].TrustedProxies, netip.MustParsePrefix("2001:db8::/32"))
	other := s.Services[0]
	other.Name, other.MaxConn, other.BalanceFactor = "other", 100, 125
	other.Check.Asks = []model.Ask{{Path: "/it's?a=%20b"}, {Path: "/healthz", Bodies: []string{"ok", "OK (all of it's fine)"}}}
	s.Services = append(s.Services, other)
	return s
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for name, c := range cases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := ours().Render(c.state, c.globals, abilities(t, c.version))
			if err != nil {
				t.Fatal(err)
			}
			text := string(b.Main)
			golden(t, name+".cfg", text)
			for _, file := range slices.Sorted(maps.Keys(b.Files)) {
				golden(t, name+"."+filepath.Base(file), string(b.Files[file].Data))
			}
			for _, line := range strings.Split(text, "\n") {
				if len(line) > 1800 || len(strings.Fields(line)) > 60 {
					t.Errorf("line too long for HAProxy's limits of 2048 bytes and 64 words: %s", line)
				}
				if strings.TrimRight(line, " ") != line {
					t.Errorf("space at the end of %q", line)
				}
			}
			haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
				if c.version == "3.0" && !h.AtLeast(3, 0) {
					return // hash-key is not there
				}
				if err := h.Check(t, local(t, text, b)); err != nil && name != "nothing" { // HAProxy wants a listener
					t.Error(err)
				}
			})
		})
	}
}

// local puts a folder of the test in place of the run directory, with the files that HAProxy reads.
func local(t *testing.T, text string, files ...conf.Bundle) string {
	t.Helper()
	dir := t.TempDir()
	for _, b := range files {
		writeFiles(t, dir, b)
	}
	if err := os.MkdirAll(filepath.Join(dir, "certs"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"server state": "1\n", "certs/listen.pem": string(pem(t))} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The socket's path must stay short.
	text = strings.ReplaceAll(text, "/run/fnlb/management/api.sock", "/tmp/fnlb-test.sock")
	return strings.ReplaceAll(text, "/run/fnlb", dir)
}

// TestOrder shows that the order of rows makes no difference.
func TestOrder(t *testing.T) {
	t.Parallel()
	want := render(t, full(), cases()["everything"].globals, "2.6")
	r := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		s := full()
		r.Shuffle(len(s.Listeners), func(i, j int) { s.Listeners[i], s.Listeners[j] = s.Listeners[j], s.Listeners[i] })
		r.Shuffle(len(s.Routes), func(i, j int) { s.Routes[i], s.Routes[j] = s.Routes[j], s.Routes[i] })
		r.Shuffle(len(s.Services), func(i, j int) { s.Services[i], s.Services[j] = s.Services[j], s.Services[i] })
		r.Shuffle(len(s.Servers), func(i, j int) { s.Servers[i], s.Servers[j] = s.Servers[j], s.Servers[i] })
		if got := render(t, s, cases()["everything"].globals, "2.6"); got != want {
			t.Fatalf("another order gives:\n%s", got)
		}
	}
}

// TestUsersTemplate renders with what docker-loadbalancer promised its users.
func TestUsersTemplate(t *testing.T) {
	t.Parallel()
	tmpl, err := Parse("haproxy.tmpl", []byte(`global
  pidfile {{.PidFile}}
  stats socket {{.SockFile}}
{{range .Services}}{{$port := .Publish.Port}}
frontend port_{{.Publish.IP}}_{{.Publish.Port}}
  bind {{if .Publish.IP}}{{.Publish.IP}}{{else}}*{{end}}:{{.Publish.Port}}{{if ne .Publish.Ssl ""}} ssl crt {{.Publish.Ssl}}{{end}}
  default_backend port_{{.Publish.IP}}_{{.Publish.Port}}_backends
backend port_{{.Publish.IP}}_{{$port}}_backends{{range .Backends}}
  server {{.Name}} {{.IP}}:{{.Port}}{{end}}
{{end}}{{if and (eq .Stats "Y") (gt .StatsPort 0)}}listen stats
  bind *:{{.StatsPort}}
{{end}}`))
	if err != nil {
		t.Fatal(err)
	}
	g := cases()["everything"].globals
	g.PidFile, g.SockFile = "/tmp/haproxy.pid", "/tmp/haproxy.sock"
	b, err := tmpl.Render(full(), g, abilities(t, "2.6"))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "user.cfg", string(b.Main))
}

// TestWithoutOpenSSL: such a HAProxy refuses every directive of TLS.
func TestWithoutOpenSSL(t *testing.T) {
	b, err := ours().Render(sample(8081, addrs("192.0.2.3:8080")...), sampleGlobals(), conf.Abilities{Version: "2.6.12", Major: 2, Minor: 6})
	if err != nil || strings.Contains(string(b.Main), "ssl") {
		t.Errorf("%v\n%s", err, b.Main)
	}
}
