package lb

import (
	"context"
	"net"
	"net/url"
	"slices"
	"time"
)

const (
	searchTime  = 5 * time.Second        // the longest that a search takes
	searchGrace = 200 * time.Millisecond // how long a node that answers waits for those before it in the order
	searchWidth = 64                     // nodes that are asked at once
	watchEvery  = 500 * time.Millisecond // so that a node is back within a second, of which a question that hangs may take half
)

// search is the one that all requests wait for which failed at the same node. Its results stand once done is closed.
type search struct {
	done  chan struct{}
	dest  *node // that failed
	found *node // who takes the requests, nil: nobody
	alive bool  // dest accepts connections all the same: only what failed goes elsewhere
}

// connects is the question whether a node may serve, as long as nobody has another one.
func connects(ctx context.Context, u *url.URL) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	return conn.Close()
}

// suspect gives the search for who takes the requests of target after dest has failed one with err; nil after the end.
func (t *FallbackRoundTripper) suspect(target, dest *node, err error) *search {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return nil
	}
	if now := target.serving(); now != dest { // somebody has found one meanwhile, or target is back
		s := &search{done: make(chan struct{}), found: now}
		close(s.done)
		return s
	}
	if s := t.searches[target.key]; s != nil && s.dest.key == dest.key {
		return s
	}
	s := &search{done: make(chan struct{}), dest: dest}
	t.searches[target.key] = s
	t.wg.Add(1)
	go func() {
		defer t.wg.Done()
		t.search(s, target, err)
	}()
	return s
}

type answer struct {
	at  int
	err error
}

// search asks dest and all who could stand in, settles what follows, and lets the requests go on before it ends.
func (t *FallbackRoundTripper) search(s *search, target *node, cause error) {
	ctx, cancel := context.WithTimeout(t.ctx, searchTime)
	defer cancel()
	nodes := append([]*node{s.dest}, t.candidates(target, s.dest)...)
	answers := make(chan answer, len(nodes))
	next := make(chan int, len(nodes))
	for i := range nodes {
		next <- i
	}
	close(next)
	workers := make(chan struct{}, searchWidth)
	for range min(searchWidth, len(nodes)) {
		go func() {
			for i := range next {
				answers <- answer{i, t.question(ctx, nodes[i].url)}
			}
			workers <- struct{}{}
		}()
	}
	found, alive := judge(ctx, len(nodes), answers)
	if found > 0 {
		s.found = nodes[found]
	}
	s.alive = alive
	t.settle(s, target, cause)
	cancel()
	for range min(searchWidth, len(nodes)) {
		<-workers
	}
}

// candidates are those who could stand in for target after dest has failed.
func (t *FallbackRoundTripper) candidates(target, dest *node) []*node {
	nodes := slices.DeleteFunc(slices.Clone(t.table.Load().order), func(n *node) bool { return n.key == target.key || n.key == dest.key })
	if t.spread { // each node has an order of its own, in which all processes agree
		slices.SortFunc(nodes, func(a, b *node) int {
			sa, sb := mix(a.hash^mix(target.hash)), mix(b.hash^mix(target.hash))
			if beats(sa, a, sb, b) {
				return -1
			}
			return 1
		})
	}
	return nodes
}

// judge waits for the answers of n nodes and gives the first who may serve, 0: none, and whether node 0, the one that failed, may. It does not
// wait longer than the grace for those before the first that answered.
func judge(ctx context.Context, n int, answers <-chan answer) (found int, alive bool) {
	const unknown, yes, no = 0, 1, 2
	state := make([]int, n)
	var grace <-chan time.Time
	for {
		first := slices.Index(state[1:], yes) + 1
		if open := slices.Index(state, unknown); open < 0 || first > 0 && open > first {
			return first, state[0] == yes
		}
		if first > 0 && grace == nil {
			grace = time.After(searchGrace)
		}
		select {
		case a := <-answers:
			state[a.at] = no
			if a.err == nil {
				state[a.at] = yes
			}
		case <-grace:
			return first, state[0] == yes
		case <-ctx.Done():
			return first, state[0] == yes
		}
	}
}

// settle makes what a search found the truth for the requests that follow, and wakes those that wait.
func (t *FallbackRoundTripper) settle(s *search, target *node, cause error) {
	t.mu.Lock()
	if t.searches[target.key] == s {
		delete(t.searches, target.key)
	}
	changed := false
	if s.found != nil && !s.alive && !s.found.gone.Load() && !t.ended {
		changed = t.replace(target, s.found)
	}
	t.mu.Unlock()
	close(s.done)
	if changed {
		t.log.Warn("node is away", "node", target.name, "fallback", s.found.name, "error", cause)
		t.notice(Change{Node: target.name, Fallback: s.found.name, Err: cause})
	}
}

// replace makes fallback stand in for target, and watches for target's return. Called with the mutex held.
func (t *FallbackRoundTripper) replace(target, fallback *node) bool {
	if o := target.away.Load(); o != nil {
		if o.fallback == fallback {
			return false
		}
		target.away.Store(&outage{fallback: fallback, stop: o.stop})
		return true
	}
	if target.gone.Load() {
		return false
	}
	if !t.lists(target) {
		if t.foreign[target.key] != nil || len(t.foreign) >= maxForeign {
			return false
		}
		t.foreign[target.key] = target
		t.strange.Add(1)
	} else {
		t.out.Add(1)
	}
	ctx, stop := context.WithCancel(t.ctx)
	target.away.Store(&outage{fallback: fallback, stop: stop})
	t.wg.Add(1)
	go func() {
		defer t.wg.Done()
		defer stop()
		t.watch(ctx, target)
	}()
	return true
}

func (t *FallbackRoundTripper) lists(n *node) bool {
	return slices.ContainsFunc(t.table.Load().byHost[address{n.url.Scheme, n.url.Host}], func(other *node) bool { return other == n })
}

// watch asks until target may serve again or ctx ends.
func (t *FallbackRoundTripper) watch(ctx context.Context, target *node) {
	ticker := time.NewTicker(t.watchEvery)
	defer ticker.Stop()
	for passed := 0; passed < t.rise; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		limited, cancel := context.WithTimeout(ctx, t.watchTime)
		if t.question(limited, target.url) == nil {
			passed++
		} else {
			passed = 0
		}
		cancel()
	}
	t.mu.Lock()
	back := ctx.Err() == nil && t.restore(target)
	t.mu.Unlock()
	if back {
		t.log.Info("node is back", "node", target.name)
		t.notice(Change{Node: target.name, Up: true})
	}
}

// restore gives target its requests back. Called with the mutex held.
func (t *FallbackRoundTripper) restore(target *node) bool {
	o := target.away.Swap(nil)
	if o == nil {
		return false
	}
	o.stop()
	if t.foreign[target.key] == target {
		delete(t.foreign, target.key)
		t.strange.Add(-1)
	} else {
		t.out.Add(-1)
	}
	return true
}

func (t *FallbackRoundTripper) notice(c Change) {
	if t.observer != nil {
		t.observer.Changed(c)
	}
}
