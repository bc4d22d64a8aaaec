package app

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/fnlb/fnlb/model"
)

var update = flag.Bool("update", false, "write the goldens anew")

// port is one listener with a service of so many servers, of which so many are up.
func (s *screen) port(bind model.Bind, service string, up, all int) {
	s.state.Listeners = append(s.state.Listeners, model.Listener{Bind: bind})
	s.state.Routes = append(s.state.Routes, model.Route{Bind: bind, Service: service})
	for i := range all {
		st := model.ServerStatus{Service: service, Name: fmt.Sprintf("%s-%d", service, i), Health: model.Up}
		st.Owner = model.Owner{Source: "docker", Name: st.Name}
		if i >= up {
			st.Health, st.LastCheck = model.Down, "connection refused"
		}
		s.status.Servers = append(s.status.Servers, st)
		s.state.Servers = append(s.state.Servers, model.Server{Service: service, Name: st.Name})
	}
}

func serving() *screen {
	return &screen{
		url: "http://127.0.0.1:8081", docker: true, width: 80,
		status: model.Status{Version: "1.0", Phase: model.Serving, HAProxy: model.HAProxyStatus{Version: "3.0.11"}, Wanted: 1, Applied: 1},
	}
}

// screens are those of the golden file.
func screens() map[string]*screen {
	all := map[string]*screen{}
	s := serving()
	s.port(model.Bind{Port: 8081}, "nodes", 0, 0)
	all["nothing"] = s

	s = serving()
	s.url, s.docker = "", false
	all["nothing, and no management port"] = s

	s = serving()
	s.port(model.Bind{Port: 443}, "port__443_backends", 2, 2)
	s.port(model.Bind{Port: 80}, "port__80_backends", 1, 3)
	s.port(model.Bind{IP: netip.MustParseAddr("2001:db8:1234:5678:9abc:def0:1234:5678"), Port: 8443}, "port_2001:db8:1234:5678:9abc:def0:1234:5678_8443_backends", 1, 1)
	s.port(model.Bind{Port: 8090}, "port__8090_backends", 1, 1)
	s.state.Listeners[0].TLS, s.state.Listeners[2].TLS = true, true
	s.state.Listeners = append(s.state.Listeners, model.Listener{Bind: model.Bind{Port: 8404}, Statistics: true})
	s.barred = []model.Bind{{Port: 8090}}
	s.status.Problems = []model.Problem{{
		Owner:  model.Owner{Source: "docker", Name: "port__8090_backends-0"},
		Reason: "listen on :8090: address already in use, by nginx (pid 17)", Mend: "mend that, or publish another port; it is tried again by itself",
	}}
	s.status.Found = []model.Found{
		{Owner: model.Owner{Source: "docker", Name: "typo"}, Verdict: model.Ignored, Reason: "it has no label lb.enable=Y"},
		{Owner: model.Owner{Source: "docker", Name: "young"}, Verdict: model.Waiting, Reason: "its HEALTHCHECK has not passed yet"},
		{Owner: model.Owner{Source: "docker", Name: "many-ports"}, Verdict: model.LeftOut, Reason: "it exposes 80 and 443", Mend: "set lb.target to one of them"},
		{Owner: model.Owner{Source: "docker", Name: "port__80_backends-0"}, Verdict: model.Offered},
	}
	all["ports of all kinds"] = s

	s = serving()
	s.status.Phase, s.status.HAProxy = model.Starting, model.HAProxyStatus{}
	s.port(model.Bind{Port: 80}, "web", 0, 1)
	s.status.Servers[0].Health, s.status.Servers[0].LastCheck = model.Pending, ""
	all["not yet"] = s

	s = serving()
	s.status.Frozen = &model.Freeze{By: "admin socket", Reason: "a long night"}
	s.port(model.Bind{Port: 80}, "web", 1, 1)
	all["frozen"] = s

	s = serving()
	for i := range 5000 {
		s.port(model.Bind{Port: uint16(i + 1)}, fmt.Sprintf("port__%d_backends", i+1), i%2, 2)
	}
	all["10,000 servers"] = s

	s = serving()
	s.color = true
	s.port(model.Bind{Port: 80}, "web", 1, 1)
	s.port(model.Bind{Port: 81}, "web81", 0, 1)
	all["colours"] = s

	s = serving()
	s.pools, s.noPort, s.docker = model.Bind{Port: 8081}, true, false
	all["pools, none yet"] = s

	s = serving()
	at := model.Bind{Port: 8080}
	s.port(at, "nodes", 1, 1)
	s.port(at, "pool:sub:0123456789", 1, 2)
	s.state.Listeners = s.state.Listeners[:1]
	s.state.Routes[1].Pattern = model.Pattern{Host: "h.example", Path: "/sub", Match: model.Prefix, Slash: true}
	all["hosts and paths"] = s

	s = serving()
	s.width = 40
	s.port(model.Bind{Port: 80}, "port__80_backends_with_a_very_long_name", 0, 1)
	all["narrow"] = s
	return all
}

// TestScreen compares with testdata/screen.txtar; go test ./app -run TestScreen -update writes it.
func TestScreen(t *testing.T) {
	t.Parallel()
	file := filepath.Join("testdata", "screen.txtar")
	all := screens()
	if *update {
		var a txtar.Archive
		for _, name := range []string{"nothing", "nothing, and no management port", "ports of all kinds", "not yet", "frozen", "10,000 servers", "colours", "pools, none yet", "hosts and paths", "narrow"} {
			a.Files = append(a.Files, txtar.File{Name: name, Data: []byte(strings.ReplaceAll(all[name].render(), "\x1b", "ESC"))})
		}
		if err := os.WriteFile(file, txtar.Format(&a), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Files) != len(all) {
		t.Errorf("%d goldens of %d", len(a.Files), len(all))
	}
	for _, f := range a.Files {
		s := all[f.Name]
		if s == nil {
			t.Errorf("no screen %q", f.Name)
			continue
		}
		if got := strings.ReplaceAll(s.render(), "\x1b", "ESC"); got != string(f.Data) {
			t.Errorf("%s: got\n%swant\n%s", f.Name, got, f.Data)
		}
	}
}

// harmless says what of a screen without colours a terminal would obey, or would not show in its width.
func harmless(text string, width int) string {
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		for _, r := range line {
			if !unicode.IsPrint(r) {
				return fmt.Sprintf("%q has %q", line, r)
			}
		}
		if columns(line) > width {
			return fmt.Sprintf("%q is wider than %d", line, width)
		}
	}
	if n := strings.Count(text, "\n"); n > 150 {
		return fmt.Sprintf("%d lines", n)
	}
	return ""
}

func TestScreenIsBounded(t *testing.T) {
	t.Parallel()
	for name, s := range screens() {
		if s.color {
			continue
		}
		if bad := harmless(s.render(), s.width); bad != "" {
			t.Errorf("%s: %s", name, bad)
		}
	}
}

// FuzzScreen: whatever the world outside says, and however wide the terminal is, nothing of it moves the cursor or breaks a line.
func FuzzScreen(f *testing.F) {
	f.Add("a", "connection refused\n\x1b[2J", "mend\r", "port__80_backends", uint16(80))
	f.Add("\u202eolleh", "界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界界", "\xff\xfe", "e\u0301", uint16(1))
	f.Fuzz(func(t *testing.T, name, reason, mend, service string, width uint16) {
		s := serving()
		s.width = int(width)
		s.port(model.Bind{Port: 80}, service, 0, 1)
		s.status.Servers[0].LastCheck = reason
		s.status.Frozen = &model.Freeze{By: name, Reason: reason}
		s.status.Found = []model.Found{{Owner: model.Owner{Source: "docker", Name: name}, Verdict: model.LeftOut, Reason: reason, Mend: mend}}
		if len(reason)+len(mend)+len(name)+len(service) > 2000 { // what tells a reason has cut it
			return
		}
		wide := max(min(int(width), screenWide), screenLeast)
		if bad := harmless(s.render(), wide); bad != "" {
			t.Error(bad)
		}
	})
}

func TestManagementURL(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		ip   string
		tls  bool
		want string
	}{
		{"", false, "http://127.0.0.1:8081"},
		{"::", false, "http://127.0.0.1:8081"},
		{"10.0.0.1", true, "https://10.0.0.1:8081"},
		{"fd00::1", false, "http://[fd00::1]:8081"},
	} {
		b := model.Bind{Port: 8081}
		if test.ip != "" {
			b.IP = netip.MustParseAddr(test.ip)
		}
		if got := managementURL(b, test.tls); got != test.want {
			t.Errorf("%q: %s", test.ip, got)
		}
	}
}
