package containers

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/dockertest"
	"github.com/fnlb/fnlb/test/e2e"
)

// TestPortTaken: a container publishes a port that another program has, at the balancer's start and later. It is left out by name, every
// other service serves and comes, and once the port is free it serves as well.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		v := strings.ReplaceAll(h.Version, ".", "")
		b := prepare(t, 3)
		taken := []net.Listener{occupy(t, b.ports[1]), occupy(t, b.ports[2])}
		run := func(name string, port int) *dockertest.Container {
			return b.engine.Run(t, dockertest.Options{Name: name + "-" + v, Labels: b.labels("lb.publish", strconv.Itoa(port))})
		}
		first := run("taken-first", b.ports[1])
		b.Run(h)
		run("good-a", b.port)
		b.waitServers("good-a-" + v)
		stop := e2e.Load(t, fmt.Sprintf("127.0.0.1:%d", b.port), apart(6))
		later := run("taken-later", b.ports[2])
		for _, c := range []*dockertest.Container{first, later} {
			b.Eventually(func() string {
				if out := b.explain(c.Name); !strings.Contains(out, "taken") || !strings.Contains(out, "listen on") {
					return out
				}
				return ""
			})
		}
		run("good-b", b.port)
		b.waitServers("good-a-"+v, "good-b-"+v)
		for i, l := range taken {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			b.Eventually(func() string {
				if _, status, err := get("127.0.0.1", b.ports[i+1], "/"); err != nil || status != 200 {
					return fmt.Sprintf("port %d: %d, %v", b.ports[i+1], status, err)
				}
				return ""
			})
		}
		none(t, stop())
	})
}

func occupy(t *testing.T, port int) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	return l
}
