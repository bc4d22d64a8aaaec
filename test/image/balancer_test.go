package image

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/dockertest"
)

// The user of the image, and what it may keep.
const (
	user     = 99
	lowPorts = uint64(1) << unix.CAP_NET_BIND_SERVICE
	groups   = uint64(1) << unix.CAP_SETGID
)

// who is what a process must be.
type who struct {
	uid        int
	groups     []int  // supplementary ones; -1 is the socket's
	effective  uint64 // capabilities that it must have
	forbidden  uint64 // and must not
	noNewPrivs bool
}

const all = ^uint64(0)

// mode is one way to start the image.
type mode struct {
	name               string
	more               func(*client.ContainerCreateOptions)
	env                []string
	fnlb, master, work who
	low                bool // ports below 1024 can be had with the host's network as well
	warns              string
}

func (m *mode) limit(o *client.ContainerCreateOptions) {
	if m.more != nil {
		m.more(o)
	}
}

// modes: user 99 everywhere but where root is asked for, or cannot be given up.
func modes(socketGroup int) []mode {
	dropped := who{uid: user, groups: []int{user, socketGroup}, effective: lowPorts | groups, forbidden: ^(lowPorts | groups), noNewPrivs: true}
	child := who{uid: user, effective: lowPorts, forbidden: ^lowPorts, noNewPrivs: true}
	plain := who{uid: user, groups: []int{user, socketGroup}, forbidden: all}
	root := who{uid: 0, effective: lowPorts}
	worker := who{uid: user, forbidden: all}
	powerless := who{uid: 0, groups: []int{user}, forbidden: all}
	bound := who{uid: 0, groups: []int{user}, effective: lowPorts, forbidden: ^lowPorts}
	asUser := func(o *client.ContainerCreateOptions) {
		o.Config.User = strconv.Itoa(user)
		o.HostConfig.GroupAdd = []string{strconv.Itoa(socketGroup)}
	}
	readOnly := func(o *client.ContainerCreateOptions) {
		o.HostConfig.ReadonlyRootfs = true
		o.HostConfig.Tmpfs = map[string]string{"/tmp": ""}
	}
	noNew := func(o *client.ContainerCreateOptions) { o.HostConfig.SecurityOpt = []string{"no-new-privileges"} }
	dropAll := func(o *client.ContainerCreateOptions) { o.HostConfig.CapDrop = []string{"ALL"} }
	both := func(fs ...func(*client.ContainerCreateOptions)) func(*client.ContainerCreateOptions) {
		return func(o *client.ContainerCreateOptions) {
			for _, f := range fs {
				f(o)
			}
		}
	}
	locked := plain
	locked.noNewPrivs = true
	return []mode{
		{name: "as it is", fnlb: dropped, master: child, work: child, low: true},
		{name: "read-only", more: readOnly, fnlb: dropped, master: child, work: child, low: true},
		{name: "no-new-privileges", more: noNew, fnlb: dropped, master: child, work: child, low: true},
		{name: "user 99", more: asUser, fnlb: plain, master: plain, work: plain, warns: "HAProxy can reach the Docker Engine"},
		{name: "user 99 and all locks", more: both(asUser, readOnly, noNew, dropAll), fnlb: locked, master: locked, work: locked, warns: "HAProxy can reach the Docker Engine"},
		{name: "no capabilities", more: dropAll, fnlb: powerless, master: powerless, work: powerless, warns: "the capability SETUID is missing"},
		{name: "one capability", more: both(dropAll, func(o *client.ContainerCreateOptions) { o.HostConfig.CapAdd = []string{"NET_BIND_SERVICE"} }),
			fnlb: bound, master: bound, work: bound, low: true, warns: "the capability SETUID is missing"},
		{name: "four capabilities", more: both(dropAll, func(o *client.ContainerCreateOptions) {
			o.HostConfig.CapAdd = []string{"SETUID", "SETGID", "KILL", "NET_BIND_SERVICE"}
		}),
			fnlb: dropped, master: child, work: child, low: true},
		{name: "user root", more: func(o *client.ContainerCreateOptions) { o.Config.User = "root" }, fnlb: root, master: root, work: worker, low: true},
		{name: "stay root", env: []string{"FNLB_DROP_TO="}, fnlb: who{uid: 0, groups: []int{user}, effective: lowPorts},
			master: who{uid: 0, groups: []int{user}, effective: lowPorts}, work: worker, low: true},
	}
}

// balancer is a running image in front of one server.
type balancer struct {
	*dockertest.Container
	traffic, mgmt string // HOST:PORT, as we reach them
	server        *dockertest.Container
	direct        string // the server itself
}

// start runs the image on a bridge with published ports, or with the host's network. Its traffic port is below 1024 either way.
func start(t *testing.T, host bool, m mode, env ...string) *balancer {
	t.Helper()
	b, created := prepare(t, host, m, env...)
	created.Start(t)
	return b
}

func prepare(t *testing.T, host bool, m mode, env ...string) (*balancer, *dockertest.Container) {
	t.Helper()
	e := dockertest.Shared(t)
	b := &balancer{server: e.Run(t, dockertest.Options{Cmd: []string{"--name", "server"}})}
	b.direct = net.JoinHostPort(b.server.IP(t, "").String(), "8080")
	ports := haproxytest.FreePorts(t, 2)
	listen, mgmt, network := ":80", ":8081", "bridge"
	o := dockertest.Options{Image: e.Image(t, dockertest.FnlbImage), More: m.limit}
	if host {
		ports[0] = lowPort(t)
		listen, mgmt, network = fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.1:%d", ports[1]), "host"
	} else {
		o.Publish = map[uint16]uint16{80: uint16(ports[0]), 8081: uint16(ports[1])}
	}
	b.traffic, b.mgmt = fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.1:%d", ports[1])
	o.Network = network
	o.Cmd = []string{"--nodes", b.direct, "--hc-path", "/healthz", "--min-api-version=", "--listen", listen, "--mgmt-listen", mgmt}
	o.Env = append(append([]string{}, m.env...), env...)
	o.More = func(c *client.ContainerCreateOptions) {
		c.HostConfig.Binds = append(c.HostConfig.Binds, e.Socket+":/var/run/docker.sock:ro")
		c.Config.Healthcheck = &container.HealthConfig{Interval: time.Second} // the rest is the image's
		m.limit(c)
	}
	b.Container = e.Create(t, o)
	return b, b.Container
}

var (
	lowPortsGiven sync.Mutex
	nextLow       = 600
)

// lowPort is a port below 1024 that no other test gets; there is nobody else in this network namespace.
func lowPort(t *testing.T) int {
	t.Helper()
	lowPortsGiven.Lock()
	defer lowPortsGiven.Unlock()
	nextLow++
	return nextLow
}

// get makes one request.
func get(t *testing.T, address, path string) (status int, body string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

// serves waits until the balancer answers with the server's name.
func (b *balancer) serves(t *testing.T) {
	t.Helper()
	b.Engine.Eventually(t, func() (string, error) {
		status, body, err := get(t, b.traffic, "/")
		if err == nil && (status != 200 || body != "server") {
			return fmt.Sprintf("%d %q\n%s", status, body, b.Log(t)), nil
		}
		return "", err
	})
}

// saysLog waits until the log has a text.
func (b *balancer) saysLog(t *testing.T, text string) {
	t.Helper()
	b.Engine.Eventually(t, func() (string, error) {
		if log := b.Log(t); !strings.Contains(log, text) {
			return fmt.Sprintf("the log lacks %q:\n%s", text, log), nil
		}
		return "", nil
	})
}

type answer struct {
	status int
	body   string
	err    error
}

// slow starts a request that the server answers after d, and returns when it runs there.
func (b *balancer) slow(t *testing.T, d string) <-chan answer {
	t.Helper()
	out := make(chan answer, 1)
	go func() {
		var a answer
		a.status, a.body, a.err = get(t, b.traffic, "/slow?d="+d)
		out <- a
	}()
	b.Engine.Eventually(t, func() (string, error) {
		if _, body, err := get(t, b.direct, "/running"); err != nil || body != "1" {
			return "running requests: " + body, err
		}
		return "", nil
	})
	return out
}

func (b *balancer) ready(t *testing.T) int {
	t.Helper()
	status, _, err := get(t, b.mgmt, "/readyz")
	if err != nil {
		return 0
	}
	return status
}

func socketGroup(t *testing.T) int {
	t.Helper()
	info, err := os.Stat(dockertest.Shared(t).Socket)
	if err != nil {
		t.Fatal(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Gid == 0 {
		t.Fatal("the engine's socket has no group of its own, by which it could be told who may use it")
	}
	return int(st.Gid)
}

// is compares a process with what it must be.
func is(t *testing.T, what string, p dockertest.Process, w who) {
	t.Helper()
	if p.UID != w.uid {
		t.Errorf("%s is user %d, not %d", what, p.UID, w.uid)
	}
	slices.Sort(p.Groups)
	want := slices.Compact(slices.Sorted(slices.Values(w.groups)))
	if w.uid != 0 && !slices.Equal(p.Groups, want) { // root reads every socket anyway
		t.Errorf("%s has the groups %v, not %v", what, p.Groups, want)
	}
	held := p.Permitted | p.Effective | p.Ambient
	if p.Effective&w.effective != w.effective || held&w.forbidden != 0 {
		t.Errorf("%s has the capabilities %#x, permitted %#x, ambient %#x; needed %#x, forbidden %#x", what, p.Effective, p.Permitted, p.Ambient, w.effective, w.forbidden)
	}
	if w.noNewPrivs && !p.NoNewPrivs {
		t.Errorf("%s may get new privileges", what)
	}
}

// runsAs looks at all processes of the container.
func runsAs(t *testing.T, b *balancer, m mode) {
	t.Helper()
	var fnlb, master int
	var workers []dockertest.Process
	for _, p := range b.Processes(t) {
		switch {
		case p.Name == "tini":
		case p.Name == "fnlb" && !slices.Contains(p.Command, "healthcheck"):
			fnlb = p.PID
			is(t, "fnlb", p, m.fnlb)
		case p.Name == "haproxy" && p.Parent == fnlb:
			master = p.PID
			is(t, "HAProxy's master", p, m.master)
		case p.Name == "haproxy" && p.Parent == master:
			workers = append(workers, p)
		case slices.Contains(p.Command, "healthcheck") || p.State == "Z": // the engine's own, which may run just now
		default:
			t.Errorf("process %+v", p)
		}
	}
	if fnlb == 0 || master == 0 || len(workers) == 0 {
		t.Errorf("fnlb %d, master %d, workers %v", fnlb, master, workers)
	}
	for _, w := range workers {
		is(t, "HAProxy's worker", w, m.work)
	}
	if m.fnlb.uid == user && m.work.groups == nil { // HAProxy, which is the same user, must not look into who has the group
		for _, p := range []string{"fd", "environ", "mem"} {
			if out, code := b.Exec(t, "99:99", "sh", "-c", "cd /proc/$(cat /proc/1/task/1/children) && ls "+p+" && cat "+p); code == 0 || !strings.Contains(out, "denied") {
				t.Errorf("/proc/…/%s: %d %s", p, code, out)
			}
		}
	}
}
