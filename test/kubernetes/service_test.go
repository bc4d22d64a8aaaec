package kubernetes

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/e2e"
	"github.com/fnlb/fnlb/test/kubetest"
)

// conditions of an endpoint: ready, serving, terminating.
type conditions [3]bool

// slice writes an EndpointSlice of the service web, as the controller would.
func (n *namespace) slice(method, name string, of map[*pod]conditions) {
	n.t.Helper()
	endpoints := []object{}
	for p, c := range of {
		endpoints = append(endpoints, object{
			"addresses": []string{p.ip}, "conditions": object{"ready": c[0], "serving": c[1], "terminating": c[2]},
			"targetRef": corev1.ObjectReference{Kind: "Pod", Namespace: n.name, Name: p.name},
		})
	}
	path := n.path("/apis/discovery.k8s.io/v1", "endpointslices")
	if method == http.MethodPut {
		path += "/" + name
	}
	n.must(n.c.Do(n.t.Context(), method, path, jsonType, object{
		"metadata": object{"name": name, "labels": object{"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
		"ports": []object{{"name": "http", "port": n.port, "protocol": "TCP"}}, "endpoints": endpoints,
	}, nil))
}

// network is a range of addresses that are this host's and no loopback, which the API server refuses in endpoints: one of RFC 2544, on the
// interface lo.
var network = sync.OnceValues(func() (third byte, err error) {
	third = byte(os.Getpid())
	ip := [4]byte{198, 18, third, 1}
	return third, alias(func(fd int, lo *unix.Ifreq) error {
		return errors.Join(lo.SetInet4Addr(ip[:]), unix.IoctlIfreq(fd, unix.SIOCSIFADDR, lo)) // of class C: the kernel takes 256 addresses
	})
})

func alias(do func(fd int, lo *unix.Ifreq) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	lo, err := unix.NewIfreq(fmt.Sprintf("lo:%d", byte(os.Getpid())))
	if err == nil {
		err = do(fd, lo)
	}
	return errors.Join(err, unix.Close(fd))
}

// removeNetwork undoes network.
func removeNetwork() error {
	if _, err := network(); err != nil {
		return nil //nolint:nilerr // there is none
	}
	return alias(func(fd int, lo *unix.Ifreq) error {
		lo.SetUint16(0) // an alias that is down is gone
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
	})
}

var outsiders atomic.Int64

// outside is a pod at an address of the network, without an object.
func (n *namespace) outside() *pod {
	n.t.Helper()
	third, err := network()
	if err != nil {
		n.t.Fatalf("an address that is no loopback: %v; run the tests as root", err)
	}
	i := outsiders.Add(1)
	name, ip := fmt.Sprintf("out-%d", i), fmt.Sprintf("198.18.%d.%d", third, i%250+2)
	return &pod{Node: e2e.NewNodeAt(n.t, name, fmt.Sprintf("%s:%d", ip, n.port)), n: n, name: name, ip: ip}
}

// TestService: the endpoints of a service are nodes while they are ready and do not terminate; of one that ends altogether those that still serve.
func TestService(t *testing.T) {
	t.Parallel()
	c := kubetest.Shared(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		n := in(t, c)
		p, q, r := n.outside(), n.outside(), n.outside()
		ready, not, ending, ended := conditions{true, true, false}, conditions{}, conditions{false, true, true}, conditions{false, false, true}
		n.slice(http.MethodPost, "web-1", map[*pod]conditions{p: ready, q: not})
		b := n.start(h, "--service", "web")
		b.WaitOnline(p.Node)
		n.slice(http.MethodPost, "web-2", map[*pod]conditions{r: ready, p: ready}) // p is about to be moved
		b.WaitOnline(nodes(p, r)...)
		stopLoad := e2e.Load(t, b.Traffic, e2e.Clients(20*time.Millisecond))
		n.slice(http.MethodPut, "web-1", map[*pod]conditions{q: ready})
		b.WaitOnline(nodes(p, q, r)...)
		n.slice(http.MethodPut, "web-2", map[*pod]conditions{r: ending, p: ended})
		b.WaitOnline(q.Node)
		n.slice(http.MethodPut, "web-1", map[*pod]conditions{q: ending}) // all of them
		b.WaitOnline(nodes(q, r)...)
		n.slice(http.MethodPut, "web-1", map[*pod]conditions{q: ended})
		b.WaitOnline(r.Node)
		if r := stopLoad(); r.Failed > 0 || r.Requests == 0 {
			t.Error(r)
		}
		n.must(n.c.Do(t.Context(), http.MethodDelete, n.path("/apis/discovery.k8s.io/v1", "endpointslices/web-2"), jsonType, nil, nil))
		b.WaitOnline()
		n.slice(http.MethodPut, "web-1", map[*pod]conditions{q: ready})
		b.WaitOnline(q.Node)
		source(b)
	})
}
