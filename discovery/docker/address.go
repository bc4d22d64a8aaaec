package docker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fnlb/fnlb/model"
)

// endpoint is a container's place in one network.
type endpoint struct {
	network  string // name
	id       string // of the network
	ip4, ip6 netip.Addr
	gateway  netip.Addr
}

// addr is where the container is reached; not valid while it has no address.
func (e endpoint) addr() netip.Addr {
	if e.ip4.IsValid() {
		return e.ip4
	}
	return e.ip6
}

// network is what the engine says of one.
type networkKind struct {
	driver  string
	ingress bool // of Swarm's routing mesh
}

// overlay reports whether only those who are attached can reach it.
func (n networkKind) overlay() bool { return n.driver == "overlay" || n.ingress }

// reachable reports whether the host itself can reach it: macvlan and ipvlan keep it out by design.
func (n networkKind) reachable() bool { return n.driver == "bridge" || n.driver == "" }

// standpoint is where the balancer is.
type standpoint struct {
	id       string     // its own container; empty: it is in none, or does not know
	host     bool       // it has the host's network
	attached []endpoint // its networks, by name, where it has not
}

// isOn reports whether the balancer is attached to the network.
func (s standpoint) isOn(e endpoint) bool {
	return slices.ContainsFunc(s.attached, func(a endpoint) bool { return a.id != "" && a.id == e.id || a.network == e.network })
}

// choose gives the address of a container by one rule, which docs/docker.md tells:
//
//  1. a container with the host's network is reached at 127.0.0.1, or at the gateway where the balancer has a network of its own;
//  2. the network that lb.network names;
//  3. the one that the balancer is attached to (with the host's network: bridges of the host); of several the first by name, with a note;
//  4. its only network; of several the first by name, with a note.
//
// Overlay networks, Swarm's ingress among them, count only where the balancer is attached.
func choose(c *facts, want string, at standpoint, networks map[string]networkKind) (ip netip.Addr, note string, problem *model.Problem) {
	if c.hostNetwork {
		return hostAddress(at)
	}
	if len(c.networks) == 0 {
		return netip.Addr{}, "", &model.Problem{Kind: model.Invalid, Reason: "it is in no network", Mend: "start it with --network bridge, or connect it: docker network connect NETWORK " + c.name}
	}
	if want != "" {
		i := slices.IndexFunc(c.networks, func(e endpoint) bool { return e.network == want })
		if i < 0 {
			return netip.Addr{}, "", &model.Problem{Kind: model.NotFound,
				Reason: fmt.Sprintf("lb.network=%s, and it is in %s", want, names(c.networks)), Mend: fmt.Sprintf("docker network connect %s %s, or change the label", want, c.name)}
		}
		return address(c.networks[i], "")
	}
	var shared, rest []endpoint
	for _, e := range c.networks {
		n := networks[e.id]
		switch {
		case at.isOn(e), at.host && n.reachable() && !n.overlay():
			shared = append(shared, e)
		case !n.overlay():
			rest = append(rest, e)
		}
	}
	switch {
	case len(shared) == 1:
		return address(shared[0], "")
	case len(shared) > 1:
		return address(shared[0], fmt.Sprintf("the balancer reaches it by %s: %s is taken, the first by name; lb.network chooses another", names(shared), shared[0].network))
	case len(rest) == 1:
		return address(rest[0], fmt.Sprintf("it is only in %s, to which the balancer is not attached", rest[0].network))
	case len(rest) > 1:
		return address(rest[0], fmt.Sprintf("it is in %s, none of which the balancer is attached to: %s is taken, the first by name; lb.network chooses another", names(rest), rest[0].network))
	}
	return netip.Addr{}, "", &model.Problem{Kind: model.Refused,
		Reason: fmt.Sprintf("it is only in %s, to which the balancer is not attached", names(c.networks)),
		Mend:   "attach both to one network and name it with lb.network"}
}

func hostAddress(at standpoint) (netip.Addr, string, *model.Problem) {
	if at.host {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), "", nil
	}
	for _, e := range at.attached {
		if e.gateway.IsValid() {
			return e.gateway, "", nil
		}
	}
	return netip.Addr{}, "", &model.Problem{Kind: model.Refused, Reason: "it has the host's network, to which the balancer has no gateway", Mend: "start the balancer with --network host, or on a bridge"}
}

func address(e endpoint, note string) (netip.Addr, string, *model.Problem) {
	if ip := e.addr(); ip.IsValid() {
		return ip, note, nil
	}
	return netip.Addr{}, "", &model.Problem{Kind: model.Unavailable, Reason: "it has no address in network " + e.network + " yet", Mend: "wait; it is looked at again by itself"}
}

func names(list []endpoint) string {
	const most = 8
	var out []string
	for _, e := range list[:min(most, len(list))] {
		out = append(out, e.network)
	}
	if more := len(list) - most; more > 0 {
		out = append(out, fmt.Sprintf("%d more", more))
	}
	return strings.Join(out, ", ")
}

// targetPort is the port of the container: the label's, else the single one that it exposes.
func targetPort(c *facts, w *wish) (uint16, *model.Problem) {
	switch {
	case w.target != 0:
		return w.target, nil
	case len(c.exposed) == 1:
		return c.exposed[0], nil
	case len(c.exposed) == 0:
		return 0, &model.Problem{Kind: model.Invalid, Reason: "its image exposes no TCP port, and it has no label lb.target", Mend: "add lb.target=PORT, the port that the container listens on"}
	}
	const most = 8
	var list []string
	for _, p := range c.exposed[:min(most, len(c.exposed))] {
		list = append(list, fmt.Sprint(p))
	}
	if more := len(c.exposed) - most; more > 0 {
		list = append(list, fmt.Sprintf("%d more", more))
	}
	return 0, &model.Problem{Kind: model.Invalid, Reason: fmt.Sprintf("its image exposes the ports %s, and it has no label lb.target", strings.Join(list, ", ")), Mend: "add lb.target=PORT, one of these"}
}
