package image

import (
	"fmt"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/dockertest"
)

// TestLabels follows docker-loadbalancer's README with nothing but the image's name changed: web1 with three labels, the balancer with
// the socket, on the host's network or on a bridge with its port published, and then web2. It runs alone, because every balancer with
// the socket publishes what the labels say.
func TestLabels(t *testing.T) {
	e := dockertest.Shared(t)
	for _, host := range []bool{true, false} {
		t.Run(fmt.Sprintf("host network %t", host), func(t *testing.T) {
			port := haproxytest.FreePorts(t, 1)[0]
			published := port
			o := dockertest.Options{Image: e.Image(t, dockertest.FnlbImage), Network: "host"}
			if !host {
				published = 80
				o.Network, o.Publish = "bridge", map[uint16]uint16{80: uint16(port)}
			}
			labels := map[string]string{"lb.enable": "Y", "lb.publish": fmt.Sprint(published), "lb.target": "8080"}
			web1 := e.Run(t, dockertest.Options{Name: "web1", Labels: labels, Cmd: []string{"--name", "web1"}})
			o.More = func(c *client.ContainerCreateOptions) {
				c.HostConfig.Binds = []string{e.Socket + ":/var/run/docker.sock"}
				c.Config.Healthcheck = &container.HealthConfig{}
			}
			b := &balancer{Container: e.Run(t, o), traffic: fmt.Sprintf("127.0.0.1:%d", port)}
			answers := func(names ...string) {
				t.Helper()
				e.Eventually(t, func() (string, error) {
					status, body, err := get(t, b.traffic, "/")
					if err == nil && (status != 200 || !strings.Contains(strings.Join(names, " "), body)) {
						return fmt.Sprintf("%d %q\n%s", status, body, b.Log(t)), nil
					}
					return "", err
				})
			}
			answers("web1")
			b.saysLog(t, fmt.Sprintf("Publish port %d HTTP", published))
			b.saysLog(t, fmt.Sprintf("Backend web1 at %s port 8080", web1.IP(t, "")))
			b.saysLog(t, "bytes to /usr/local/etc/haproxy/haproxy.cfg")
			b.saysLog(t, "HOST/PATH  SERVICE") // the first screen, as docker logs shows it
			b.saysLog(t, "1 of 1 up")
			web2 := e.Run(t, dockertest.Options{Name: "web2", Labels: labels, Cmd: []string{"--name", "web2"}})
			b.saysLog(t, fmt.Sprintf("Backend web2 at %s port 8080", web2.IP(t, "")))
			b.saysLog(t, `msg="is healthy" node=web2`)
			web1.Stop(t)
			answers("web2")
			if out, code := b.Exec(t, "99", "fnlb", "explain", "--container", "web2"); code != 0 || !strings.Contains(out, "state      up") {
				t.Errorf("fnlb explain ends with %d:\n%s", code, out)
			}
			b.Stop(t)
			if code := b.Wait(t); code != 0 {
				t.Errorf("exit code %d:\n%s", code, b.Log(t))
			}
		})
	}
}
