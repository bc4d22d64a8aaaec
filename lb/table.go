package lb

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

const (
	slots    = 1 << 16
	maxNodes = 1<<16 - 1 // an owner is two bytes
)

// table is a snapshot of the nodes, and says which one has which path. It never changes.
type table struct {
	nodes  []*node // by key, each once
	order  []*node // the same as they were given
	owners []uint16
	scores []uint64 // the owner's, so that the next table need not ask everybody
	byHost map[address][]*node
}

// address is where requests go that came by no proxy of ours.
type address struct{ scheme, host string }

func score(slot int, n *node) uint64 {
	return mix(n.hash ^ mix(uint64(slot)+1))
}

// beats breaks the tie of equal scores by the key, so that it does not depend on who came first.
func beats(s uint64, n *node, than uint64, other *node) bool {
	return s > than || s == than && n.key < other.key
}

// newTable makes a table of nodes, which it takes over from old where they are there already.
func newTable(given []*node, old *table) (*table, error) {
	known := map[string]*node{}
	if old != nil {
		for _, n := range old.nodes {
			known[n.key] = n
		}
	}
	t := &table{byHost: map[address][]*node{}}
	seen := map[string]bool{}
	for _, n := range given {
		if seen[n.key] {
			continue
		}
		seen[n.key] = true
		if before := known[n.key]; before != nil {
			n = before
		}
		t.order = append(t.order, n)
	}
	if len(t.order) > maxNodes {
		return nil, fmt.Errorf("%d nodes are more than %d", len(t.order), maxNodes)
	}
	t.nodes = slices.SortedFunc(slices.Values(t.order), func(a, b *node) int { return strings.Compare(a.key, b.key) })
	for _, n := range t.nodes {
		a := address{n.url.Scheme, n.url.Host}
		t.byHost[a] = append(t.byHost[a], n)
	}
	for _, same := range t.byHost { // the longest base path is the one that is meant
		slices.SortFunc(same, func(a, b *node) int {
			return cmp.Or(cmp.Compare(len(b.url.Path), len(a.url.Path)), cmp.Compare(len(b.url.RawQuery), len(a.url.RawQuery)), strings.Compare(a.key, b.key))
		})
	}
	t.fill(old)
	return t, nil
}

// fill gives each slot its owner. With an old table the cost is that of what differs: 65,536 scores for each node that came or left.
func (t *table) fill(old *table) {
	if len(t.nodes) == 0 {
		return
	}
	t.owners, t.scores = make([]uint16, slots), make([]uint64, slots)
	index := make(map[*node]int, len(t.nodes))
	for i, n := range t.nodes {
		index[n] = i
	}
	var came []int
	moved := []int(nil) // where the old table's nodes stand now, -1: they left
	if old != nil && len(old.nodes) > 0 {
		stayed := map[*node]bool{}
		for _, n := range old.nodes {
			i, ok := index[n]
			if !ok {
				i = -1
			}
			moved = append(moved, i)
			stayed[n] = true
		}
		for i, n := range t.nodes {
			if !stayed[n] {
				came = append(came, i)
			}
		}
	}
	all := make([]int, len(t.nodes))
	for i := range all {
		all[i] = i
	}
	for slot := range slots {
		owner, asked := -1, all
		var best uint64
		if len(moved) > 0 && moved[old.owners[slot]] >= 0 {
			owner, best, asked = moved[old.owners[slot]], old.scores[slot], came
		}
		for _, i := range asked {
			if s := score(slot, t.nodes[i]); owner < 0 || beats(s, t.nodes[i], best, t.nodes[owner]) {
				owner, best = i, s
			}
		}
		t.owners[slot], t.scores[slot] = uint16(owner), best // at most maxNodes
	}
}

func slotOf(path string) int { return int(sum64(path) >> 48) }

// owner is whose path it is, nil without nodes.
func (t *table) owner(path string) *node {
	if len(t.owners) == 0 {
		return nil
	}
	return t.nodes[t.owners[slotOf(path)]]
}

// next is the best for path among those that may, nil when none may.
func (t *table) next(path string, may func(*node) bool) *node {
	slot := slotOf(path)
	var found *node
	var best uint64
	for _, n := range t.nodes {
		if !may(n) {
			continue
		}
		if s := score(slot, n); found == nil || beats(s, n, best, found) {
			found, best = n, s
		}
	}
	return found
}
