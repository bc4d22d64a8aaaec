package docker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// callTimeout bounds each call but the stream of events.
const callTimeout = 10 * time.Second

// What is spoken where the engine does not say what it speaks, because a proxy refuses the question: the oldest version that is
// supported, and the oldest that engines from 29 on take.
var unasked = []string{"1.40", "1.44"}

const userAgent = "fnlb"

// engine asks one Docker engine. Of its API it uses ping, the list and the details of containers, the events, and the list of networks.
type engine struct {
	c      *client.Client
	limit  time.Duration // of each call, and of the beginning of the stream
	lister *lister       // nil: the client lists
}

// connect makes a client and settles the version of the API. An empty host means what the environment says (DOCKER_HOST,
// DOCKER_TLS_VERIFY, DOCKER_CERT_PATH, DOCKER_API_VERSION), and Docker's usual socket where that says nothing.
func connect(ctx context.Context, host string) (*engine, error) {
	e, err := agree(ctx, host)
	if err == nil {
		e.lister = newLister(e.c.DaemonHost(), e.c.ClientVersion())
	}
	return e, err
}

// agree finds a version that both speak. With an error the engine is closed, or there is none.
func agree(ctx context.Context, host string) (*engine, error) {
	opts := []client.Opt{client.FromEnv, client.WithUserAgent(userAgent)}
	if host != "" {
		opts = append(opts, client.WithHost(host))
	}
	c, err := client.New(opts...)
	if err != nil {
		return nil, err
	}
	e := &engine{c: c, limit: callTimeout}
	ping, cancel := context.WithTimeout(ctx, e.limit)
	defer cancel()
	_, err = c.Ping(ping, client.PingOptions{NegotiateAPIVersion: true})
	if err == nil || !refused(err) {
		if err != nil {
			err = errors.Join(err, e.close())
		}
		return e, err
	}
	for _, version := range unasked {
		if c, err = client.New(append(opts, client.WithAPIVersion(version))...); err != nil {
			break
		}
		if err = e.close(); err != nil {
			break
		}
		e = &engine{c: c, limit: callTimeout}
		if _, err = e.networks(ctx); !errdefs.IsInvalidArgument(err) {
			break
		}
	}
	if err != nil {
		err = errors.Join(err, e.close())
	}
	return e, err
}

// refused reports whether somebody in between answered that the call is not allowed.
func refused(err error) bool {
	return errdefs.IsPermissionDenied(err) || errdefs.IsNotFound(err) || errdefs.IsUnauthorized(err) || errdefs.IsNotImplemented(err)
}

func (e *engine) close() error {
	if e.lister != nil {
		e.lister.close()
	}
	return e.c.Close()
}

// line is what the list of containers says of one: enough to see that more must be asked.
type line struct {
	name, state string
	health      string
	addrs       string
	ours        bool // it has labels of ours
}

// list gives all containers, by id. Two calls at a time are not allowed.
func (e *engine) list(ctx context.Context) (map[string]line, error) {
	ctx, cancel := context.WithTimeout(ctx, e.limit)
	defer cancel()
	if e.lister != nil {
		return e.lister.list(ctx)
	}
	got, err := e.c.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, err
	}
	lines := make(map[string]line, len(got.Items))
	for i := range got.Items {
		lines[got.Items[i].ID] = lineOf(&got.Items[i])
	}
	return lines, nil
}

func lineOf(c *container.Summary) line {
	l := line{state: string(c.State), ours: asks(c.Labels), health: healthOf(c.Status)}
	for _, n := range c.Names { // others are those of links
		if strings.LastIndexByte(n, '/') == 0 {
			l.name = plain(n[1:])
		}
	}
	if c.NetworkSettings != nil {
		l.addrs = addrs(endpoints(c.NetworkSettings.Networks))
	}
	return l
}

// healthOf reads the HEALTHCHECK's state from the text for people, which is where the list has it before API 1.52.
func healthOf(status string) string {
	switch {
	case strings.HasSuffix(status, "(healthy)"):
		return "healthy"
	case strings.HasSuffix(status, "(unhealthy)"):
		return "unhealthy"
	case strings.HasSuffix(status, "(health: starting)"):
		return "starting"
	}
	return ""
}

func addrs(list []endpoint) string {
	var b strings.Builder
	for _, e := range list {
		fmt.Fprintf(&b, "%s=%s ", e.network, e.addr())
	}
	return b.String()
}

// errGone is said of a container that is not there any more.
var errGone = errors.New("there is no such container")

// inspect gives the facts of one container.
func (e *engine) inspect(ctx context.Context, id string) (facts, error) {
	ctx, cancel := context.WithTimeout(ctx, e.limit)
	defer cancel()
	got, err := e.c.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		return facts{}, errGone
	}
	if err != nil {
		return facts{}, err
	}
	return factsOf(&got.Container)
}

func factsOf(c *container.InspectResponse) (facts, error) {
	if c.ID == "" || c.State == nil || c.Config == nil {
		return facts{}, errors.New("the engine's answer is no container")
	}
	f := facts{
		id: c.ID, name: plain(strings.TrimPrefix(c.Name, "/")), labels: c.Config.Labels,
		state: string(c.State.Status), started: c.State.StartedAt, stopSignal: c.Config.StopSignal,
	}
	created, err := time.Parse(time.RFC3339Nano, c.Created)
	if err != nil {
		return facts{}, fmt.Errorf("container %s: %w", f.name, err)
	}
	f.created = created.UTC()
	if h := c.State.Health; h != nil && h.Status != container.NoHealthcheck {
		f.health = string(h.Status)
	}
	if c.HostConfig != nil {
		f.hostNetwork = c.HostConfig.NetworkMode.IsHost()
		if c.HostConfig.NetworkMode.IsContainer() {
			f.shares = c.HostConfig.NetworkMode.ConnectedContainer()
		}
	}
	if c.NetworkSettings != nil {
		f.networks = endpoints(c.NetworkSettings.Networks)
	}
	for p := range c.Config.ExposedPorts {
		if p.Proto() == network.TCP {
			f.exposed = append(f.exposed, p.Num())
		}
	}
	slices.Sort(f.exposed)
	return f, nil
}

// endpoints are sorted by the network's name; those of host and none are no networks.
func endpoints(all map[string]*network.EndpointSettings) []endpoint {
	var out []endpoint
	for _, n := range sortedKeys(all) {
		if s := all[n]; s != nil && n != "host" && n != "none" {
			out = append(out, endpoint{network: plain(n), id: s.NetworkID, ip4: s.IPAddress.Unmap(), ip6: s.GlobalIPv6Address.WithZone(""), gateway: gatewayOf(s)})
		}
	}
	return out
}

func gatewayOf(s *network.EndpointSettings) netip.Addr {
	if s.Gateway.IsValid() {
		return s.Gateway.Unmap()
	}
	return s.IPv6Gateway.WithZone("")
}

// networks gives what the engine has, by id.
func (e *engine) networks(ctx context.Context) (map[string]networkKind, error) {
	ctx, cancel := context.WithTimeout(ctx, e.limit)
	defer cancel()
	got, err := e.c.NetworkList(ctx, client.NetworkListOptions{})
	if err != nil {
		return nil, err
	}
	out := make(map[string]networkKind, len(got.Items))
	for i := range got.Items {
		n := &got.Items[i]
		out[n.ID] = networkKind{driver: n.Driver, ingress: n.Ingress}
	}
	return out, nil
}

// What is followed. The events of exec are left out: each HEALTHCHECK makes three of them.
var actions = []string{"create", "start", "die", "kill", "pause", "unpause", "rename", "destroy", "health_status", "connect", "disconnect"}

// follow streams events from since on, in the engine's form of seconds.nanoseconds; empty: from now on. The stream has begun when it
// returns, or its error is there.
func (e *engine) follow(ctx context.Context, since string) (<-chan events.Message, <-chan error) {
	ctx, cancel := context.WithCancel(ctx)
	limit := time.AfterFunc(e.limit, cancel)
	filters := client.Filters{}.Add("type", "container", "network").Add("event", actions...)
	got := e.c.Events(ctx, client.EventsListOptions{Since: since, Filters: filters})
	if !limit.Stop() {
		failed := make(chan error, 1)
		failed <- fmt.Errorf("the stream has not begun within %s", e.limit)
		return nil, failed
	}
	return got.Messages, got.Err
}
