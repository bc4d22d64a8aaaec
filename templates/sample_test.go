package templates

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// sample is what fnlb's own flags give: one listener with management, one service, these nodes.
func sample(port int, nodes ...netip.AddrPort) model.State {
	bind := model.Bind{IP: netip.MustParseAddr("127.0.0.1"), Port: uint16(port)}
	return model.State{Rows: model.Rows{
		Listeners: []model.Listener{{Bind: bind, Management: true, ClientTimeout: 24 * time.Hour}},
		Routes:    []model.Route{{Bind: bind, Service: "nodes"}},
		Services: []model.Service{{
			Name:     "nodes",
			Feedback: true,
			Check:    model.Check{Interval: 3 * time.Second, Timeout: 5 * time.Second, Rise: 1, Fall: 2, Asks: []model.Ask{{Path: "/version", MinVersion: "0.0.235"}}},
			Timeouts: model.Timeouts{Connect: 10 * time.Second, Server: 24 * time.Hour, Queue: time.Minute},
		}},
		Servers: servers("nodes", nodes...),
	}}
}

func servers(service string, nodes ...netip.AddrPort) []model.Server {
	var rows []model.Server
	for _, n := range nodes {
		node := model.Node{IP: n.Addr(), Port: n.Port()}
		rows = append(rows, model.Server{Service: service, Name: node.ServerName(), IP: n.Addr(), Port: n.Port()})
	}
	return rows
}

func sampleGlobals() Globals {
	return Globals{
		ManagementSocket: "/run/fnlb/management/api.sock",
		ManagementPaths:  []string{"/1/lb/nodes", "/1/lb/status"},
		HardStop:         30 * time.Minute,
	}
}

// abilities are those of a version such as 2.6.
func abilities(t testing.TB, version string) conf.Abilities {
	t.Helper()
	a := conf.Abilities{Version: version, OpenSSL: true}
	if _, err := fmt.Sscanf(version, "%d.%d", &a.Major, &a.Minor); err != nil {
		t.Fatal(err)
	}
	return a
}

func render(t testing.TB, s model.State, g Globals, version string) string {
	t.Helper()
	b, err := ours().Render(s, g, abilities(t, version))
	if err != nil {
		t.Fatal(err)
	}
	return string(b.Main)
}

// start runs HAProxy with what the built-in template gives.
func start(t *testing.T, h haproxytest.HAProxy, s model.State, g Globals) *haproxytest.Instance {
	t.Helper()
	return h.Start(t, render(t, s, g, h.Version), "r1")
}

// ours is the built-in template, parsed once.
var ours = sync.OnceValue(Builtin)
