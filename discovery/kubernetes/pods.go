package kubernetes

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fnlb/fnlb/model"
)

// what is told of an entry that is not taken.
const (
	beingDeleted = "it is being deleted"
	notReady     = "it is not ready"
)

// readPod says what becomes of a pod.
func (o *Options) readPod(p *corev1.Pod) entry {
	e := entry{owner: plain(p.Namespace) + "/" + plain(p.Name), uid: plain(string(p.UID)), since: p.CreationTimestamp.Unix()}
	wait := func(reason string) entry {
		e.verdict, e.reason, e.leaving = model.Waiting, reason, reason
		return e
	}
	switch {
	case p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed:
		e.verdict, e.leaving = model.Ignored, "it has ended"
		return e
	case p.DeletionTimestamp != nil:
		e.verdict, e.leaving = model.Ignored, beingDeleted
		return e
	case p.Status.PodIP == "" && len(p.Status.PodIPs) == 0:
		return wait("it has no address yet")
	}
	ip, err := o.address(p)
	if err == nil {
		var port uint16
		if port, err = o.port(p); err == nil {
			e.at = netip.AddrPortFrom(ip, port)
			err = o.allowed(e.at)
		}
	}
	switch {
	case err != nil:
		return e.leftOut(err)
	case o.NotReady && p.Status.Phase != corev1.PodRunning:
		return wait("it is not running")
	case !o.NotReady && !ready(p):
		return wait(notReady)
	}
	return e.taken()
}

// taken is the entry that is offered.
func (e entry) taken() entry {
	e.take = true
	return e.named()
}

func (e entry) named() entry {
	at := model.Node{IP: e.at.Addr(), Port: e.at.Port()}
	e.node, e.name = at.String(), at.ServerName()
	return e
}

func (e entry) leftOut(p *model.Problem) entry {
	e.take, e.last = false, false
	e.verdict, e.reason, e.mend, e.leaving = model.LeftOut, p.Reason, p.Mend, p.Reason
	return e
}

func ready(p *corev1.Pod) bool {
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// address chooses one of a pod's.
func (o *Options) address(p *corev1.Pod) (netip.Addr, *model.Problem) {
	texts := []string{p.Status.PodIP}
	for _, ip := range p.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	for _, text := range texts {
		if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" && o.Family.has(ip.Unmap()) {
			return ip.Unmap(), nil
		}
	}
	return netip.Addr{}, &model.Problem{
		Reason: fmt.Sprintf("none of its addresses %s is one of %s", plain(fmt.Sprint(texts[1:])), o.Family), Mend: "correct --ip-family",
	}
}

// has reports whether an address is of that family.
func (f Family) has(ip netip.Addr) bool { return f == AnyFamily || (f == IPv4) == ip.Is4() }

func (f Family) String() string { return [...]string{"any family", "IPv4", "IPv6"}[f] }

// port finds a named port among those of the containers, as a Service's targetPort does.
func (o *Options) port(p *corev1.Pod) (uint16, *model.Problem) {
	if o.Port.Name == "" {
		return o.Port.Number, nil
	}
	find := func(c *corev1.Container) uint16 {
		for _, port := range c.Ports {
			if port.Name == o.Port.Name && (port.Protocol == corev1.ProtocolTCP || port.Protocol == "") {
				return valid(port.ContainerPort)
			}
		}
		return 0
	}
	for i := range p.Spec.Containers {
		if port := find(&p.Spec.Containers[i]); port != 0 {
			return port, nil
		}
	}
	for i := range p.Spec.InitContainers { // sidecars are init containers that go on running
		if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			if port := find(c); port != 0 {
				return port, nil
			}
		}
	}
	return 0, &model.Problem{Reason: fmt.Sprintf("none of its containers has a TCP port named %s", plain(o.Port.Name)), Mend: "correct --target-port or the pod"}
}

// valid is the port as one, or 0.
func valid(port int32) uint16 {
	if port < 1 || port > 65535 {
		return 0
	}
	return uint16(port)
}

func (o *Options) allowed(at netip.AddrPort) *model.Problem {
	if err := o.Policy.Check(at); err != nil {
		return &model.Problem{Reason: "pod " + err.Error()}
	}
	return nil
}

// plain is a text of the cluster as it may be shown. Names that the API server has let through are so already.
func plain(s string) string { return model.Printable(s) }

// readSlice says what becomes of the endpoints of a slice: ready, serving and terminating mean what the API says of them
// (discovery/v1, EndpointConditions). Ready may be true of a pod that is not, where its service publishes such addresses.
func (o *Options) readSlice(s *discoveryv1.EndpointSlice) []entry {
	if s.AddressType != discoveryv1.AddressTypeIPv4 && s.AddressType != discoveryv1.AddressTypeIPv6 {
		return nil
	}
	port, bad := o.slicePort(s)
	var out []entry
	for i := range s.Endpoints {
		ep := &s.Endpoints[i]
		if len(ep.Addresses) == 0 {
			continue
		}
		ip, err := netip.ParseAddr(ep.Addresses[0]) // the others, where there are any, mean the same endpoint
		if err != nil || ip.Zone() != "" || !o.Family.has(ip.Unmap()) {
			continue
		}
		e := entry{owner: plain(s.Namespace) + "/" + ip.String(), at: netip.AddrPortFrom(ip.Unmap(), port), since: s.CreationTimestamp.Unix()}
		if ref := ep.TargetRef; ref != nil && ref.Name != "" {
			e.owner, e.uid = plain(s.Namespace)+"/"+plain(ref.Name), plain(string(ref.UID))
		}
		problem := bad
		if problem == nil {
			problem = o.allowed(e.at)
		}
		if problem != nil {
			out = append(out, e.leftOut(problem))
			continue
		}
		out = append(out, e.judged(ep.Conditions, o.NotReady))
	}
	return out
}

// judged reads the conditions of an endpoint.
func (e entry) judged(c discoveryv1.EndpointConditions, notReadyToo bool) entry {
	is := func(b *bool, unsaid bool) bool {
		if b == nil {
			return unsaid
		}
		return *b
	}
	ready := is(c.Ready, true)
	serving, terminating := is(c.Serving, ready), is(c.Terminating, false)
	switch {
	case terminating:
		e.last, e.verdict, e.leaving = serving, model.Ignored, beingDeleted
		e = e.named()
	case ready || notReadyToo:
		e = e.taken()
	default:
		e.verdict, e.reason, e.leaving = model.Waiting, notReady, notReady
	}
	return e
}

// slicePort finds the port of a slice: that of the name or of the number that is asked for, or the only one there is.
func (o *Options) slicePort(s *discoveryv1.EndpointSlice) (uint16, *model.Problem) {
	if o.Port.Number != 0 {
		return o.Port.Number, nil
	}
	var only []uint16
	for _, p := range s.Ports {
		if p.Port == nil || valid(*p.Port) == 0 || p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
			continue
		}
		if o.Port.Name != "" && p.Name != nil && *p.Name == o.Port.Name {
			return valid(*p.Port), nil
		}
		only = append(only, valid(*p.Port))
	}
	switch {
	case o.Port.Name != "":
		return 0, &model.Problem{Reason: fmt.Sprintf("the service has no TCP port named %s", plain(o.Port.Name)), Mend: "correct --target-port or the service"}
	case len(only) != 1:
		return 0, &model.Problem{Reason: fmt.Sprintf("the service has %d TCP ports", len(only)), Mend: "name one of them with --target-port"}
	}
	return only[0], nil
}
