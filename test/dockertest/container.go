package dockertest

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// Options say what a container is made of; the zero value is the server of this package on the default bridge.
type Options struct {
	Name    string
	Image   string // empty: ServerImage
	Cmd     []string
	Env     []string
	Labels  map[string]string
	Publish map[uint16]uint16 // port in the container to port of all addresses here
	Network string            // empty: the default bridge; "host" and "none" as usual

	// More changes what the fields above gave.
	More func(*client.ContainerCreateOptions)
}

// Container is one container of a test, removed at its end.
type Container struct {
	Engine *Engine
	ID     string
	Name   string
}

// Run creates and starts a container. What it said is logged if the test fails.
func (e *Engine) Run(t *testing.T, o Options) *Container {
	t.Helper()
	c := e.Create(t, o)
	c.Start(t)
	return c
}

// Create makes a container that is not started.
func (e *Engine) Create(t *testing.T, o Options) *Container {
	t.Helper()
	if o.Image == "" {
		o.Image = e.Image(t, ServerImage)
	}
	config := client.ContainerCreateOptions{
		Name:       o.Name,
		Config:     &container.Config{Image: o.Image, Cmd: o.Cmd, Env: o.Env, Labels: o.Labels, ExposedPorts: network.PortSet{}},
		HostConfig: &container.HostConfig{NetworkMode: container.NetworkMode(o.Network), PortBindings: network.PortMap{}},
	}
	for inside, outside := range o.Publish {
		port, ok := network.PortFrom(inside, network.TCP)
		if !ok {
			t.Fatalf("port %d", inside)
		}
		config.Config.ExposedPorts[port] = struct{}{}
		config.HostConfig.PortBindings[port] = []network.PortBinding{{HostPort: strconv.Itoa(int(outside))}}
	}
	if o.More != nil {
		o.More(&config)
	}
	made, err := e.Client.ContainerCreate(t.Context(), config)
	if err != nil {
		t.Fatalf("create a container of %s: %v", o.Image, err)
	}
	c := &Container{Engine: e, ID: made.ID}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("container %s said:\n%s", c.Name, c.logs())
		}
		ctx, cancel := context.WithTimeout(context.Background(), removed)
		defer cancel()
		_, err := e.Client.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		if err != nil && !cerrdefs.IsNotFound(err) && !cerrdefs.IsConflict(err) { // the test has removed it, or it is being removed
			t.Errorf("remove container %s: %v", c.Name, err)
		}
	})
	c.Name = c.Inspect(t).Name[1:]
	return c
}

// Start starts the container, also again.
func (c *Container) Start(t *testing.T) {
	t.Helper()
	if _, err := c.Engine.Client.ContainerStart(t.Context(), c.ID, client.ContainerStartOptions{}); err != nil {
		t.Fatalf("start container %s: %v", c.Name, err)
	}
}

// Stop is `docker stop`: the container's stop signal and, 10 s later, SIGKILL. It returns when the container has ended.
func (c *Container) Stop(t *testing.T) {
	t.Helper()
	if _, err := c.Engine.Client.ContainerStop(t.Context(), c.ID, client.ContainerStopOptions{}); err != nil {
		t.Fatalf("stop container %s: %v", c.Name, err)
	}
}

// Signal is `docker kill --signal`.
func (c *Container) Signal(t *testing.T, signal string) {
	t.Helper()
	if _, err := c.Engine.Client.ContainerKill(t.Context(), c.ID, client.ContainerKillOptions{Signal: signal}); err != nil {
		t.Fatalf("send %s to container %s: %v", signal, c.Name, err)
	}
}

// Inspect is what the engine knows of it.
func (c *Container) Inspect(t *testing.T) container.InspectResponse {
	t.Helper()
	r, err := c.Engine.Client.ContainerInspect(t.Context(), c.ID, client.ContainerInspectOptions{})
	if err != nil {
		t.Fatalf("inspect container %s: %v", c.ID, err)
	}
	return r.Container
}

// IP is its address in the network, or in the only one when that is empty.
func (c *Container) IP(t *testing.T, network string) netip.Addr {
	t.Helper()
	all := c.Inspect(t).NetworkSettings.Networks
	for name, n := range all {
		if (name == network || network == "" && len(all) == 1) && n.IPAddress.IsValid() {
			return n.IPAddress
		}
	}
	t.Fatalf("container %s has no address in network %q", c.Name, network)
	return netip.Addr{}
}

// Wait waits for its end and returns its exit code.
func (c *Container) Wait(t *testing.T) int {
	t.Helper()
	w := c.Engine.Client.ContainerWait(t.Context(), c.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	select {
	case r := <-w.Result:
		return int(r.StatusCode)
	case err := <-w.Error:
		t.Fatalf("wait for container %s: %v", c.Name, err)
		return 0
	}
}

// WaitHealthy waits until its HEALTHCHECK has passed, or until it has failed when healthy is false.
func (c *Container) WaitHealthy(t *testing.T, healthy bool) {
	t.Helper()
	want := container.Healthy
	if !healthy {
		want = container.Unhealthy
	}
	c.Engine.Eventually(t, func() (string, error) {
		if h := c.Inspect(t).State.Health; h == nil || h.Status != want {
			return fmt.Sprintf("the health of %s is %+v, not %s", c.Name, h, want), nil
		}
		return "", nil
	})
}

// Log is what it has written to standard output and error.
func (c *Container) Log(t *testing.T) string {
	t.Helper()
	return c.logs()
}

func (c *Container) logs() string {
	ctx, cancel := context.WithTimeout(context.Background(), removed)
	defer cancel()
	r, err := c.Engine.Client.ContainerLogs(ctx, c.ID, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	var b bytes.Buffer
	if _, err := stdcopy.StdCopy(&b, &b, r); err != nil {
		return b.String() + err.Error()
	}
	return b.String()
}

// Exec runs a command in the container, waits for it, and returns what it wrote and its exit code.
func (c *Container) Exec(t *testing.T, user string, command ...string) (out string, code int) {
	t.Helper()
	made, err := c.Engine.Client.ExecCreate(t.Context(), c.ID, client.ExecCreateOptions{User: user, Cmd: command, AttachStdout: true, AttachStderr: true})
	if err != nil {
		t.Fatalf("exec in container %s: %v", c.Name, err)
	}
	a, err := c.Engine.Client.ExecAttach(t.Context(), made.ID, client.ExecAttachOptions{})
	if err != nil {
		t.Fatalf("exec in container %s: %v", c.Name, err)
	}
	defer a.Close()
	var b bytes.Buffer
	if _, err := stdcopy.StdCopy(&b, &b, a.Reader); err != nil {
		t.Fatalf("exec in container %s: %v", c.Name, err)
	}
	r, err := c.Engine.Client.ExecInspect(t.Context(), made.ID, client.ExecInspectOptions{})
	if err != nil {
		t.Fatalf("exec in container %s: %v", c.Name, err)
	}
	return b.String(), r.ExitCode
}

// Processes are those of the container as the host sees them, its first one first. The tests share the engine's process namespace.
func (c *Container) Processes(t *testing.T) []Process {
	t.Helper()
	top, err := c.Engine.Client.ContainerTop(t.Context(), c.ID, client.ContainerTopOptions{Arguments: []string{"-eo", "pid"}})
	if err != nil {
		t.Fatalf("processes of container %s: %v", c.Name, err)
	}
	var out []Process
	for _, row := range top.Processes {
		pid, err := strconv.Atoi(row[0])
		if err != nil {
			t.Fatal(err)
		}
		if p, err := ReadProcess(pid); err == nil { // else it has just ended
			out = append(out, p)
		}
	}
	first := c.Inspect(t).State.Pid
	slices.SortStableFunc(out, func(a, b Process) int {
		switch {
		case a.PID == first:
			return -1
		case b.PID == first:
			return 1
		}
		return a.PID - b.PID
	})
	return out
}

// Network makes a network, removed at the end of the test; containers that were made after it leave it before.
func (e *Engine) Network(t *testing.T, name string, o client.NetworkCreateOptions) {
	t.Helper()
	made, err := e.Client.NetworkCreate(t.Context(), name, o)
	if err != nil {
		t.Fatalf("create network %s: %v", name, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), removed)
		defer cancel()
		if _, err := e.Client.NetworkRemove(ctx, made.ID, client.NetworkRemoveOptions{}); err != nil && !cerrdefs.IsNotFound(err) {
			t.Errorf("remove network %s: %v", name, err)
		}
	})
}

// Swarm makes the engine a Swarm of one until the test ends. Only tests that run alone may use it.
func (e *Engine) Swarm(t *testing.T) {
	t.Helper()
	if _, err := e.Client.SwarmInit(t.Context(), client.SwarmInitOptions{ListenAddr: "127.0.0.1:2377", AdvertiseAddr: "127.0.0.1"}); err != nil {
		t.Fatalf("init a swarm: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), removed)
		defer cancel()
		if _, err := e.Client.SwarmLeave(ctx, client.SwarmLeaveOptions{Force: true}); err != nil {
			t.Errorf("leave the swarm: %v", err)
		}
	})
}
