package lb

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func mustParse(t testing.TB, texts ...string) []*node {
	t.Helper()
	var out []*node
	for _, text := range texts {
		n, err := parse(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

func tableOf(t testing.TB, old *table, nodes ...string) *table {
	t.Helper()
	out, err := newTable(mustParse(t, nodes...), old)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func numbered(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("10.0.%d.%d:8080", i/250, i%250+1))
	}
	return out
}

const manyPaths = 10_000

func pathNo(i int) string { return fmt.Sprintf("/r/app%d/function-%d", i%17, i) }

func TestSpread(t *testing.T) {
	for _, nodes := range [][]string{
		numbered(10),
		{"a:80", "b:80", "c:80", "d:80", "e:80", "f:80", "g:80", "h:80", "i:80", "j:80"},
		{"http://n/0", "http://n/1", "http://n/2", "http://n/3", "http://n/4", "http://n/5", "http://n/6", "http://n/7", "http://n/8", "http://n/9"},
	} {
		table, count := tableOf(t, nil, nodes...), map[string]int{}
		for i := range manyPaths {
			count[table.owner(pathNo(i)).key]++
		}
		for _, n := range table.nodes {
			if c := count[n.key]; c < manyPaths/10*9/10 || c > manyPaths/10*11/10 {
				t.Errorf("%s has %d of %d paths", n.key, c, manyPaths)
			}
		}
	}
}

// TestRemovalMovesItsOwnPaths: of 10,000 paths, for each of the nodes, and back again when it returns.
func TestRemovalMovesItsOwnPaths(t *testing.T) {
	nodes := numbered(10)
	whole := tableOf(t, nil, nodes...)
	for i, left := range nodes {
		less := tableOf(t, nil, slices.Delete(slices.Clone(nodes), i, i+1)...)
		moved, to := 0, map[string]int{}
		for p := range manyPaths {
			before, after := whole.owner(pathNo(p)).key, less.owner(pathNo(p)).key
			switch {
			case before == "http://"+left:
				moved++
				to[after]++
			case before != after:
				t.Fatalf("without %s, %s moved from %s to %s", left, pathNo(p), before, after)
			}
		}
		if moved == 0 || len(to) != 9 {
			t.Errorf("without %s: %d paths went to %d nodes", left, moved, len(to))
		}
	}
}

// TestOrderAndDuplicates: neither matters, nor does how a node is spelled.
func TestOrderAndDuplicates(t *testing.T) {
	first := tableOf(t, nil, "a:80", "b:8080", "http://c/base", "https://d")
	other := tableOf(t, nil, "HTTPS://D:443/", "http://c:80/base/", "b:08080", "http://A", "http://b:8080", "https://d")
	if len(other.nodes) != 4 {
		t.Fatalf("%d nodes", len(other.nodes))
	}
	if !slices.Equal(first.owners, other.owners) {
		t.Error("two lists of the same nodes disagree")
	}
}

// TestAgreement pins what other processes, and other versions of this package, choose.
func TestAgreement(t *testing.T) {
	table, got := tableOf(t, nil, numbered(5)...), ""
	for i := range 20 {
		got += string(table.owner(pathNo(i)).name[len("http://10.0.0.")])
	}
	if want := "45522341511551324324"; got != want {
		t.Errorf("chosen %s, not %s: every process must agree with those that run already", got, want)
	}
}

// TestIncremental: a table made from another one is the one that is made from nothing.
func TestIncremental(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a fixed seed is wanted
	all := numbered(10)
	var table *table
	for range 16 {
		var nodes []string
		for _, n := range all {
			if r.IntN(3) > 0 {
				nodes = append(nodes, n)
			}
		}
		if r.IntN(6) == 0 {
			nodes = nil
		}
		old := table
		table = tableOf(t, old, nodes...)
		fresh := tableOf(t, nil, nodes...)
		if !slices.Equal(table.owners, fresh.owners) || !slices.Equal(table.scores, fresh.scores) {
			t.Fatalf("%d nodes: the tables differ", len(nodes))
		}
		for _, n := range table.nodes {
			if old != nil && slices.ContainsFunc(old.nodes, func(o *node) bool { return o.key == n.key }) && !slices.Contains(old.nodes, n) {
				t.Fatalf("%s is another value than before", n.key)
			}
		}
	}
}

// TestNext: who is next is who has the path once the owner has left.
func TestNext(t *testing.T) {
	nodes := numbered(5)
	table, without := tableOf(t, nil, nodes...), map[string]*table{}
	for _, n := range table.nodes {
		without[n.key] = tableOf(t, nil, slices.DeleteFunc(slices.Clone(nodes), func(text string) bool { return "http://"+text == n.key })...)
	}
	for p := range 1000 {
		owner := table.owner(pathNo(p))
		less := without[owner.key]
		if next := table.next(pathNo(p), func(n *node) bool { return n != owner }); next.key != less.owner(pathNo(p)).key {
			t.Fatalf("next of %s is %s, and without its owner it is at %s", pathNo(p), next.key, less.owner(pathNo(p)).key)
		}
	}
	if table.next("/", func(*node) bool { return false }) != nil || tableOf(t, nil).owner("/") != nil {
		t.Error("somebody was chosen where nobody may be")
	}
}

func TestTooManyNodes(t *testing.T) {
	var nodes []*node
	for i := range maxNodes + 1 {
		nodes = append(nodes, &node{key: fmt.Sprint(i)})
	}
	if _, err := newTable(nodes, nil); err == nil {
		t.Error("no error")
	}
}

func TestChooseAllocates(t *testing.T) {
	table := tableOf(t, nil, numbered(10)...)
	if n := testing.AllocsPerRun(100, func() { table.owner("/r/app/some/function/of/usual/length") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
