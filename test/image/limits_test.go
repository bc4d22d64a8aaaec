package image

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/dockertest"
	"github.com/fnlb/fnlb/test/e2e"
)

var saidMaxConn = regexp.MustCompile(`msg="haproxy started".* maxconn=(\d+)`)

// TestLimits is fault row 16 in the image: what docker run limits sizes HAProxy, and too little is refused with what to raise.
func TestLimits(t *testing.T) {
	t.Parallel()
	files := func(n int64) func(*client.ContainerCreateOptions) {
		return func(o *client.ContainerCreateOptions) {
			o.HostConfig.Ulimits = []*container.Ulimit{{Name: "nofile", Soft: n, Hard: n}}
			o.HostConfig.CpusetCpus = "0" // each thread of HAProxy needs some
		}
	}
	memory := func(mib int64) func(*client.ContainerCreateOptions) {
		return func(o *client.ContainerCreateOptions) { o.HostConfig.Memory = mib << 20 }
	}
	for _, test := range []struct {
		name        string
		limit       func(*client.ContainerCreateOptions)
		least, most int    // maxconn
		refused     string // empty: it serves
		warns       string // then it may not be reloaded; empty: it is
	}{
		{name: "nofile=200", limit: files(200), refused: "docker run --ulimit nofile="},
		{name: "nofile=256", limit: files(256), least: 1, most: 128, warns: "HAProxy may refuse reloads"},
		{name: "memory=24m", limit: memory(24), refused: "docker run --memory"},
		{name: "memory=64m", limit: memory(64), least: 700, most: 1000},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := start(t, false, mode{more: test.limit})
			if test.refused != "" {
				if code := b.Wait(t); code != 1 || !strings.Contains(b.Log(t), test.refused) {
					t.Errorf("exit code %d:\n%s", code, b.Log(t))
				}
				return
			}
			b.serves(t)
			m := saidMaxConn.FindStringSubmatch(b.Log(t))
			if m == nil {
				t.Fatalf("log:\n%s", b.Log(t))
			}
			if n, err := strconv.Atoi(m[1]); err != nil || n < test.least || n > test.most {
				t.Errorf("maxconn %s is not from %d to %d", m[1], test.least, test.most)
			}
			if test.warns != "" {
				b.saysLog(t, test.warns)
			} else {
				b.reloads(t) // with two workers and a haproxy -c at a time
			}
			b.WaitHealthy(t, true)
			if b.Inspect(t).State.OOMKilled {
				t.Error("the kernel killed for want of memory")
			}
			b.stopsGracefully(t)
		})
	}
}

// reloads makes a reload necessary, by a template.
func (b *balancer) reloads(t *testing.T) {
	t.Helper()
	flags := strings.Join(b.Inspect(t).Config.Cmd, " ")
	if out, code := b.Exec(t, "0:0", "sh", "-c", "fnlb render "+flags+" >/tmp/text && echo '# other' >>/tmp/text && mv /tmp/text /haproxy.tmpl"); code != 0 {
		t.Fatalf("%d %s", code, out)
	}
	b.saysLog(t, "msg=reloaded")
	b.serves(t)
}

// TestOutOfMemory: the kernel kills HAProxy for want of memory. It is started again in the same container, and told.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	b := start(t, false, modes(socketGroup(t))[0])
	b.serves(t)
	g := e2e.NewMemoryGroup(t, 1)
	var master int
	before := map[int]bool{}
	for _, p := range b.Processes(t) {
		if p.Name == "haproxy" && (master == 0 || p.PID == master) {
			master = p.PID
		}
		before[p.PID] = true
	}
	for _, p := range b.Processes(t) {
		if p.Name == "haproxy" && p.Parent == master {
			g.Add(p.PID)
		}
	}
	address := net.JoinHostPort(b.IP(t, "").String(), "80")
	done := make(chan struct{})
	go func() { // until it has had enough
		defer close(done)
		e2e.Crowd(address, 2000)()
	}()
	b.saysLog(t, "out of memory?")
	<-done
	b.serves(t)
	if g.Kills() == 0 {
		t.Error("it was not the kernel")
	}
	if state := b.Inspect(t).State; !before[state.Pid] {
		t.Errorf("it is another container: %+v", state)
	}
	if out, code := b.Exec(t, "", "fnlb", "healthcheck"); code != 0 {
		t.Errorf("fnlb healthcheck ends with %d: %s", code, out)
	}
}

// TestLowPortByLabel: user 99 without any capability may not have a port below 1024 on the host's network. A label that asks for one is a
// problem with the mend, and all others serve. It runs alone, because every balancer with the socket publishes what the labels say.
func TestLowPortByLabel(t *testing.T) {
	e := dockertest.Shared(t)
	ports, low := haproxytest.FreePorts(t, 2), lowPort(t)
	high, mgmt := ports[0], ports[1]
	labelled := func(name string, port int) *dockertest.Container {
		return e.Run(t, dockertest.Options{
			Name: name, Cmd: []string{"--name", name}, Labels: map[string]string{"lb.enable": "Y", "lb.publish": strconv.Itoa(port), "lb.target": "8080"},
		})
	}
	labelled("low", low)
	first := labelled("first", high)
	o := dockertest.Options{Image: e.Image(t, dockertest.FnlbImage), Network: "host", Cmd: []string{"--mgmt-listen", fmt.Sprintf("127.0.0.1:%d", mgmt)}}
	o.More = func(c *client.ContainerCreateOptions) {
		c.Config.User = strconv.Itoa(user)
		c.HostConfig.GroupAdd, c.HostConfig.CapDrop = []string{strconv.Itoa(socketGroup(t))}, []string{"ALL"}
		c.HostConfig.Binds = []string{e.Socket + ":/var/run/docker.sock"}
		c.Config.Healthcheck = &container.HealthConfig{}
	}
	b := &balancer{Container: e.Run(t, o), traffic: fmt.Sprintf("127.0.0.1:%d", high)}
	answers := func(want string) {
		t.Helper()
		e.Eventually(t, func() (string, error) {
			status, body, err := get(t, b.traffic, "/")
			if err == nil && (status != 200 || body != want) {
				return fmt.Sprintf("%d %q\n%s", status, body, b.Log(t)), nil
			}
			return "", err
		})
	}
	answers("first")
	e.Eventually(t, func() (string, error) {
		out, code := b.Exec(t, "99", "fnlb", "explain", "--container", "low")
		for _, want := range []string{fmt.Sprintf("listen on :%d", low), "below port 1024", "NET_BIND_SERVICE", "mend"} {
			if code != 0 || !strings.Contains(out, want) {
				return fmt.Sprintf("%d, %q is missing in\n%s", code, want, out), nil
			}
		}
		return "", nil
	})
	b.saysLog(t, "  left out\n") // in the table of the first screen
	labelled("second", high)
	b.saysLog(t, `msg="is healthy" node=second`)
	first.Stop(t)
	answers("second")
	if log := b.Log(t); strings.Contains(log, "level=ERROR") {
		t.Errorf("log:\n%s", log)
	}
}
