package docker

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/model"
)

// place is a container's place in the network of that name, whose id is "id-" and the name.
func place(network string, addrs ...string) endpoint {
	e := endpoint{network: network, id: "id-" + network}
	for _, a := range addrs {
		if ip := netip.MustParseAddr(a); ip.Is4() {
			e.ip4 = ip
		} else {
			e.ip6 = ip
		}
	}
	return e
}

var kinds = map[string]networkKind{
	"id-bridge": {driver: "bridge"}, "id-front": {driver: "bridge"}, "id-back": {driver: "bridge"}, "id-six": {driver: "bridge"},
	"id-over": {driver: "overlay"}, "id-ingress": {driver: "overlay", ingress: true}, "id-gw": {driver: "bridge"},
	"id-mac": {driver: "macvlan"}, "id-ipvlan": {driver: "ipvlan"},
}

// on is a balancer in these networks; without any it has the host's.
func on(networks ...string) standpoint {
	s := standpoint{host: len(networks) == 0}
	for i, n := range networks {
		e := place(n, fmt.Sprintf("172.30.%d.9", i))
		e.gateway = netip.AddrFrom4([4]byte{172, 30, byte(i), 1})
		s.attached = append(s.attached, e)
	}
	return s
}

// TestChoose is the rule of docs/docker.md as a table.
func TestChoose(t *testing.T) {
	t.Parallel()
	noGateway := standpoint{attached: []endpoint{place("front", "172.30.0.9")}}
	anew := on("front") // the network was made again under its name
	anew.attached[0].id = "another"
	for _, tt := range []struct {
		name  string
		c     facts
		label string
		at    standpoint
		want  string // the address; empty: a problem
		kind  model.Kind
		says  string // in the note or the problem
	}{
		{"its only network, seen from the host", facts{networks: []endpoint{place("bridge", "172.17.0.2")}}, "", on(), "172.17.0.2", 0, ""},
		{"the shared one", facts{networks: []endpoint{place("back", "10.1.0.2"), place("front", "10.2.0.2")}}, "", on("front"), "10.2.0.2", 0, ""},
		{"the shared one, though another comes first", facts{networks: []endpoint{place("back", "10.1.0.2"), place("front", "10.2.0.2")}}, "", on("front", "x"), "10.2.0.2", 0, ""},
		{"the shared one by name", facts{networks: []endpoint{place("front", "10.2.0.2")}}, "", anew, "10.2.0.2", 0, ""},
		{"several are shared", facts{networks: []endpoint{place("back", "10.1.0.2"), place("front", "10.2.0.2")}}, "", on("front", "back"), "10.1.0.2", 0, "back, front: back is taken, the first by name; lb.network"},
		{"several bridges of the host", facts{networks: []endpoint{place("back", "10.1.0.2"), place("front", "10.2.0.2")}}, "", on(), "10.1.0.2", 0, "back is taken"},
		{"its only one is not the balancer's", facts{networks: []endpoint{place("back", "10.1.0.2")}}, "", on("front"), "10.1.0.2", 0, "not attached"},
		{"several, none is the balancer's", facts{networks: []endpoint{place("back", "10.1.0.2"), place("six", "10.2.0.2")}}, "", on("front"), "10.1.0.2", 0, "none of which the balancer is attached to: back is taken"},
		{"the label wins over a shared one", facts{networks: []endpoint{place("back", "10.1.0.2"), place("front", "10.2.0.2")}}, "back", on("front"), "10.1.0.2", 0, ""},
		{"the label names an overlay", facts{networks: []endpoint{place("front", "10.2.0.2"), place("over", "10.9.0.2")}}, "over", on("front"), "10.9.0.2", 0, ""},
		{"the label names one that it is not in", facts{name: "web", networks: []endpoint{place("back", "10.1.0.2")}}, "front", on("front"), "", model.NotFound, "docker network connect front web"},
		{"no network", facts{name: "web"}, "", on(), "", model.Invalid, "it is in no network"},
		{"no network, whatever the label", facts{name: "web"}, "front", on(), "", model.Invalid, "it is in no network"},
		{"no address yet", facts{networks: []endpoint{place("front")}}, "", on("front"), "", model.Unavailable, "no address in network front yet"},
		{"no address yet where the label says", facts{networks: []endpoint{place("back", "10.1.0.2"), place("front")}}, "front", on(), "", model.Unavailable, "no address in network front yet"},
		{"IPv6 only", facts{networks: []endpoint{place("six", "fd00:6::2")}}, "", on(), "fd00:6::2", 0, ""},
		{"both families", facts{networks: []endpoint{place("six", "fd00:6::2", "10.6.0.2")}}, "", on("six"), "10.6.0.2", 0, ""},
		{"host network, balancer on the host", facts{hostNetwork: true}, "", on(), "127.0.0.1", 0, ""},
		{"host network, balancer on a bridge", facts{hostNetwork: true}, "", on("front"), "172.30.0.1", 0, ""},
		{"host network, no gateway", facts{hostNetwork: true}, "", noGateway, "", model.Refused, "no gateway"},
		{"overlay, attached", facts{networks: []endpoint{place("over", "10.9.0.2")}}, "", on("over"), "10.9.0.2", 0, ""},
		{"overlay, not attached", facts{networks: []endpoint{place("over", "10.9.0.2")}}, "", on("front"), "", model.Refused, "lb.network"},
		{"overlay, seen from the host", facts{networks: []endpoint{place("over", "10.9.0.2")}}, "", on(), "", model.Refused, "lb.network"},
		{"ingress, not attached", facts{networks: []endpoint{place("ingress", "10.0.0.3")}}, "", on(), "", model.Refused, "only in ingress"},
		{"ingress beside the gateway's bridge", facts{networks: []endpoint{place("gw", "172.18.0.3"), place("ingress", "10.0.0.3")}}, "", on(), "172.18.0.3", 0, ""},
		{"ingress beside an overlay, attached to that", facts{networks: []endpoint{place("ingress", "10.0.0.3"), place("over", "10.9.0.2")}}, "", on("over"), "10.9.0.2", 0, ""},
		{"macvlan beside a bridge, seen from the host", facts{networks: []endpoint{place("front", "10.2.0.2"), place("mac", "192.168.1.7")}}, "", on(), "10.2.0.2", 0, ""},
		{"macvlan by name before a bridge", facts{networks: []endpoint{place("mac", "192.168.1.7"), place("six", "10.6.0.2")}}, "", on(), "10.6.0.2", 0, ""},
		{"macvlan only", facts{networks: []endpoint{place("mac", "192.168.1.7")}}, "", on(), "192.168.1.7", 0, "not attached"},
		{"ipvlan, attached", facts{networks: []endpoint{place("front", "10.2.0.2"), place("ipvlan", "192.168.1.7")}}, "", on("ipvlan"), "192.168.1.7", 0, ""},
		{"a network that nobody knows yet", facts{networks: []endpoint{place("new", "10.7.0.2")}}, "", on(), "10.7.0.2", 0, ""},
	} {
		ip, note, problem := choose(&tt.c, tt.label, tt.at, kinds)
		got := ""
		if ip.IsValid() {
			got = ip.String()
		}
		said := note
		if problem != nil {
			said = problem.Error()
			if problem.Kind != tt.kind || problem.Mend == "" {
				t.Errorf("%s: %+v", tt.name, problem)
			}
		}
		if got != tt.want || (problem == nil) != (tt.want != "") || !strings.Contains(said, tt.says) || tt.says == "" && said != "" {
			t.Errorf("%s: %q, %q; want %q, %q", tt.name, got, said, tt.want, tt.says)
		}
		readable(t, tt.name, said)
	}
	many := facts{}
	for i := range 200 {
		many.networks = append(many.networks, place(fmt.Sprintf("network-%03d", i), "10.1.0.2"))
	}
	if _, note, _ := choose(&many, "", on(), nil); !strings.Contains(note, "192 more") {
		t.Error(note)
	}
}

func TestTargetPort(t *testing.T) {
	t.Parallel()
	many := make([]uint16, 1000)
	for _, tt := range []struct {
		exposed []uint16
		label   uint16
		want    uint16
		says    string
	}{
		{[]uint16{80}, 0, 80, ""},
		{[]uint16{80}, 8080, 8080, ""},
		{nil, 8080, 8080, ""},
		{nil, 0, 0, "exposes no TCP port"},
		{[]uint16{80, 443}, 0, 0, "exposes the ports 80, 443"},
		{[]uint16{80, 443}, 443, 443, ""},
		{many, 0, 0, "992 more"},
	} {
		got, problem := targetPort(&facts{exposed: tt.exposed}, &wish{target: tt.label})
		if got != tt.want || (problem == nil) != (tt.says == "") {
			t.Errorf("exposed %.5v, label %d: %d, %v", tt.exposed, tt.label, got, problem)
		}
		if problem != nil {
			if !strings.Contains(problem.Reason, tt.says) || !strings.Contains(problem.Mend, "lb.target=PORT") {
				t.Errorf("exposed %.5v: %v", tt.exposed, problem)
			}
			readable(t, "port", problem.Error())
		}
	}
}

// TestShared: container:ID has the address of another one, for as long as that one runs.
func TestShared(t *testing.T) {
	t.Parallel()
	s := quiet(nil)
	s.at = on()
	s.containers["a"] = &tracked{facts: facts{
		id: "a", name: "web", state: "running", shares: "b", exposed: []uint16{80}, labels: pairs("lb.enable", "Y", "lb.publish", "80"),
	}}
	look := func() *model.Found {
		take, found := s.judge(s.containers["a"])
		if (take != nil) != (found.Verdict == model.Offered) {
			t.Errorf("%v and %+v", take, found)
		}
		return found
	}
	if f := look(); f.Verdict != model.Waiting || !strings.Contains(f.Reason, "not known") {
		t.Errorf("without the other: %+v", f)
	}
	other := &tracked{facts: facts{id: "b", name: "pod", state: "running", networks: []endpoint{place("bridge", "172.17.0.5")}}}
	s.containers["b"] = other
	if f := look(); f.Verdict != model.Offered || f.Address != "172.17.0.5:80" {
		t.Errorf("with it: %+v", f)
	}
	other.state = "exited"
	if f := look(); f.Verdict != model.Waiting || !strings.Contains(f.Reason, "pod") || f.Mend == "" {
		t.Errorf("when it has ended: %+v", f)
	}
	other.state, other.hostNetwork = "running", true
	if f := look(); f.Address != "127.0.0.1:80" {
		t.Errorf("when it has the host's network: %+v", f)
	}
}

// TestJudge says for each state of a container what becomes of it.
func TestJudge(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(s *Source, c *tracked)
		want   model.Verdict
		says   string
	}{
		{"running", func(*Source, *tracked) {}, model.Offered, ""},
		{"healthy", func(_ *Source, c *tracked) { c.health = "healthy" }, model.Offered, ""},
		{"paused", func(_ *Source, c *tracked) { c.state = "paused" }, model.Offered, ""},
		{"made", func(_ *Source, c *tracked) { c.state = "created" }, model.Waiting, "it is created"},
		{"ended", func(_ *Source, c *tracked) { c.state = "exited" }, model.Waiting, "it is exited"},
		{"starts again", func(_ *Source, c *tracked) { c.state = "restarting" }, model.Waiting, "it is restarting"},
		{"told to stop", func(_ *Source, c *tracked) { c.leaving = "signal 15" }, model.Waiting, "told to stop (signal 15)"},
		{"not healthy yet", func(_ *Source, c *tracked) { c.health = "starting" }, model.Waiting, "not passed yet"},
		{"unhealthy", func(_ *Source, c *tracked) { c.health = "unhealthy" }, model.Waiting, "HEALTHCHECK fails"},
		{"no labels", func(_ *Source, c *tracked) { c.labels = nil }, model.Ignored, ""},
		{"not enabled", func(_ *Source, c *tracked) { delete(c.labels, "lb.enable") }, model.Ignored, "no label lb.enable=Y"},
		{"enabled by no", func(_ *Source, c *tracked) { c.labels["lb.enable"] = "N" }, model.Ignored, "says no"},
		{"bad label", func(_ *Source, c *tracked) { c.labels["lb.weight"] = "x" }, model.LeftOut, "lb.weight"},
		{"the balancer", func(s *Source, c *tracked) { s.at.id = c.id }, model.LeftOut, "the balancer itself"},
		{"port that may not be", func(_ *Source, c *tracked) { c.labels["lb.publish"] = "8081" }, model.LeftOut, "port 8081 may not be published"},
		{"certificate that cannot be", func(_ *Source, c *tracked) { c.labels["lb.ssl"] = "/etc/shadow" }, model.LeftOut, "not this one"},
		{"name", func(_ *Source, c *tracked) { c.name = plain("a\nb") }, model.LeftOut, "its name"},
		{"not told of", func(_ *Source, c *tracked) {
			c.facts, c.trouble = facts{id: c.id, name: c.name}, "the engine does not tell"
		}, model.Waiting, "does not tell"},
		{"not told of any more", func(_ *Source, c *tracked) { c.trouble = "the engine does not tell" }, model.Offered, ""},
	} {
		s := quiet(nil)
		s.at = on()
		c := &tracked{facts: facts{
			id: strings.Repeat("c0ffee", 10), name: "web", state: "running", started: "2026-01-01T00:00:00Z", exposed: []uint16{8080},
			labels: pairs("lb.enable", "Y", "lb.publish", "80"), networks: []endpoint{place("bridge", "172.17.0.2")}, created: time.Unix(1, 0),
		}}
		tt.change(s, c)
		take, found := s.judge(c)
		if found == nil {
			if tt.want != model.Ignored || tt.says != "" {
				t.Errorf("%s: nothing was found", tt.name)
			}
			continue
		}
		if found.Verdict != tt.want || !strings.Contains(found.Reason, tt.says) || (take != nil) != (tt.want == model.Offered) {
			t.Errorf("%s: %+v", tt.name, found)
		}
		if found.Verdict == model.LeftOut && found.Mend == "" {
			t.Errorf("%s: %+v does not say what to do", tt.name, found)
		}
		if take != nil && (take.server.Admin == model.Maint) != (c.state == "paused") {
			t.Errorf("%s: %+v", tt.name, take.server)
		}
	}
}
