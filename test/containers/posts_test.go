package containers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/dockertest"
	"github.com/fnlb/fnlb/test/e2e"
	"github.com/fnlb/fnlb/test/load"
)

// TestPosts stops containers one by one under a load of POSTs, which nobody may send twice, and reports how many are lost beside those of
// a bare HAProxy with the same containers. None is lost where a server goes on answering for a while after it was told to stop. Where it
// ends at once, or closes idle connections at once as Go's Shutdown does, a POST can meet that on its way, whoever sent it there.
func TestPosts(t *testing.T) {
	beside(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		beside(t)
		for _, end := range []string{"close", "finish", "linger"} {
			if end != "linger" && h.Version != "3.0" && !full {
				continue // it is only reported
			}
			t.Run(end, func(t *testing.T) {
				beside(t)
				ours, bare := stopsUnderPosts(t, h, end)
				t.Logf("figure: %s: %d of %d POSTs lost; behind a bare HAProxy %d of %d", end, ours.Failed, ours.Requests, bare.Failed, bare.Requests)
				if ours.Requests == 0 || bare.Requests == 0 {
					t.Error("there was no load")
				}
				if end == "linger" && ours.Failed > 0 {
					t.Errorf("lost: %s", ours)
				}
			})
		}
	})
}

// posts are clients with addresses of their own, because a client stays with its container.
func posts() []load.Group {
	return []load.Group{
		{Name: "kept", KeepAlive: true, Workers: size(6, 12), Think: 5 * time.Millisecond, Method: "POST", Body: "x", Apart: true},
		{Name: "fresh", Workers: size(2, 6), Think: 10 * time.Millisecond, Method: "POST", Body: "x", Apart: true},
	}
}

// stopsUnderPosts stops all containers but one. The linger is long, because a machine that is busy takes its time.
func stopsUnderPosts(t *testing.T, h haproxytest.HAProxy, end string) (ours, bare load.Result) {
	t.Helper()
	b := start(t, h)
	var all []*dockertest.Container
	var names []string
	for i := range size(3, 9) {
		c := b.engine.Run(t, dockertest.Options{
			Name: fmt.Sprintf("p%d-%s-%s", i, end, strings.ReplaceAll(h.Version, ".", "")), Labels: b.labels(), Cmd: []string{"--on-term", end, "--linger", "5s"},
		})
		all, names = append(all, c), append(names, c.Name)
	}
	b.waitServers(names...)
	port := haproxytest.FreePort(t)
	h.Start(t, bareText(t, port, all), "1")
	stopOurs := e2e.Load(t, fmt.Sprintf("127.0.0.1:%d", b.port), posts())
	stopBare := e2e.Load(t, fmt.Sprintf("127.0.0.1:%d", port), posts())
	for i, c := range all[:len(all)-1] {
		c.Stop(t)
		b.waitServers(names[i+1:]...)
	}
	return stopOurs(), stopBare()
}

// bareText is what a careful hand writes.
func bareText(t *testing.T, port int, all []*dockertest.Container) string {
	t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, `defaults
  mode http
  retries 3
  option redispatch
  timeout connect 2s
  timeout client 1m
  timeout server 1m
frontend f
  bind 127.0.0.1:%d
  default_backend b
backend b
  balance roundrobin
`, port)
	for _, c := range all {
		fmt.Fprintf(&text, "  server %s %s:8080 check inter 500ms fall 2\n", c.Name, c.IP(t, ""))
	}
	return text.String()
}
