package lb

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrNoFallbackNodeFound is the error of a request whose node is away while no other accepts connections, and of every request where
// there are no nodes.
var ErrNoFallbackNodeFound = errors.New("no fallback node found - whole cluster seems offline")

// maxForeign bounds how many targets that are no nodes are remembered as away.
const maxForeign = 1000

// FallbackRoundTripper is an [http.RoundTripper] that sends the requests of a node that is away to another one, always the same, until
// it is back. NewRoundTripper makes one.
type FallbackRoundTripper struct {
	options
	ctx    context.Context // its end ends searches and watches
	table  atomic.Pointer[table]
	cancel context.CancelFunc
	out    atomic.Int64 // nodes that are away
	total  atomic.Int64 // requests at all nodes, counted where loads are bounded

	mu       sync.Mutex
	ended    bool
	foreign  map[string]*node // targets that are no nodes and are away, by key
	strange  atomic.Int64     // how many these are
	searches map[string]*search
	wg       sync.WaitGroup // searches and watches
}

// NewRoundTripper gives a round tripper whose fallbacks are nodes, in their order; a request goes where its URL says as long as
// that accepts connections, whether it is one of nodes or not. The end of ctx ends all that it does beside requests: from then on a
// request that fails has its error, and idle connections are closed.
//
// A node that cannot be parsed is left out, with a warning in the log of [slog.Default]. [New] refuses such nodes.
func NewRoundTripper(ctx context.Context, nodes []string) *FallbackRoundTripper {
	o := defaults()
	o.log = slog.Default()
	var good []*node
	for _, text := range nodes {
		n, err := parse(text)
		if err != nil {
			o.log.Warn("node left out", "error", err)
			continue
		}
		good = append(good, n)
	}
	if len(good) > maxNodes {
		o.log.Warn("nodes left out", "nodes", len(good), "limit", maxNodes)
		good = good[:maxNodes]
	}
	t := newRoundTripper(ctx, o)
	if first, err := newTable(good, nil); err == nil { // nothing else can be wrong with them
		t.table.Store(first)
	}
	return t
}

func newRoundTripper(ctx context.Context, o options) *FallbackRoundTripper {
	t := &FallbackRoundTripper{options: o, foreign: map[string]*node{}, searches: map[string]*search{}}
	t.ctx, t.cancel = context.WithCancel(ctx)
	t.table.Store(&table{})
	context.AfterFunc(t.ctx, t.end)
	return t
}

// end refuses searches and watches from now on; those that there are see it by the context.
func (t *FallbackRoundTripper) end() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	if idle, ok := t.transport.(interface{ CloseIdleConnections() }); ok && t.ownTransport {
		idle.CloseIdleConnections()
	}
}

// routeKey is where a request's context has its *route.
type routeKey struct{}

// route is what was decided about a request before it reaches the round tripper.
type route struct {
	by   *FallbackRoundTripper // whose nodes are meant
	node *node                 // nil: there are none
	in   *url.URL              // what the client asked with
}

// RoundTrip implements [http.RoundTripper]. Errors are those of the transport, or [ErrNoFallbackNodeFound].
func (t *FallbackRoundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil {
		return t.transport.RoundTrip(req) // which knows what to say
	}
	target, in, err := t.target(req)
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	c := new(call)
	c.init(req)
	resp, err := t.tries(c, target, in)
	if err != nil {
		c.end()
	}
	return resp, err
}

// tries sends the request where target's requests go, and elsewhere while that fails and the request allows it.
func (t *FallbackRoundTripper) tries(c *call, target *node, in *url.URL) (*http.Response, error) {
	var first error
	dest, detour := target.serving(), false
	for range len(t.table.Load().nodes) + 2 { // each search rules one out; this is for a transport that never connects
		resp, err := t.try(c, target, dest, in)
		if err == nil {
			return resp, nil
		}
		first = cmp.Or(first, err)
		if detour || c.clientsFault() {
			break
		}
		s := t.suspect(target, dest, err)
		if s == nil || !c.mayRepeat(err) {
			break
		}
		select {
		case <-s.done:
		case <-c.req.Context().Done():
			return nil, endOf(c.req.Context())
		}
		switch {
		case s.found == nil && (s.alive || t.ctx.Err() != nil):
			return nil, first
		case s.found == nil:
			return nil, ErrNoFallbackNodeFound
		}
		dest, detour = s.found, s.alive
	}
	return nil, first
}

func (t *FallbackRoundTripper) try(c *call, target, dest *node, in *url.URL) (*http.Response, error) {
	var turn func() *http.Request
	if dest != target {
		turn = func() *http.Request {
			out := c.req.WithContext(c.req.Context())
			out.Host = cmp.Or(out.Host, out.URL.Host) // the Host header stays
			if in == nil {
				in = target.strip(c.req.URL)
			}
			point(out, in, dest.url)
			return out
		}
	}
	if t.observer == nil {
		return c.try(t.transport, dest, turn)
	}
	begun := time.Now()
	resp, err := c.try(t.transport, dest, turn)
	t.observer.Tried(Try{Target: target.name, Node: dest.name, Took: time.Since(begun), Err: err})
	return resp, err
}

// target is the node that a request leads to, and what its client asked with if that is known.
func (t *FallbackRoundTripper) target(req *http.Request) (*node, *url.URL, error) {
	if r, ok := req.Context().Value(routeKey{}).(*route); ok && r.by == t {
		if r.node == nil {
			return nil, nil, ErrNoFallbackNodeFound
		}
		return r.node, r.in, nil
	}
	host, err := hostPort(&url.URL{Scheme: strings.ToLower(req.URL.Scheme), Host: req.URL.Host})
	if err != nil {
		host = req.URL.Host // the transport knows what is wrong with it
	}
	a := address{strings.ToLower(req.URL.Scheme), host}
	for _, n := range t.table.Load().byHost[a] {
		if n.below(req.URL) {
			return n, nil, nil
		}
	}
	u := &url.URL{Scheme: a.scheme, Host: a.host}
	key := u.String()
	if t.strange.Load() > 0 {
		t.mu.Lock()
		defer t.mu.Unlock()
		if n := t.foreign[key]; n != nil {
			return n, nil, nil
		}
	}
	return &node{key: key, name: key, url: u, bare: true, hash: sum64(key)}, nil, nil
}

// CloseIdleConnections closes those of the transport, as [http.Client.CloseIdleConnections] asks for.
func (t *FallbackRoundTripper) CloseIdleConnections() {
	if idle, ok := t.transport.(interface{ CloseIdleConnections() }); ok {
		idle.CloseIdleConnections()
	}
}
