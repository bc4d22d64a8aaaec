package image

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/dockertest"
)

// TestSocketProxy: behind a proxy that lets through a few questions, and hides the environment of containers, nothing is missing and
// nothing else was asked. It runs alone, because every balancer with the Engine's socket publishes what the labels say.
func TestSocketProxy(t *testing.T) {
	e := dockertest.Shared(t)
	proxy := e.Run(t, dockertest.Options{Image: e.Image(t, dockertest.ProxyImage), More: func(o *client.ContainerCreateOptions) {
		o.HostConfig.Binds = []string{e.Socket + ":/var/run/docker.sock:ro"}
		o.HostConfig.CapDrop, o.HostConfig.ReadonlyRootfs, o.HostConfig.SecurityOpt = []string{"ALL"}, true, []string{"no-new-privileges"}
	}})
	engine := "tcp://" + net.JoinHostPort(proxy.IP(t, "").String(), "2375")
	port := haproxytest.FreePort(t)
	b := e.Run(t, dockertest.Options{Image: e.Image(t, dockertest.FnlbImage), Cmd: []string{"--docker", engine}, Publish: map[uint16]uint16{80: uint16(port)}})
	labelled := func(name string) *dockertest.Container {
		return e.Run(t, dockertest.Options{
			Cmd: []string{"--name", name}, Env: []string{"PASSWORD=secret"},
			Labels: map[string]string{"lb.enable": "Y", "lb.publish": "80", "lb.target": "8080"},
		})
	}
	answers := func(want string) {
		t.Helper()
		e.Eventually(t, func() (string, error) {
			status, body, err := get(t, fmt.Sprintf("127.0.0.1:%d", port), "/")
			if err == nil && (status != 200 || body != want) {
				return fmt.Sprintf("%d %q\n%s", status, body, b.Log(t)), nil
			}
			return "", err
		})
	}
	first := labelled("first")
	answers("first")
	first.Stop(t)
	labelled("second")
	answers("second")
	if log := proxy.Log(t); strings.Contains(log, "refused") || !strings.Contains(log, "listens") {
		t.Errorf("the proxy said:\n%s", log)
	}
}
