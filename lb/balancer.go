package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"
)

// Balancer is an [http.Handler] that sends each path to its node. [New] makes one.
type Balancer struct {
	rt    *FallbackRoundTripper
	proxy *httputil.ReverseProxy
	mu    sync.Mutex // held by Update
}

// New gives a balancer over nodes, which may be none. It starts nothing: [Balancer.Run] must be called, and must go on for as long as
// requests come. An error names the node or the option.
//
// Where [NewRoundTripper] takes fallbacks in the order of the list, each node of a Balancer has an order of its own, in which all
// processes agree, so that not all that nodes leave behind comes to the first one.
func New(nodes []string, opts ...Option) (*Balancer, error) {
	o := defaults()
	o.spread = true
	for _, option := range opts {
		if err := option(&o); err != nil {
			return nil, fmt.Errorf("lb: %w", err)
		}
	}
	b := &Balancer{rt: newRoundTripper(context.Background(), o)}
	b.proxy = b.rt.reverseProxy()
	b.proxy.ErrorLog = slog.NewLogLogger(o.log.Handler(), slog.LevelWarn)
	if err := b.Update(nodes); err != nil {
		return nil, err
	}
	return b, nil
}

// Run checks the nodes, if that is asked for, until ctx ends. Then it ends all that the balancer does beside requests, waits for that, and
// returns nil. It may be called once. Requests are still served after it, but no fallback is looked for.
func (b *Balancer) Run(ctx context.Context) error {
	t := b.rt
	if t.ctx.Err() != nil {
		return errors.New("lb: run: it has ended before")
	}
	if t.health {
		t.checks(ctx)
	}
	<-ctx.Done()
	t.cancel()
	t.end()
	t.wg.Wait()
	return nil
}

// Update replaces the nodes. Those that stay keep their paths, connections and state; requests that run at nodes that leave finish there.
// With an error nothing has changed.
func (b *Balancer) Update(nodes []string) error {
	var all []*node
	for _, text := range nodes {
		n, err := parse(text)
		if err != nil {
			return fmt.Errorf("lb: %w", err)
		}
		all = append(all, n)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.rt
	next, err := newTable(all, t.table.Load())
	if err != nil {
		return fmt.Errorf("lb: %w", err)
	}
	stay := make(map[*node]bool, len(next.nodes))
	for _, n := range next.nodes {
		stay[n] = true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.table.Load().nodes {
		if !stay[n] {
			n.gone.Store(true)
			t.restore(n)
		} else if o := n.away.Load(); o != nil && !stay[o.fallback] {
			t.restore(n) // the next request that fails finds another one
		}
	}
	t.table.Store(next)
	return nil
}

// Node is the node that has path (decoded, without the query), in the spelling of logs: SCHEME://HOST:PORT/BASE. It is empty without
// nodes. It says nothing about who stands in for it, and nothing about loads.
func (b *Balancer) Node(path string) string {
	if n := b.rt.table.Load().owner(path); n != nil {
		return n.name
	}
	return ""
}

// Status is how it is with a node.
type Status struct {
	Node     string
	Up       bool
	Fallback string // who has its requests while it is not up
	Load     int64  // requests that it has now; counted with [WithBalanceFactor]
}

// Nodes gives the status of all nodes, sorted.
func (b *Balancer) Nodes() []Status {
	var all []Status
	for _, n := range b.rt.table.Load().nodes {
		s := Status{Node: n.name, Up: true, Load: n.load.Load()}
		if o := n.away.Load(); o != nil {
			s.Up, s.Fallback = false, o.fallback.name
		}
		all = append(all, s)
	}
	return all
}

// ReverseProxy is what serves the requests. Its ErrorHandler, ErrorLog, ModifyResponse and FlushInterval may be set before the
// first one. Requests that it serves itself, not by ServeHTTP, do not count for bounded loads.
func (b *Balancer) ReverseProxy() *httputil.ReverseProxy { return b.proxy }

// ServeHTTP implements [http.Handler].
func (b *Balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if b.rt.factor == 0 {
		b.proxy.ServeHTTP(w, r)
		return
	}
	n := b.rt.take(r.URL.Path)
	if n != nil {
		defer b.rt.release(n)
	}
	chosen := &route{by: b.rt, node: n}
	b.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), routeKey{}, chosen)))
}

// take chooses for path a node whose load is not too high, and counts the request there.
func (t *FallbackRoundTripper) take(path string) *node {
	table := t.table.Load()
	n := table.owner(path)
	if n == nil {
		return nil
	}
	up := max(int64(len(table.nodes))-t.out.Load(), 1)
	limit := (t.factor*(t.total.Load()+1) + 100*up - 1) / (100 * up) // rounded up, so that it is 1 at least
	if n = n.serving(); n.load.Load() >= limit {
		free := func(other *node) bool { return other.away.Load() == nil && other.load.Load() < limit }
		if other := table.next(path, free); other != nil { // there is one, but for what changes meanwhile
			n = other
		}
	}
	n.load.Add(1)
	t.total.Add(1)
	return n
}

func (t *FallbackRoundTripper) release(n *node) {
	n.load.Add(-1)
	t.total.Add(-1)
}

// checks asks all nodes that serve, each interval, until ctx ends.
func (t *FallbackRoundTripper) checks(ctx context.Context) {
	failed := map[*node]int{} // in a row
	ticker := time.NewTicker(t.watchEvery)
	defer ticker.Stop()
	for {
		nodes := t.table.Load().nodes
		errs := t.ask(ctx, nodes)
		if ctx.Err() != nil {
			return
		}
		now := make(map[*node]int, len(nodes))
		for i, n := range nodes {
			if errs[i] == nil || n.away.Load() != nil { // the watch has those that are away
				continue
			}
			if now[n] = failed[n] + 1; now[n] >= t.fall {
				t.suspect(n, n, fmt.Errorf("health check: %w", errs[i]))
			}
		}
		failed = now
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// ask gives the answer of each node.
func (t *FallbackRoundTripper) ask(ctx context.Context, nodes []*node) []error {
	errs := make([]error, len(nodes))
	limit := make(chan struct{}, searchWidth)
	var all sync.WaitGroup
	for i, n := range nodes {
		if n.away.Load() != nil {
			continue
		}
		limit <- struct{}{}
		all.Go(func() {
			defer func() { <-limit }()
			one, cancel := context.WithTimeout(ctx, t.watchTime)
			defer cancel()
			errs[i] = t.question(one, n.url)
		})
	}
	all.Wait()
	return errs
}
