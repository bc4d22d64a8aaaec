package containers

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/test/dockertest"
	"github.com/fnlb/fnlb/test/e2e"
)

// TestRollingUpdate replaces every container one by one under load: a new one, and then the stop of an old one whose server closes at
// once on SIGTERM. No request fails, and nothing is reloaded.
func TestRollingUpdate(t *testing.T) {
	beside(t)
	containers := size(3, 8)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		beside(t)
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
		stop := e2e.Load(t, fmt.Sprintf("127.0.0.1:%d", b.port), apart(18))
		for generation := range size(2, 10) {
			for i, old := range now {
				now[i] = run(generation+1, i)
				names[i] = now[i].Name
				b.waitServers(append(names, old.Name)...)
				old.Stop(t)
			}
		}
		b.waitServers(names...)
		none(t, stop())
		if now := b.reloads(); now != reloads {
			t.Errorf("%d reloads", now-reloads)
		}
	})
}

func (b *bench) reloads() int {
	b.T.Helper()
	return b.Applies(model.Reload)
}
