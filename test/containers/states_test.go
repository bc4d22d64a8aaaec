package containers

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/test/dockertest"
	"github.com/fnlb/fnlb/test/e2e"
)

// waitPort waits until exactly these servers of a port serve, each as NAME or NAME@ADDRESS, and that is applied.
func (b *bench) waitPort(port int, servers ...string) {
	b.T.Helper()
	service := fmt.Sprintf("port__%d_backends", port)
	slices.Sort(servers)
	b.Eventually(func() string {
		var up []string
		for _, s := range b.Status().Servers {
			if s.Service != service || s.Health != model.Up {
				continue
			}
			name := s.Name
			if slices.Contains(servers, name+"@"+s.Address) {
				name += "@" + s.Address
			}
			up = append(up, name)
		}
		slices.Sort(up)
		if !slices.Equal(up, servers) {
			return fmt.Sprintf("up behind port %d are %v, wanted %v; %+v", port, up, servers, b.Status().Servers)
		}
		return ""
	})
	b.WaitApplied()
}

// waitAnswer waits until the port answers so.
func (b *bench) waitAnswer(port, status int) {
	b.T.Helper()
	b.Eventually(func() string {
		body, got, err := get("127.0.0.1", port, "/")
		if err != nil || got != status {
			return fmt.Sprintf("port %d: status %d, not %d: %q %v", port, got, status, body, err)
		}
		return ""
	})
}

// found is what the source made of the container.
func (b *bench) found(name string) (f model.Found) {
	b.T.Helper()
	for _, f := range b.Status().Found {
		if f.Owner.Name == name {
			return f
		}
	}
	return f
}

// waitFound waits for a verdict, with these words in its reason.
func (b *bench) waitFound(name string, verdict model.Verdict, words string) {
	b.T.Helper()
	b.Eventually(func() string {
		if f := b.found(name); f.Owner.Name != name || f.Verdict != verdict || !strings.Contains(f.Reason, words) {
			return fmt.Sprintf("%s: %+v; wanted %s, %q", name, f, verdict, words)
		}
		return ""
	})
}

// put asks a container itself.
func put(t *testing.T, c *dockertest.Container, path string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, fmt.Sprintf("http://%s%s", netip.AddrPortFrom(c.IP(t, ""), 8080), path), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

// TestStates is rows 22 and 23: each way in which a container can be there, is one server or none by the rule. The port of a service
// whose containers are all gone answers 503, and no request of the service beside it fails all the while.
func TestStates(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := prepare(t, 8)
		b.Run(h)
		v := strings.ReplaceAll(h.Version, ".", "")
		e, api := b.engine, b.engine.Client
		run := func(name string, port int, o dockertest.Options, more ...string) *dockertest.Container {
			t.Helper()
			o.Name, o.Labels = "s-"+name+"-"+v, b.labels(append(more, "lb.publish", fmt.Sprint(port))...)
			return e.Run(t, o)
		}
		beside := run("beside", b.ports[0], dockertest.Options{})
		b.waitPort(b.ports[0], beside.Name)
		stop := e2e.Load(t, fmt.Sprintf("127.0.0.1:%d", b.ports[0]), apart(3))

		// Made, started, stopped, started again.
		port := b.ports[1]
		made := e.Create(t, dockertest.Options{Name: "s-made-" + v, Labels: b.labels("lb.publish", fmt.Sprint(port))})
		b.waitFound(made.Name, model.Waiting, "it is created")
		made.Start(t)
		b.waitPort(port, made.Name)
		b.waitAnswer(port, http.StatusOK)
		made.Stop(t)
		b.waitPort(port)
		b.waitAnswer(port, http.StatusServiceUnavailable)
		b.waitFound(made.Name, model.Waiting, "it is exited")
		reloads := b.reloads()
		made.Start(t)
		b.waitPort(port, made.Name)
		b.waitAnswer(port, http.StatusOK)

		// Paused, renamed, and out of its network and back.
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		_, err := api.ContainerPause(t.Context(), made.ID, client.ContainerPauseOptions{})
		check(err)
		b.waitAnswer(port, http.StatusServiceUnavailable)
		_, err = api.ContainerUnpause(t.Context(), made.ID, client.ContainerUnpauseOptions{})
		check(err)
		b.waitAnswer(port, http.StatusOK)
		_, err = api.ContainerRename(t.Context(), made.ID, client.ContainerRenameOptions{NewName: "s-renamed-" + v})
		check(err)
		b.waitPort(port, "s-renamed-"+v)
		b.waitAnswer(port, http.StatusOK)
		_, err = api.NetworkDisconnect(t.Context(), "bridge", client.NetworkDisconnectOptions{Container: made.ID})
		check(err)
		b.waitAnswer(port, http.StatusServiceUnavailable)
		b.waitFound("s-renamed-"+v, model.LeftOut, "it is in no network")
		_, err = api.NetworkConnect(t.Context(), "bridge", client.NetworkConnectOptions{Container: made.ID})
		check(err)
		b.waitPort(port, "s-renamed-"+v)
		b.waitAnswer(port, http.StatusOK)
		if now := b.reloads(); now != reloads {
			t.Errorf("%d reloads, though the port was there", now-reloads)
		}

		// Healthy, unhealthy, healthy.
		port = b.ports[2]
		sick := run("sick", port, dockertest.Options{More: func(o *client.ContainerCreateOptions) {
			o.Config.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "/server", "healthcheck"}, Interval: 300 * time.Millisecond, Retries: 1}
		}})
		b.waitPort(port, sick.Name)
		put(t, sick, "/unhealthy")
		b.waitFound(sick.Name, model.Waiting, "HEALTHCHECK fails")
		b.waitAnswer(port, http.StatusServiceUnavailable)
		put(t, sick, "/healthy")
		b.waitPort(port, sick.Name)
		b.waitAnswer(port, http.StatusOK)

		// The host's network; another's network, which ends with that one.
		port = b.ports[3]
		host := run("host", port, dockertest.Options{Network: "host", Cmd: []string{"--port", fmt.Sprint(b.ports[7])}}, "lb.target", fmt.Sprint(b.ports[7]))
		b.waitPort(port, fmt.Sprintf("%s@127.0.0.1:%d", host.Name, b.ports[7]))
		b.waitAnswer(port, http.StatusOK)
		port = b.ports[4]
		pod := e.Run(t, dockertest.Options{Name: "s-pod-" + v})
		shares := run("shares", port, dockertest.Options{Network: "container:" + pod.ID, Cmd: []string{"--port", "8081"}}, "lb.target", "8081")
		b.waitPort(port, fmt.Sprintf("%s@%s:8081", shares.Name, pod.IP(t, "")))
		pod.Stop(t)
		b.waitFound(shares.Name, model.Waiting, "does not run")
		b.waitAnswer(port, http.StatusServiceUnavailable)

		// Several networks.
		port = b.ports[5]
		for _, n := range []string{"sa", "sb"} {
			e.Network(t, n+v, client.NetworkCreateOptions{})
		}
		several := run("several", port, dockertest.Options{Network: "sb" + v})
		b.waitPort(port, fmt.Sprintf("%s@%s:8080", several.Name, several.IP(t, "sb"+v)))
		_, err = api.NetworkConnect(t.Context(), "sa"+v, client.NetworkConnectOptions{Container: several.ID})
		check(err)
		b.waitPort(port, fmt.Sprintf("%s@%s:8080", several.Name, several.IP(t, "sa"+v)))
		if f := b.found(several.Name); !strings.Contains(strings.Join(f.Notes, " "), "lb.network") {
			t.Errorf("nothing is said of two networks: %+v", f)
		}
		several.Stop(t)
		b.waitAnswer(port, http.StatusServiceUnavailable)
		named := run("named", port, dockertest.Options{Network: "sa" + v}, "lb.network", "sb"+v)
		b.waitFound(named.Name, model.LeftOut, "lb.network=sb"+v)
		_, err = api.NetworkConnect(t.Context(), "sb"+v, client.NetworkConnectOptions{Container: named.ID})
		check(err)
		b.waitPort(port, fmt.Sprintf("%s@%s:8080", named.Name, named.IP(t, "sb"+v)))
		if f := b.found(named.Name); len(f.Notes) > 0 {
			t.Errorf("the network was named, and notes are %q", f.Notes)
		}
		none(t, stop())
	})
}

// TestNotListening: a container that runs and does not listen yet gets no request, and costs those beside it none.
func TestNotListening(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := start(t, h)
		v := strings.ReplaceAll(h.Version, ".", "")
		first := b.engine.Run(t, dockertest.Options{Name: "n-first-" + v, Labels: b.labels()})
		b.waitPort(b.port, first.Name)
		stop := e2e.Load(t, fmt.Sprintf("127.0.0.1:%d", b.port), apart(6))
		late := b.engine.Run(t, dockertest.Options{Name: "n-late-" + v, Labels: b.labels(), Cmd: []string{"--listen-after", "2s"}})
		b.waitFound(late.Name, model.Offered, "")
		b.waitPort(b.port, first.Name, late.Name)
		none(t, stop())
	})
}

// TestMany is rows 2 and 20: many containers at once, some of them hostile, beside one that starts again and again. Each good one serves,
// each bad one is named, and the service beside them loses nothing.
func TestMany(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := prepare(t, 2)
		b.Run(h)
		v := strings.ReplaceAll(h.Version, ".", "")
		beside := b.engine.Run(t, dockertest.Options{Name: "m-beside-" + v, Labels: b.labels("lb.publish", fmt.Sprint(b.ports[1]))})
		b.waitPort(b.ports[1], beside.Name)
		stop := e2e.Load(t, fmt.Sprintf("127.0.0.1:%d", b.ports[1]), apart(3))
		b.engine.Run(t, dockertest.Options{Name: "m-loops-" + v, Labels: b.labels("lb.publish", fmt.Sprint(b.ports[1])), Cmd: []string{"--no-such-flag"},
			More: func(o *client.ContainerCreateOptions) {
				o.HostConfig.RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyAlways}
			}})
		var list []*dockertest.Container
		var good, bad []string
		for i := range size(10, 60) {
			c := b.engine.Create(t, dockertest.Options{Name: fmt.Sprintf("m%d-%s", i, v), Labels: b.labels()})
			list, good = append(list, c), append(good, c.Name)
		}
		for i, labels := range []map[string]string{
			b.labels("lb.target", "80\nglobal\n  lua-load /x.lua"), b.labels("lb.check", "/a\r\nHost: x"), b.labels("lb.dst_addr", "127.0.0.1 ssl #"),
			b.labels("lb.ssl", "/certs/../etc/shadow"), b.labels("lb.weight", strings.Repeat("9", 60000)), b.labels("lb.network", "$HOME"),
		} {
			c := b.engine.Create(t, dockertest.Options{Name: fmt.Sprintf("m-bad%d-%s", i, v), Labels: labels})
			list, bad = append(list, c), append(bad, c.Name)
		}
		before := b.applies()
		ctx, cancel := context.WithTimeout(t.Context(), e2e.Patience*4)
		defer cancel()
		started := make(chan error, len(list))
		for _, c := range list {
			go func() {
				_, err := b.engine.Client.ContainerStart(ctx, c.ID, client.ContainerStartOptions{})
				started <- err
			}()
		}
		for range list {
			if err := <-started; err != nil {
				t.Fatal(err)
			}
		}
		b.waitPort(b.port, good...)
		for _, name := range bad {
			b.waitFound(name, model.LeftOut, "")
			if f := b.found(name); f.Verdict != model.LeftOut || f.Reason == "" || f.Mend == "" || len(f.Reason) > 400 || strings.ContainsAny(f.Reason, "\n\r") {
				t.Errorf("%s: %+v", name, f)
			}
		}
		after := b.applies()
		t.Logf("%d containers, %d applies, of these %d reloads", len(good), after.all-before.all, after.reloads-before.reloads)
		if n := after.reloads - before.reloads; n > 1 { // the port
			t.Errorf("%d reloads", n)
		}
		if n := after.all - before.all; n > len(good)+2 {
			t.Errorf("%d applies for %d containers", n, len(good))
		}
		none(t, stop())
	})
}

// applied counts what /1/lb/changes tells.
type applied struct{ all, reloads int }

func (b *bench) applies() (n applied) {
	b.T.Helper()
	var got struct{ Changes []model.Apply }
	if err := b.Get("/1/lb/changes", &got); err != nil {
		b.T.Fatal(err)
	}
	for _, c := range got.Changes {
		n.all++
		if c.Method == model.Reload {
			n.reloads++
		}
	}
	return n
}
