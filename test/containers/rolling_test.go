package containers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/test/dockertest"
	"github.com/fnlb/fnlb/test/e2e"
	"github.com/fnlb/fnlb/test/load"
)

// TestRollingUpdate replaces every container one by one under load: a new one, and then the stop of an old one whose server closes at
// once on SIGTERM. No request fails, and nothing is reloaded.
func TestRollingUpdate(t *testing.T) {
	const containers = 3
	// A client stays with its container, so they come from addresses of their own.
	clients := []load.Group{
		{Name: "fresh", Workers: 6, Think: 5 * time.Millisecond, Apart: true},
		{Name: "keep-alive", KeepAlive: true, Workers: 12, Think: 3 * time.Millisecond, Apart: true},
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		b := start(t, h)
		run := func(generation, i int) *dockertest.Container {
			return b.engine.Run(t, dockertest.Options{
				Name: fmt.Sprintf("r%d-%d-%s", generation, i, strings.ReplaceAll(h.Version, ".", "")), Labels: b.labels(), Cmd: []string{"--on-term", "close"},
			})
		}
		var now []*dockertest.Container
		var names []string
		for i := range containers {
			now = append(now, run(0, i))
			names = append(names, now[i].Name)
		}
		b.waitServers(names...)
		reloads := b.reloads()
		stop := e2e.Load(t, fmt.Sprintf("127.0.0.1:%d", b.port), clients)
		for generation := range 2 {
			for i, old := range now {
				now[i] = run(generation+1, i)
				names[i] = now[i].Name
				b.waitServers(append(names, old.Name)...)
				old.Stop(t)
			}
		}
		b.waitServers(names...)
		result := stop()
		t.Log(result)
		if result.Failed > 0 || result.Requests == 0 {
			t.Errorf("%d of %d requests failed: %v", result.Failed, result.Requests, result)
		}
		if now := b.reloads(); now != reloads {
			t.Errorf("%d reloads", now-reloads)
		}
	})
}

func (b *bench) reloads() int {
	b.T.Helper()
	var got struct{ Changes []model.Apply }
	if err := b.Get("/1/lb/changes", &got); err != nil {
		b.T.Fatal(err)
	}
	n := 0
	for _, c := range got.Changes {
		if c.Method == model.Reload {
			n++
		}
	}
	return n
}
