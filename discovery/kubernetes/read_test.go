package kubernetes

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fnlb/fnlb/model"
)

// aPod is one that is ready, changed by what a test changes.
func aPod(name, ip string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "fn", Name: name, UID: types.UID("uid-" + name), CreationTimestamp: metav1.Unix(100, 0)},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}, {Name: "http", ContainerPort: 81}}}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func unready(p *corev1.Pod) { p.Status.Conditions[1].Status = corev1.ConditionFalse }
func ending(p *corev1.Pod)  { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(200, 0)} }
func dual(p *corev1.Pod)    { p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: "fd00::7"}) }

// TestReadPod: one rule says whether a pod is a node, and what is told of it where it is none. What is stripped from it makes no difference.
func TestReadPod(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	o := Options{Port: Port{Number: 8080}, Policy: model.Policy{Deny: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}}
	with := func(change func(*Options)) Options { c := o; change(&c); return c }
	for _, test := range []struct {
		what string
		o    Options
		pod  *corev1.Pod
		at   string // empty: it is not taken
		is   model.Verdict
		why  string
	}{
		{"ready", o, aPod("a", "10.0.0.1"), "10.0.0.1:8080", 0, ""},
		{"IPv6", o, aPod("a", "fd00::1"), "[fd00::1]:8080", 0, ""},
		{"the older field alone", o, aPod("a", "10.0.0.1", func(p *corev1.Pod) { p.Status.PodIPs = nil }), "10.0.0.1:8080", 0, ""},
		{"not ready", o, aPod("a", "10.0.0.1", unready), "", model.Waiting, "not ready"},
		{"no condition", o, aPod("a", "10.0.0.1", func(p *corev1.Pod) { p.Status.Conditions = nil }), "", model.Waiting, "not ready"},
		{"unknown", o, aPod("a", "10.0.0.1", func(p *corev1.Pod) { p.Status.Conditions[1].Status = corev1.ConditionUnknown }), "", model.Waiting, "not ready"},
		{"running is enough", with(func(o *Options) { o.NotReady = true }), aPod("a", "10.0.0.1", unready), "10.0.0.1:8080", 0, ""},
		{"pending is not", with(func(o *Options) { o.NotReady = true }), aPod("a", "10.0.0.1", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }), "", model.Waiting, "not running"},
		{"being deleted", o, aPod("a", "10.0.0.1", ending), "", model.Ignored, ""},
		{"being deleted, and running is enough", with(func(o *Options) { o.NotReady = true }), aPod("a", "10.0.0.1", ending), "", model.Ignored, ""},
		{"ended", o, aPod("a", "10.0.0.1", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), "", model.Ignored, ""},
		{"no address", o, aPod("a", "", func(p *corev1.Pod) { p.Status.PodIPs = nil }), "", model.Waiting, "no address"},
		{"no address that is one", o, aPod("a", "10.0.0.1:80\n"), "", model.LeftOut, "none of its addresses"},
		{"a zone", o, aPod("a", "fe80::1%eth0"), "", model.LeftOut, "none of its addresses"},
		{"the metadata service", o, aPod("a", "169.254.169.254"), "", model.LeftOut, "link-local"},
		{"a denied address", o, aPod("a", "10.9.0.1"), "", model.LeftOut, "--node-deny"},
		{"the first of two", o, aPod("a", "10.0.0.1", dual), "10.0.0.1:8080", 0, ""},
		{"IPv4 of two", with(func(o *Options) { o.Family = IPv4 }), aPod("a", "10.0.0.1", dual), "10.0.0.1:8080", 0, ""},
		{"IPv6 of two", with(func(o *Options) { o.Family = IPv6 }), aPod("a", "10.0.0.1", dual), "[fd00::7]:8080", 0, ""},
		{"IPv6 of none", with(func(o *Options) { o.Family = IPv6 }), aPod("a", "10.0.0.1"), "", model.LeftOut, "IPv6"},
		{"a named port", with(func(o *Options) { o.Port = Port{Name: "http"} }), aPod("a", "10.0.0.1"), "10.0.0.1:81", 0, ""},
		{"of another protocol", with(func(o *Options) { o.Port = Port{Name: "dns"} }), aPod("a", "10.0.0.1"), "", model.LeftOut, "named dns"},
		{"of a sidecar", with(func(o *Options) { o.Port = Port{Name: "side"} }), aPod("a", "10.0.0.1", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{RestartPolicy: &always, Ports: []corev1.ContainerPort{{Name: "side", ContainerPort: 82}}}}
		}), "10.0.0.1:82", 0, ""},
		{"of what has run before", with(func(o *Options) { o.Port = Port{Name: "side"} }), aPod("a", "10.0.0.1", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "side", ContainerPort: 82}}}}
		}), "", model.LeftOut, "named side"},
	} {
		e := test.o.readPod(test.pod)
		if e.owner != "fn/a" || e.uid != "uid-a" || e.take != (test.at != "") || e.take && e.at.String() != test.at || e.verdict != test.is || !strings.Contains(e.reason, test.why) {
			t.Errorf("%s: %+v", test.what, e)
		}
		if !e.take && e.leaving == "" {
			t.Errorf("%s: nothing says why it goes", test.what)
		}
		small := stripped(test.pod)
		if again := test.o.readPod(&small); again != e {
			t.Errorf("%s: stripped it is %+v, not %+v", test.what, again, e)
		}
	}
}

func pointer[T any](v T) *T { return &v }

// TestReadSlice: the conditions mean what the API says of them, also where they are left out.
func TestReadSlice(t *testing.T) {
	endpoint := func(ip, pod string, c discoveryv1.EndpointConditions) discoveryv1.Endpoint {
		e := discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: c}
		if pod != "" {
			e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Name: pod, UID: types.UID("uid-" + pod)}
		}
		return e
	}
	slice := func(family discoveryv1.AddressType, ports []discoveryv1.EndpointPort, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "fn", Name: "s"}, AddressType: family, Ports: ports, Endpoints: endpoints}
	}
	one := []discoveryv1.EndpointPort{{Name: pointer(""), Port: pointer[int32](81)}}
	two := []discoveryv1.EndpointPort{{Name: pointer("http"), Port: pointer[int32](81)}, {Name: pointer("admin"), Port: pointer[int32](82)}, {Name: pointer("dns"), Port: pointer[int32](53), Protocol: pointer(corev1.ProtocolUDP)}}
	o := Options{Service: "web"}
	show := func(entries []entry) string {
		var out []string
		for _, e := range entries {
			if (e.take || e.last) && (e.node == "" || e.name == "") {
				t.Errorf("it has no name: %+v", e)
			}
			s := e.owner + " " + e.at.String()
			switch {
			case e.take:
				s += " taken"
			case e.last:
				s += " last"
			case e.verdict == model.LeftOut:
				s = e.owner + " left out"
			}
			out = append(out, s)
		}
		return strings.Join(out, ", ")
	}
	for _, test := range []struct {
		what  string
		o     Options
		slice *discoveryv1.EndpointSlice
		want  string
	}{
		{"nothing said is ready", o, slice("IPv4", one, endpoint("10.0.0.1", "a", discoveryv1.EndpointConditions{})), "fn/a 10.0.0.1:81 taken"},
		{"ready", o, slice("IPv4", one, endpoint("10.0.0.1", "a", discoveryv1.EndpointConditions{Ready: pointer(true), Serving: pointer(true), Terminating: pointer(false)})), "fn/a 10.0.0.1:81 taken"},
		{"not ready", o, slice("IPv4", one, endpoint("10.0.0.1", "a", discoveryv1.EndpointConditions{Ready: pointer(false)})), "fn/a 10.0.0.1:81"},
		{"terminating and serving", o, slice("IPv4", one, endpoint("10.0.0.1", "a", discoveryv1.EndpointConditions{Ready: pointer(false), Serving: pointer(true), Terminating: pointer(true)})), "fn/a 10.0.0.1:81 last"},
		{"terminating and not", o, slice("IPv4", one, endpoint("10.0.0.1", "a", discoveryv1.EndpointConditions{Ready: pointer(false), Serving: pointer(false), Terminating: pointer(true)})), "fn/a 10.0.0.1:81"},
		{"terminating, of a service that publishes all", o, slice("IPv4", one, endpoint("10.0.0.1", "a", discoveryv1.EndpointConditions{Ready: pointer(true), Serving: pointer(true), Terminating: pointer(true)})), "fn/a 10.0.0.1:81 last"},
		{"without a pod", o, slice("IPv4", one, endpoint("10.0.0.1", "", discoveryv1.EndpointConditions{})), "fn/10.0.0.1 10.0.0.1:81 taken"},
		{"no addresses", o, slice("IPv4", one, discoveryv1.Endpoint{}), ""},
		{"names are not followed", o, slice("FQDN", one, endpoint("a.example.org", "a", discoveryv1.EndpointConditions{})), ""},
		{"several ports", o, slice("IPv4", two, endpoint("10.0.0.1", "a", discoveryv1.EndpointConditions{})), "fn/a left out"},
		{"no port", o, slice("IPv4", nil, endpoint("10.0.0.1", "a", discoveryv1.EndpointConditions{})), "fn/a left out"},
		{"a named one", Options{Port: Port{Name: "admin"}}, slice("IPv4", two, endpoint("10.0.0.1", "a", discoveryv1.EndpointConditions{})), "fn/a 10.0.0.1:82 taken"},
		{"one of another protocol", Options{Port: Port{Name: "dns"}}, slice("IPv4", two, endpoint("10.0.0.1", "a", discoveryv1.EndpointConditions{})), "fn/a left out"},
		{"a number", Options{Port: Port{Number: 99}}, slice("IPv4", two, endpoint("10.0.0.1", "a", discoveryv1.EndpointConditions{})), "fn/a 10.0.0.1:99 taken"},
		{"another family", Options{Family: IPv4}, slice("IPv6", one, endpoint("fd00::1", "a", discoveryv1.EndpointConditions{})), ""},
		{"the metadata service", o, slice("IPv4", one, endpoint("169.254.169.254", "a", discoveryv1.EndpointConditions{})), "fn/a left out"},
	} {
		if got := show(test.o.readSlice(test.slice)); got != test.want {
			t.Errorf("%s: %q, want %q", test.what, got, test.want)
		}
	}
}

// TestFlat: an owner is one server, an address is one server, and of a service whose endpoints all end those that still serve are left.
func TestFlat(t *testing.T) {
	at := netip.MustParseAddrPort
	e := func(owner, addr string, since int64, take, last bool) entry {
		return entry{owner: owner, at: at(addr), since: since, take: take, last: last, leaving: "x"}
	}
	taken := func(w *world, service bool) []string {
		var out []string
		for _, e := range w.flat(service) {
			if e.take {
				out = append(out, e.owner+" "+e.at.String())
			}
		}
		return out
	}
	for _, test := range []struct {
		what    string
		objects map[string][]entry
		service bool
		want    []string
	}{
		{"moved between slices", map[string][]entry{"1": {e("a", "10.0.0.1:80", 1, true, false)}, "2": {e("a", "10.0.0.1:80", 1, true, false)}}, true, []string{"a 10.0.0.1:80"}},
		{"not ready in one of them", map[string][]entry{"1": {e("a", "10.0.0.1:80", 1, false, false)}, "2": {e("a", "10.0.0.1:80", 1, true, false)}}, true, []string{"a 10.0.0.1:80"}},
		{"both families", map[string][]entry{"1": {e("a", "[fd00::1]:80", 1, true, false)}, "2": {e("a", "10.0.0.1:80", 1, true, false)}}, true, []string{"a 10.0.0.1:80"}},
		{"one address", map[string][]entry{"1": {e("a", "10.0.0.1:80", 1, true, false)}, "2": {e("b", "10.0.0.1:80", 2, true, false)}}, false, []string{"b 10.0.0.1:80"}},
		{"one address, the older one ends", map[string][]entry{"1": {e("a", "10.0.0.1:80", 1, true, false)}, "2": {e("b", "10.0.0.1:80", 2, false, false)}}, false, []string{"a 10.0.0.1:80"}},
		{"some end", map[string][]entry{"1": {e("a", "10.0.0.1:80", 1, true, false), e("b", "10.0.0.2:80", 1, false, true)}}, true, []string{"a 10.0.0.1:80"}},
		{"all end", map[string][]entry{"1": {e("a", "10.0.0.1:80", 1, false, false), e("b", "10.0.0.2:80", 1, false, true)}}, true, []string{"b 10.0.0.2:80"}},
		{"all pods end", map[string][]entry{"1": {e("b", "10.0.0.2:80", 1, false, true)}}, false, nil},
	} {
		w := newWorld()
		w.replace(test.objects)
		if got := taken(w, test.service); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.what, got, test.want)
		}
	}
}

// TestWorld: what is the same is nothing new, and what only a list does not have is missed.
func TestWorld(t *testing.T) {
	w := newWorld()
	a, b := []entry{{owner: "a", take: true}}, []entry{{owner: "b", take: true}}
	w.replace(map[string][]entry{})
	if w.version != 1 {
		t.Errorf("an empty list is version %d", w.version)
	}
	w.replace(map[string][]entry{"a": a, "b": b})
	w.replace(map[string][]entry{"a": a, "b": b})
	if fresh, leaves := w.set("a", a); fresh || leaves || w.version != 2 {
		t.Errorf("the same: %v %v, version %d", fresh, leaves, w.version)
	}
	if fresh, leaves := w.set("a", []entry{{owner: "a"}}); !fresh || !leaves {
		t.Errorf("it is not taken any more: %v %v", fresh, leaves)
	}
	if fresh, leaves := w.set("a", a); !fresh || leaves {
		t.Errorf("it is taken again: %v %v", fresh, leaves)
	}
	w.replace(map[string][]entry{"a": a})
	if want := map[string]bool{"b": true}; !reflect.DeepEqual(w.missed, want) {
		t.Errorf("missed are %v", w.missed)
	}
	w.set("b", b)
	w.remove("a")
	if len(w.missed) != 0 || len(w.objects) != 1 {
		t.Errorf("missed are %v of %v", w.missed, w.objects)
	}
}

// FuzzRead: whatever a pod has, what is made of it is a server that HAProxy can have, or a line that can be shown.
func FuzzRead(f *testing.F) {
	f.Add("a", "uid", "10.0.0.1", "fd00::1", "http", int32(80), uint8(0))
	f.Add("a\nb", "u\x00", "169.254.1.1", "fe80::1%x", "\"", int32(-1), uint8(7))
	f.Fuzz(func(t *testing.T, name, uid, ip, second, port string, number int32, bits uint8) {
		o := Options{Port: Port{Number: 8080}, NotReady: bits&1 != 0, Family: Family(bits >> 1 % 3), Pool: "nodes", Now: time.Now}
		if bits&8 != 0 {
			o.Port = Port{Name: port}
		}
		p := aPod(name, ip, dual)
		p.UID, p.Status.PodIPs[1].IP = types.UID(uid), second
		p.Spec.Containers[0].Ports[1] = corev1.ContainerPort{Name: port, ContainerPort: number}
		s := New(o)
		s.world.set("pod", []entry{o.readPod(p)})
		slice := &discoveryv1.EndpointSlice{AddressType: "IPv4", Endpoints: []discoveryv1.Endpoint{{Addresses: []string{ip}, TargetRef: &corev1.ObjectReference{Name: name}}}}
		slice.Ports = []discoveryv1.EndpointPort{{Name: &port, Port: &number}}
		s.world.set("slice", o.readSlice(slice))
		snapshot := s.snapshot()
		for _, offer := range snapshot.Offers {
			if srv := offer.Servers[0]; !model.ValidName(srv.Name) || !srv.Addr().IsValid() || srv.Port == 0 {
				t.Errorf("%+v", srv)
			}
			if offer.Owner.Name != model.Printable(offer.Owner.Name) && len(offer.Owner.Name) < 200 {
				t.Errorf("owner %q", offer.Owner.Name)
			}
		}
		for _, found := range snapshot.Found {
			if strings.ContainsAny(found.Reason+found.Mend+found.Owner.Name, "\n\x00") {
				t.Errorf("%+v", found)
			}
		}
	})
}
