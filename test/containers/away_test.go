package containers

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/dockertest"
	"github.com/fnlb/fnlb/test/e2e"
)

// waitSource waits until the source of containers is up, or is not.
func (b *bench) waitSource(up bool) {
	b.T.Helper()
	b.Eventually(func() string {
		for _, s := range b.Status().Sources {
			if s.Name == "docker" && s.Up == up && (up || s.Reason != "") {
				return ""
			}
		}
		return fmt.Sprintf("sources are %+v", b.Status().Sources)
	})
}

// TestEngineAway is row 19: an engine that is killed, stopped, or stalled, and comes back with another socket. Containers that live on
// serve on, without a lost request; what the engine says after it counts at once. It runs alone, because it stops the engine of all.
func TestEngineAway(t *testing.T) {
	e := dockertest.Shared(t)
	e.LiveRestore(t, true)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		b := prepare(t, 1)
		b.Env = append(b.Env, "CHECK_TIME=1")
		b.Run(h)
		v := strings.ReplaceAll(h.Version, ".", "")
		run := func(name string) *dockertest.Container {
			return e.Run(t, dockertest.Options{Name: "a-" + name + "-" + v, Labels: b.labels()})
		}
		one, two := run("one"), run("two")
		b.waitPort(b.port, one.Name, two.Name)
		applies := b.applies()
		stop := e2e.Load(t, fmt.Sprintf("127.0.0.1:%d", b.port), apart(6))
		for _, way := range []struct {
			name       string
			away, back func()
		}{
			{"killed", func() { e.Kill(t) }, func() { e.Start(t) }},
			{"stopped", func() { e.Stop(t) }, func() { e.Start(t) }},
			{"stalled", func() { e.Signal(t, syscall.SIGSTOP) }, func() { e.Signal(t, syscall.SIGCONT) }},
		} {
			way.away()
			b.waitSource(false)
			b.waitPort(b.port, one.Name, two.Name)
			way.back()
			from := time.Now()
			b.waitSource(true)
			t.Logf("%s: up again %s after the engine answers", way.name, time.Since(from).Round(time.Millisecond))
			b.waitPort(b.port, one.Name, two.Name)
		}
		if now := b.applies(); now != applies {
			t.Errorf("applies were %+v, now %+v, though nothing has changed", applies, now)
		}
		three := run("three")
		b.waitPort(b.port, one.Name, two.Name, three.Name)
		one.Stop(t)
		b.waitPort(b.port, two.Name, three.Name)
		none(t, stop())
	})
	e.LiveRestore(t, false)
}

// TestEngineTakesContainersAlong: without live-restore an engine that stops ends its containers, and starts some of them again.
func TestEngineTakesContainersAlong(t *testing.T) {
	e := dockertest.Shared(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		b := start(t, h)
		v := strings.ReplaceAll(h.Version, ".", "")
		comes := e.Run(t, dockertest.Options{Name: "t-comes-" + v, Labels: b.labels(), More: func(o *client.ContainerCreateOptions) {
			o.HostConfig.RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyAlways}
		}})
		stays := e.Run(t, dockertest.Options{Name: "t-stays-" + v, Labels: b.labels()})
		b.waitPort(b.port, comes.Name, stays.Name)
		reloads := b.reloads()
		e.Stop(t)
		b.waitSource(false)
		b.waitAnswer(b.port, 503)
		e.Start(t)
		b.waitSource(true)
		b.waitPort(b.port, comes.Name)
		b.waitAnswer(b.port, 200)
		if now := b.reloads(); now != reloads {
			t.Errorf("%d reloads, though the port was there", now-reloads)
		}
	})
}
