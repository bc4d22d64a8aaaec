package containers

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/test/dockertest"
	"github.com/fnlb/fnlb/test/e2e"
	"github.com/fnlb/fnlb/test/load"
)

// full makes these tests as long as the figures of the README ask for (bench/run.sh); else they are as short as proves the same.
var full = os.Getenv("FNLB_E2E_FULL") != ""

func size(short, long int) int {
	if full {
		return long
	}
	return short
}

// beside lets tests run side by side, but not where their figures are wanted.
func beside(t *testing.T) {
	if !full {
		t.Parallel()
	}
}

// apart are clients with addresses of their own: a client stays with its container.
func apart(workers int) []load.Group {
	return []load.Group{
		{Name: "fresh", Workers: workers / 3, Think: 5 * time.Millisecond, Apart: true},
		{Name: "keep-alive", KeepAlive: true, Workers: workers - workers/3, Think: 3 * time.Millisecond, Apart: true},
	}
}

// none expects that no request has failed.
func none(t *testing.T, r load.Result) {
	t.Helper()
	t.Logf("figure: %s: %d of %d requests failed; p99 %s", t.Name(), r.Failed, r.Requests, r.Latency(.99).Round(time.Millisecond))
	if r.Failed > 0 || r.Requests == 0 {
		t.Errorf("%d of %d requests failed", r.Failed, r.Requests)
	}
}

// TestStartLatency measures from a container's start to its first request by the balancer, beside the first that it answers at all.
func TestStartLatency(t *testing.T) {
	beside(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		beside(t)
		b := start(t, h)
		var own, served []time.Duration
		for i := range size(3, 50) {
			c := b.engine.Create(t, dockertest.Options{Name: fmt.Sprintf("l%d-%s", i, strings.ReplaceAll(h.Version, ".", "")), Labels: b.labels()})
			c.Start(t)
			from := time.Now()
			at := netip.AddrPortFrom(c.IP(t, ""), 8080)
			answered := make(chan time.Duration, 1)
			go func() { answered <- firstAnswer(t, at.String(), from) }()
			served = append(served, firstAnswer(t, fmt.Sprintf("127.0.0.1:%d", b.port), from))
			own = append(own, <-answered)
			c.Stop(t)
			b.waitServers()
		}
		t.Logf("figure: first answer of the container itself: %s; through the balancer: %s", spread(own), spread(served))
		if n := b.reloads(); n > 1 { // that of the port
			t.Errorf("%d reloads for one port", n)
		}
	})
}

// firstAnswer asks until the answer is 200.
func firstAnswer(t *testing.T, addr string, from time.Time) time.Duration {
	host, port, _ := strings.Cut(addr, ":")
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Error(err)
	}
	for deadline := from.Add(e2e.Patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, status, err := getAt("", host, n, "/"); err == nil && status == 200 {
			return time.Since(from)
		}
	}
	t.Errorf("%s does not answer", addr)
	return 0
}

func spread(d []time.Duration) string {
	slices.Sort(d)
	at := func(q float64) time.Duration { return d[int(q*float64(len(d)-1))].Round(100 * time.Microsecond) }
	return fmt.Sprintf("median %s, p99 %s of %d", at(.5), at(.99), len(d))
}

// TestSwarmUpdate replaces all tasks of a Swarm service under load, as docker service update does by default: stop one, start one.
func TestSwarmUpdate(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		b := start(t, h)
		b.engine.Swarm(t)
		replicas := uint64(size(3, 8)) //nolint:gosec // it is small
		spec := swarm.ServiceSpec{
			Annotations: swarm.Annotations{Name: "web"},
			Mode:        swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}},
			TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{
				Image: b.engine.Image(t, dockertest.ServerImage), Labels: b.labels(), Args: []string{"--on-term", "close"},
			}},
			UpdateConfig: &swarm.UpdateConfig{Parallelism: 1, Monitor: 100 * time.Millisecond},
		}
		made, err := b.engine.Client.ServiceCreate(t.Context(), client.ServiceCreateOptions{Spec: spec})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if _, err := b.engine.Client.ServiceRemove(context.Background(), made.ID, client.ServiceRemoveOptions{}); err != nil {
				t.Error(err)
			}
		})
		b.waitTasks(int(replicas), nil) //nolint:gosec // it is small
		reloads := b.reloads()
		stop := e2e.Load(t, fmt.Sprintf("127.0.0.1:%d", b.port), apart(18))
		for i := range size(1, 10) {
			before := b.tasks()
			spec.TaskTemplate.ForceUpdate = uint64(i + 1) //nolint:gosec // it is small
			b.update(made.ID, spec)
			b.waitTasks(int(replicas), before) //nolint:gosec // it is small
		}
		none(t, stop())
		if n := b.reloads(); n != reloads {
			t.Errorf("%d reloads", n-reloads)
		}
	})
}

// update changes a Swarm service. The engine notes how an update goes in the service itself, so that its version may be another one as
// soon as it was read.
func (b *bench) update(id string, spec swarm.ServiceSpec) {
	b.T.Helper()
	b.Eventually(func() string {
		got, err := b.engine.Client.ServiceInspect(b.T.Context(), id, client.ServiceInspectOptions{})
		if err != nil {
			return err.Error()
		}
		_, err = b.engine.Client.ServiceUpdate(b.T.Context(), id, client.ServiceUpdateOptions{Version: got.Service.Version, Spec: spec})
		switch {
		case err == nil:
			return ""
		case !strings.Contains(err.Error(), "update out of sequence"):
			b.T.Fatal(err)
		}
		return err.Error()
	})
}

// tasks are the servers that are up.
func (b *bench) tasks() map[string]bool {
	up := map[string]bool{}
	for _, s := range b.Status().Servers {
		if s.Health.String() == "up" {
			up[s.Name] = true
		}
	}
	return up
}

// waitTasks waits until so many servers are up, none of which was before.
func (b *bench) waitTasks(n int, before map[string]bool) {
	b.T.Helper()
	for deadline := time.Now().Add(10 * e2e.Patience); ; time.Sleep(50 * time.Millisecond) {
		now := b.tasks()
		fresh := 0
		for name := range now {
			if !before[name] {
				fresh++
			}
		}
		if fresh == n && len(now) == n {
			return
		}
		if time.Now().After(deadline) {
			b.T.Fatalf("servers %v, before %v, want %d new ones", now, before, n)
		}
	}
}

// TestCrashLoop restarts one container again and again: no other service notices, and once its port is there nothing is reloaded.
func TestCrashLoop(t *testing.T) {
	beside(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		beside(t)
		b := prepare(t, 2)
		b.Run(h)
		v := strings.ReplaceAll(h.Version, ".", "")
		other := b.ports[1]
		b.engine.Run(t, dockertest.Options{Name: "steady-" + v, Labels: b.labels("lb.publish", strconv.Itoa(other))})
		loop := b.engine.Run(t, dockertest.Options{Name: "loop-" + v, Labels: b.labels(), Cmd: []string{"--on-term", "close"}})
		b.waitServers(loop.Name)
		b.Eventually(func() string {
			if _, status, err := get("127.0.0.1", other, "/"); err != nil || status != 200 {
				return fmt.Sprint("the other service gives ", status, err)
			}
			return ""
		})
		reloads := b.reloads()
		stop := e2e.Load(t, fmt.Sprintf("127.0.0.1:%d", other), apart(9))
		for range size(5, 120) {
			loop.Signal(t, "KILL")
			loop.Wait(t)
			loop.Start(t)
			b.waitServers(loop.Name)
		}
		none(t, stop())
		if n := b.reloads(); n != reloads {
			t.Errorf("%d reloads", n-reloads)
		}
	})
}

// TestCrowd starts many containers behind one port and measures until all serve, how many applies that took, and what the balancer costs
// while nothing happens.
func TestCrowd(t *testing.T) {
	beside(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		beside(t)
		b := start(t, h)
		n := size(12, 300)
		names := make([]string, n)
		var starting errgroup.Group
		starting.SetLimit(8)
		for i := range names {
			names[i] = fmt.Sprintf("m%d-%s", i, strings.ReplaceAll(h.Version, ".", ""))
			starting.Go(func() error {
				b.engine.Run(t, dockertest.Options{Name: names[i], Labels: b.labels()})
				return nil
			})
		}
		if err := starting.Wait(); err != nil {
			t.Fatal(err)
		}
		last := time.Now()
		b.waitServers(names...)
		took := time.Since(last)
		applies := b.Applies(model.Runtime) + b.reloads()
		if r := b.reloads(); r > 1 { // that of the port
			t.Errorf("%d reloads for one port", r)
		}
		if applies > n+3 {
			t.Errorf("%d applies for %d containers", applies, n)
		}
		time.Sleep(time.Duration(size(0, 15)) * time.Second) // what has just happened is looked after for some seconds
		before := b.cpu()
		idle := time.Duration(size(1, 60)) * time.Second
		time.Sleep(idle) // that nothing happens is what is measured
		t.Logf("figure: %d containers: all serve %s after the last start, %d applies, %d reloads; then fnlb uses %.2f %% of a core",
			n, took.Round(time.Millisecond), applies, b.reloads(), 100*(b.cpu()-before).Seconds()/idle.Seconds())
	})
}

// cpu is the processor time that fnlb has used.
func (b *bench) cpu() time.Duration {
	b.T.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.Cmd.Process.Pid))
	if err != nil {
		b.T.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	var ticks int
	for _, f := range fields[11:13] { // utime and stime, proc(5)
		n, err := strconv.Atoi(f)
		if err != nil {
			b.T.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
