package dockertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// get waits until the address answers and returns the answer.
func get(t *testing.T, e *Engine, address, path string) (body string) {
	t.Helper()
	e.Eventually(t, func() (string, error) {
		// The kernel drops what comes before it has made sure that an IPv6 address is nobody else's, and TCP waits long before it asks again.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			return "", err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		body = string(data)
		if err == nil && resp.StatusCode != http.StatusOK {
			return resp.Status, nil
		}
		return "", err
	})
	return body
}

func TestContainer(t *testing.T) {
	e := Shared(t)
	c := e.Run(t, Options{Name: "one", Cmd: []string{"--name", "it"}, Labels: map[string]string{"lb.enable": "Y\nline"}, Publish: map[uint16]uint16{8080: 18080}})
	ip := c.IP(t, "")
	for _, address := range []string{net.JoinHostPort(ip.String(), "8080"), "127.0.0.1:18080"} {
		if got := get(t, e, address, "/"); got != "it" {
			t.Errorf("%s answers %q", address, got)
		}
	}
	if got := c.Inspect(t).Config.Labels["lb.enable"]; got != "Y\nline" {
		t.Errorf("label: %q", got)
	}
	p := c.Processes(t)
	if len(p) != 1 || p[0].Name != "server" || p[0].UID != 0 || p[0].Bounding == 0 {
		t.Errorf("processes: %+v", p)
	}
	c.Stop(t)
	if code := c.Wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestHealthAndHostNetwork(t *testing.T) {
	e := Shared(t)
	c := e.Run(t, Options{Network: "host", Cmd: []string{"--port", "18081"}, More: func(o *client.ContainerCreateOptions) {
		o.Config.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "/server", "healthcheck", "18081"}, Interval: 1e8, Retries: 1}
	}})
	c.WaitHealthy(t, true)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://127.0.0.1:18081/unhealthy", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	c.WaitHealthy(t, false)
}

func TestNetworks(t *testing.T) {
	e := Shared(t)
	yes := true
	e.Network(t, "six", client.NetworkCreateOptions{EnableIPv6: &yes, IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("fd00:6::/64")}}}})
	c := e.Run(t, Options{Network: "six", Cmd: []string{"--name", "six"}})
	n := c.Inspect(t).NetworkSettings.Networks["six"]
	for _, ip := range []string{n.IPAddress.String(), n.GlobalIPv6Address.String()} {
		if got := get(t, e, net.JoinHostPort(ip, "8080"), "/"); got != "six" {
			t.Errorf("%s answers %q", ip, got)
		}
	}
}

// TestRestart: the engine comes back with another socket, and containers outlive it when that is asked for.
func TestRestart(t *testing.T) {
	e := Shared(t)
	e.LiveRestore(t, true)
	c := e.Run(t, Options{Cmd: []string{"--name", "lives"}})
	address := net.JoinHostPort(c.IP(t, "").String(), "8080")
	get(t, e, address, "/")
	inode := func() os.FileInfo {
		i, err := os.Stat(e.Socket)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	before := inode()
	// The name that is kept keeps the inode's number from being given out again.
	if err := os.Link(e.Socket, filepath.Join(t.TempDir(), "before")); err != nil {
		t.Fatal(err)
	}
	e.Kill(t)
	if got := get(t, e, address, "/"); got != "lives" {
		t.Errorf("without the engine: %q", got)
	}
	e.Start(t)
	if os.SameFile(before, inode()) {
		t.Error("the socket is the same")
	}
	if !c.Inspect(t).State.Running {
		t.Error("the container did not outlive the engine")
	}
	e.Stop(t)
	e.Start(t)
	if !c.Inspect(t).State.Running {
		t.Error("the container did not outlive the engine that was stopped")
	}
	e.LiveRestore(t, false)
}

func TestSwarm(t *testing.T) {
	e := Shared(t)
	e.Swarm(t)
	e.Network(t, "over", client.NetworkCreateOptions{Driver: "overlay", Attachable: true})
	c := e.Run(t, Options{Network: "over", Cmd: []string{"--name", "over"}})
	if out, code := e.Run(t, Options{Network: "over", Cmd: []string{"--name", "other"}}).Exec(t, "", "/server", "healthcheck"); code != 0 {
		t.Errorf("healthcheck: %d %s", code, out)
	}
	if !c.IP(t, "over").Is4() {
		t.Error("no address")
	}
}

// TestBuild: packages come from outside although the engine has no network.
func TestBuild(t *testing.T) {
	e := Shared(t)
	e.Image(t, BaseImage)
	content, err := Tar(File{Name: "Dockerfile", Mode: 0o644, Data: []byte("FROM " + BaseImage + "\nRUN apt-get update && rm -rf /var/lib/apt/lists\n")})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Build(t.Context(), content, client.ImageBuildOptions{Tags: []string{"built"}}); err != nil {
		t.Fatal(err)
	}
	c := e.Run(t, Options{Image: "built", Cmd: []string{"sleep", "1000"}})
	if out, code := c.Exec(t, "nobody", "id", "-un"); code != 0 || out != "nobody\n" {
		t.Errorf("id: %d %q", code, out)
	}
}

func TestEvents(t *testing.T) {
	e := Shared(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := e.Client.Events(ctx, client.EventsListOptions{Filters: make(client.Filters).Add("type", "container")})
	c := e.Run(t, Options{})
	for {
		select {
		case m := <-seen.Messages:
			if m.Action == events.ActionStart && m.Actor.ID == c.ID {
				return
			}
		case err := <-seen.Err:
			t.Fatal(err)
		}
	}
}

// TestNothingLeft runs a test of this package in a process of its own, ended well and by SIGKILL, and looks for what stays.
func TestNothingLeft(t *testing.T) {
	e := Shared(t)
	tag := strings.ToLower(rand.Text()[:8]) // engines of other packages come and go meanwhile
	before := traces(t, tag)
	t.Run("end", func(t *testing.T) {
		cmd, out := again(t, tag)
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		after := traces(t, tag)
		if folders := after.folders; !slices.Equal(folders, before.folders) {
			t.Errorf("folders and control groups: %q", folders)
		}
		same(t, e, before)
	})
	t.Run("kill", func(t *testing.T) {
		cmd, out := again(t, tag)
		e.Eventually(t, func() (string, error) {
			sockets, err := filepath.Glob(folders + tag + "*/docker.sock")
			if err != nil {
				return "", err
			}
			for _, s := range sockets {
				if s != e.Socket && answers(t, s) {
					return "", nil
				}
			}
			return "there is no second engine:\n" + out.String(), nil
		})
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		same(t, e, before)
		e.Eventually(t, func() (string, error) { // another package's tests may be sweeping just now
			err := sweep()
			if after := traces(t, tag); !slices.Equal(after.folders, before.folders) {
				return fmt.Sprintf("folders and control groups: %q", after.folders), err
			}
			return "", err
		})
	})
}

// again starts a test of this binary in namespaces of its own.
func again(t *testing.T, tag string) (*exec.Cmd, *output) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestContainer$")
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, folderVariable) })
	cmd.Env = append(cmd.Env, tagVariable+"="+tag)
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = startLimit // children of what was killed have the pipe for a moment
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// answers reports whether an engine listens there that is ready.
func answers(t *testing.T, socket string) bool {
	t.Helper()
	c, err := client.New(client.WithHost("unix://" + socket))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Ping(t.Context(), client.PingOptions{})
	return err == nil
}

// output is a buffer that may be read while it is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// left is what an engine could leave behind.
type left struct {
	tag                           string   // with which the names of folders begin
	folders                       []string // and control groups
	mounts, interfaces, processes []string
}

func traces(t *testing.T, tag string) left {
	t.Helper()
	l := left{tag: tag}
	for _, pattern := range []string{folders + tag + "*", "/sys/fs/cgroup/dockertest" + tag + "*", "/sys/fs/cgroup/*/dockertest" + tag + "*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		l.folders = append(l.folders, found...)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	l.mounts = strings.Split(string(mounts), "\n")
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		l.interfaces = append(l.interfaces, i.Name)
	}
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range pids {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			t.Fatal(err)
		}
		if p, err := ReadProcess(pid); err == nil { // else it has just ended
			l.processes = append(l.processes, p.Name)
		}
	}
	slices.Sort(l.processes)
	return l
}

// same waits until there is nothing more than before; the kernel takes namespaces apart behind our back.
func same(t *testing.T, e *Engine, before left) {
	t.Helper()
	e.Eventually(t, func() (string, error) {
		after := traces(t, before.tag)
		for _, pair := range [][2][]string{{before.mounts, after.mounts}, {before.interfaces, after.interfaces}, {before.processes, after.processes}} {
			if !slices.Equal(pair[0], pair[1]) {
				return fmt.Sprintf("before: %q\nafter: %q", pair[0], pair[1]), nil
			}
		}
		return "", nil
	})
}
