package nodes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// memory is a store that needs no Run.
func memory() *store.Mirror { return store.New(store.Options{Name: "memory", Log: quiet}) }

var quiet = slog.New(slog.DiscardHandler)

// seen is what would be put now.
func (s *Source) seen() model.Snapshot {
	out, _ := s.snapshot()
	return out
}

// told reports whether Run has a reason to put a Snapshot, since the last call.
func (s *Source) told() (told bool) {
	for {
		select {
		case <-s.view.Changed():
		case <-s.wake:
		default:
			return told
		}
		told = true
	}
}

func source(initial ...model.Node) *Source {
	return New(Options{Service: "nodes", Initial: initial, Store: memory(), Log: quiet, Now: func() time.Time { return begin }, Policy: model.Policy{
		Own:  []model.Bind{{Port: 8081}},
		Deny: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
	}})
}

func parsed(t testing.TB, s string) model.Node {
	t.Helper()
	n, err := model.ParseNode(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func names(s *Source) []string {
	var out []string
	for _, n := range s.List() {
		out = append(out, n.Node)
	}
	return out
}

func TestSet(t *testing.T) {
	long := strings.Repeat(strings.Repeat("a", 50)+".", 5)[:250] // a DNS name, but with a port of five digits no server's name
	for _, tt := range []struct {
		name, node string
		list       string // after it, beside the one that was there; empty: refused
		kind       model.Kind
		says       string
	}{
		{"ipv4", "10.0.0.1:80", "10.0.0.1:80", 0, ""},
		{"ipv6", "[2001:DB8::1]:80", "[2001:db8::1]:80", 0, ""},
		{"mapped ipv4 is ipv4", "[::ffff:10.0.0.1]:80", "10.0.0.1:80", 0, ""},
		{"name", "Node-1.Example.:8080", "node-1.example:8080", 0, ""},
		{"name of this host", "localhost:80", "localhost:80", 0, ""},
		{"loopback, another port", "127.0.0.1:8082", "127.0.0.1:8082", 0, ""},
		{"twice", "10.9.9.9:80", "", 0, ""},
		{"empty", "", "", model.Invalid, "empty"},
		{"no port", "10.0.0.1", "", model.Invalid, "port is missing"},
		{"port 0", "10.0.0.1:0", "", model.Invalid, "between 1 and 65535"},
		{"port 70000", "10.0.0.1:70000", "", model.Invalid, "between 1 and 65535"},
		{"spaces", " 10.0.0.1:80", "", model.Invalid, "neither an address nor a DNS name"},
		{"url", "http://h:1", "", model.Invalid, "URL"},
		{"300 characters", strings.Repeat("a", 300) + ":80", "", model.Invalid, "303 characters"},
		{"too long for a server's name", long + ":65535", "", model.Invalid, "209"},
		{"newline", "h:80\n  lua-load /x.lua", "", model.Invalid, ""},
		{"newline in the host", "h\nglobal:80", "", model.Invalid, "neither"},
		{"quotes", `"h":80`, "", model.Invalid, "neither"},
		{"dollar", `$HOME:80`, "", model.Invalid, "neither"},
		{"NUL", "h\x00:80", "", model.Invalid, "neither"},
		{"NBSP", "h\u00a0:80", "", model.Invalid, "neither"},
		{"broken UTF-8", "h\xff:80", "", model.Invalid, "neither"},
		{"unix", "unix@/x", "", model.Invalid, "families"},
		{"fd", "fd@3", "", model.Invalid, "families"},
		{"metadata", "169.254.169.254:80", "", model.Refused, "link-local"},
		{"link-local v6", "[fe80::1]:80", "", model.Refused, "link-local"},
		{"unspecified", "0.0.0.0:80", "", model.Refused, "unspecified"},
		{"unspecified v6", "[::]:80", "", model.Refused, "unspecified"},
		{"multicast", "239.0.0.1:80", "", model.Refused, "multicast"},
		{"ourselves", "127.0.0.1:8081", "", model.Refused, "own address"},
		{"denied", "192.0.2.7:80", "", model.Refused, "--node-deny"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := source(parsed(t, "10.9.9.9:80"))
			before := s.seen()
			err := s.Set(t.Context(), tt.node, model.NodeWish{})
			want := []string{"10.9.9.9:80"}
			if tt.list != "" {
				want = append(want, tt.list)
				slices.Sort(want)
			}
			if got := names(s); !slices.Equal(got, want) {
				t.Errorf("list %q, want %q", got, want)
			}
			if tt.list != "" || tt.name == "twice" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			var p model.Problem
			if !errors.As(err, &p) || p.Kind != tt.kind || !strings.Contains(p.Reason, tt.says) || strings.ContainsAny(p.Error(), "\n\x00") {
				t.Errorf("error %#v, want %s with %q", err, tt.kind, tt.says)
			}
			if after := s.seen(); len(after.Offers) != len(before.Offers) || s.told() {
				t.Error("a refused node changed something")
			}
		})
	}
}

func TestDelete(t *testing.T) {
	s := source(parsed(t, "10.0.0.1:80"), parsed(t, "[::1]:80"), parsed(t, "h:80"))
	for _, n := range []string{"10.0.0.1:80", "[0:0::1]:80", "H.:80", "unknown:80", "169.254.169.254:80"} {
		if err := s.Delete(t.Context(), n); err != nil {
			t.Errorf("delete %s: %v", n, err)
		}
	}
	if got := names(s); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
	var p model.Problem
	if err := s.Delete(t.Context(), "no port"); !errors.As(err, &p) || p.Kind != model.Invalid {
		t.Errorf("a malformed node: %v", err)
	}
}

// Adding and removing in any order leaves what a set would have.
func TestAnyOrder(t *testing.T) {
	s := source()
	want := map[string]bool{}
	for i := range 2000 {
		n := fmt.Sprintf("n%d:80", i*i%37)
		var err error
		if i*7%5 < 2 {
			delete(want, n)
			err = s.Delete(t.Context(), n)
		} else {
			want[n] = true
			err = s.Set(t.Context(), n, model.NodeWish{})
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := names(s); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
			t.Fatalf("after call %d: %q, want %v", i, got, want)
		}
		if got := len(s.seen().Offers); got != len(want) {
			t.Fatalf("after call %d: %d offers, want %d", i, got, len(want))
		}
	}
}

func TestInitial(t *testing.T) {
	s := source(parsed(t, "h:80"), parsed(t, "169.254.1.1:80"), parsed(t, "[::1]:81"), parsed(t, "H:80"))
	got := s.seen()
	if got.Source != "nodes" || s.Name() != "nodes" || len(got.Offers) != 2 || len(got.Problems) != 1 {
		t.Fatalf("snapshot %+v", got)
	}
	v6 := model.Offer{Owner: model.Owner{Source: "nodes", Name: "[::1]:81"}, Since: begin}
	v6.Servers = []model.Server{{Service: "nodes", Name: "::1:81", IP: netip.MustParseAddr("::1"), Port: 81}}
	named := model.Offer{Owner: model.Owner{Source: "nodes", Name: "h:80"}, Since: begin}
	named.Servers = []model.Server{{Service: "nodes", Name: "h:80", Host: "h", Port: 80}}
	for i, want := range []model.Offer{v6, named} {
		o := got.Offers[i]
		if o.Owner != want.Owner || o.Since != want.Since || len(o.Servers) != 1 || o.Servers[0] != want.Servers[0] {
			t.Errorf("offer %d is %+v, want %+v", i, o, want)
		}
	}
	if p := got.Problems[0]; p.Kind != model.Refused || p.Owner.Name != "169.254.1.1:80" {
		t.Errorf("problem %+v", p)
	}
}

func TestLimit(t *testing.T) {
	s := source()
	for i := range Limit {
		if err := s.Set(t.Context(), fmt.Sprintf("n%d:80", i), model.NodeWish{}); err != nil {
			t.Fatal(err)
		}
	}
	var p model.Problem
	if err := s.Set(t.Context(), "more:80", model.NodeWish{}); !errors.As(err, &p) || p.Kind != model.Refused || !strings.Contains(p.Error(), "20000") {
		t.Errorf("one too many: %v", err)
	}
	if err := s.Set(t.Context(), "n7:80", model.NodeWish{}); err != nil {
		t.Errorf("one that is there: %v", err)
	}
	if err := errors.Join(s.Delete(t.Context(), "n7:80"), s.Set(t.Context(), "more:80", model.NodeWish{})); err != nil {
		t.Error(err)
	}
}

// notes keeps the Snapshots and when they came.
type notes struct {
	start time.Time
	mu    sync.Mutex
	at    []time.Duration
	sizes []int
}

func (h *notes) Put(s model.Snapshot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at = append(h.at, time.Since(h.start))
	h.sizes = append(h.sizes, len(s.Offers))
}
func (h *notes) Down(error) {}

func TestRunCoalesces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := source(parsed(t, "first:80"))
		h := &notes{start: time.Now()}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx, h) }()
		synctest.Wait() // at once
		for i := range 1000 {
			if err := s.Set(ctx, fmt.Sprintf("n%d:80", i), model.NodeWish{}); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Second) // the rest together after 10 ms
		if err := errors.Join(s.Set(ctx, "n1:80", model.NodeWish{}), s.Delete(ctx, "unknown:80")); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second) // nothing changed
		if err := s.Delete(ctx, "n1:80"); err != nil {
			t.Error(err)
		}
		synctest.Wait() // at once again
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
		if want := []time.Duration{0, 10 * time.Millisecond, 2 * time.Second}; !slices.Equal(h.at, want) {
			t.Errorf("Snapshots at %v, want %v", h.at, want)
		}
		if want := []int{1, 1001, 1000}; !slices.Equal(h.sizes, want) {
			t.Errorf("Snapshots of %v, want %v", h.sizes, want)
		}
	})
}

// Fault row 24 at this level: with 10,000 nodes, calls stay fast while Snapshots are made. One good round is enough: a
// machine that is busy otherwise makes any single call late, and tells nothing of ours.
func TestStorm(t *testing.T) {
	s := source()
	for i := range 10_000 {
		if err := s.Set(t.Context(), nth(i), model.NodeWish{}); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		calls, p99, snapshots, took := storm(t, s)
		const pause = 10 * time.Millisecond // stored.Follower's
		t.Logf("%d calls in %s, p99 %s, %d Snapshots", calls, took, p99, snapshots)
		if limit := int(took/pause) + 2; snapshots < 1 || snapshots > limit {
			t.Errorf("%d Snapshots in %s, want at most %d", snapshots, took, limit)
		}
		if p99 < 50*time.Millisecond {
			return
		}
	}
	t.Error("want a p99 below 50 ms")
}

func nth(i int) string { return fmt.Sprintf("node-%05d:80", i) }

// storm deletes and sets nodes for half a second while Run works.
func storm(t *testing.T, s *Source) (calls int, p99 time.Duration, snapshots int, all time.Duration) {
	t.Helper()
	h := &notes{start: time.Now()}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx, h) }()
	var took []time.Duration
	for i := 0; time.Since(h.start) < 500*time.Millisecond; i++ {
		start := time.Now()
		do := s.Delete
		if i%2 == 1 {
			do = func(ctx context.Context, n string) error { return s.Set(ctx, n, model.NodeWish{}) }
		}
		err := do(ctx, nth(i/2*7%10_000))
		took = append(took, time.Since(start))
		if err != nil {
			t.Error(err)
			break
		}
	}
	all = time.Since(h.start)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run ended with %v", err)
	}
	slices.Sort(took)
	return len(took), took[len(took)*99/100], len(h.at), all
}

func FuzzSet(f *testing.F) {
	for _, s := range []string{"h:80", "[::1]:80", "10.0.0.1:80", "[fe80::1%eth0]:80", "a\nb:1", "unix@/x", ":80", "h:+80", "0x7f.1:80", "h..:80", "xn--a:65535", "*h:80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, n string) {
		s := source()
		if err := s.Set(t.Context(), n, model.NodeWish{}); err != nil {
			var p model.Problem
			if !errors.As(err, &p) || len(p.Error()) > 600 || strings.ContainsAny(p.Error(), "\r\n\x00") {
				t.Errorf("%q: error %q", n, err)
			}
			if len(s.List()) != 0 {
				t.Errorf("%q was refused and kept", n)
			}
			return
		}
		list := names(s)
		if len(list) != 1 {
			t.Fatalf("%q: %q", n, list)
		}
		snapshot := s.seen()
		if srv := snapshot.Offers[0].Servers[0]; !model.ValidName(strings.TrimPrefix(srv.Name, "*")) || srv.Many != (srv.Name[0] == '*') || srv.Port == 0 || srv.IP.IsValid() == (srv.Host != "") {
			t.Errorf("%q: server %+v", n, srv)
		}
		// The canonical form is the same node, and deletes it.
		if err := errors.Join(s.Set(t.Context(), list[0], model.NodeWish{}), s.Delete(t.Context(), list[0])); err != nil || len(s.List()) != 0 {
			t.Errorf("%q: canonical %q: %v, left %q", n, list[0], err, names(s))
		}
	})
}

// TestEarlier: the list of an earlier process is taken over with what was added and deleted by calls; what its flag named and ours does
// not is left out, and what is new in ours is there.
func TestEarlier(t *testing.T) {
	parseAll := func(list ...string) []model.Node {
		var out []model.Node
		for _, n := range list {
			parsed, err := model.ParseNode(n)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, parsed)
		}
		return out
	}
	flags := []string{"192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80"}
	first := New(Options{Service: "s", Initial: parseAll(flags...), Store: memory(), Log: quiet, Now: time.Now})
	for _, err := range []error{first.Set(t.Context(), "name:80", model.NodeWish{}), first.Set(t.Context(), "192.0.2.9:80", model.NodeWish{}), first.Delete(t.Context(), "192.0.2.2:80")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		flags, want []string
		policy      model.Policy
	}{
		"the same flags":    {flags: flags, want: []string{"192.0.2.1:80", "192.0.2.3:80", "192.0.2.9:80", "name:80"}},
		"one less":          {flags: flags[1:], want: []string{"192.0.2.3:80", "192.0.2.9:80", "name:80"}},
		"one more":          {flags: append(flags, "192.0.2.4:80"), want: []string{"192.0.2.1:80", "192.0.2.3:80", "192.0.2.4:80", "192.0.2.9:80", "name:80"}},
		"one is called too": {flags: append(flags, "192.0.2.9:80"), want: []string{"192.0.2.1:80", "192.0.2.3:80", "192.0.2.9:80", "name:80"}},
		"another policy": {flags: flags, policy: model.Policy{Deny: []netip.Prefix{netip.MustParsePrefix("192.0.2.8/30")}},
			want: []string{"192.0.2.1:80", "192.0.2.3:80", "name:80"}},
	} {
		next := New(Options{Service: "s", Initial: parseAll(test.flags...), Policy: test.policy, Earlier: &Earlier{parseAll(flags...), first.seen()}, Store: memory(), Log: quiet, Now: time.Now})
		if got := names(next); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, not %v", name, got, test.want)
		}
	}
	bad := model.Snapshot{Source: name, Offers: []model.Offer{{Owner: model.Owner{Source: name, Name: "no node"}}}}
	if next := New(Options{Service: "s", Earlier: &Earlier{Snapshot: bad}, Store: memory(), Log: quiet, Now: time.Now}); len(next.List()) != 0 || len(next.seen().Problems) != 1 {
		t.Errorf("%v", next.seen())
	}
}

// TestWishes: weights and states change the node they are for and nothing else, survive a restart that adopts, and are forgotten with the
// node.
func TestWishes(t *testing.T) {
	weight := func(n int) *model.Weight {
		w, err := model.NewWeight(n)
		if err != nil {
			t.Fatal(err)
		}
		return &w
	}
	admin := func(a model.Admin) *model.Admin { return &a }
	s := source(parsed(t, "10.0.0.1:80"))
	settled := func() bool { return !s.told() }
	for _, tt := range []struct {
		node  string
		wish  model.NodeWish
		want  string
		quiet bool
	}{
		{"10.0.0.1:80", model.NodeWish{Weight: weight(50)}, "[{10.0.0.1:80 10.0.0.1:80 50 ready}]", false},
		{"10.0.0.1:80", model.NodeWish{Admin: admin(model.Drain)}, "[{10.0.0.1:80 10.0.0.1:80 50 drain}]", false},
		{"10.0.0.1:80", model.NodeWish{}, "[{10.0.0.1:80 10.0.0.1:80 50 drain}]", true},
		{"10.0.0.1:80", model.NodeWish{Weight: weight(50), Admin: admin(model.Drain)}, "[{10.0.0.1:80 10.0.0.1:80 50 drain}]", true},
		{"*h:80", model.NodeWish{Weight: weight(0), Admin: admin(model.Maint)}, "[{*h:80 *h:80 0 maint} {10.0.0.1:80 10.0.0.1:80 50 drain}]", false},
		{"[::1]:80", model.NodeWish{}, "[{*h:80 *h:80 0 maint} {10.0.0.1:80 10.0.0.1:80 50 drain} {[::1]:80 ::1:80 1 ready}]", false},
		{"*h:80", model.NodeWish{Weight: weight(1), Admin: admin(model.Ready)}, "[{*h:80 *h:80 1 ready} {10.0.0.1:80 10.0.0.1:80 50 drain} {[::1]:80 ::1:80 1 ready}]", false},
	} {
		settled()
		before := fmt.Sprint(s.seen())
		sent := s.seen()
		if err := s.Set(t.Context(), tt.node, tt.wish); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(s.List()); got != tt.want {
			t.Errorf("%s %+v: %s, want %s", tt.node, tt.wish, got, tt.want)
		}
		if settled() != tt.quiet {
			t.Errorf("%s %+v: told of a change: %v", tt.node, tt.wish, tt.quiet)
		}
		if fmt.Sprint(sent) != before {
			t.Error("what was sent was changed")
		}
	}
	data, err := json.Marshal(s.seen())
	if err != nil {
		t.Fatal(err)
	}
	var kept model.Snapshot
	if err := json.Unmarshal(data, &kept); err != nil {
		t.Fatal(err)
	}
	next := New(Options{Service: "nodes", Initial: []model.Node{parsed(t, "10.0.0.1:80")}, Store: memory(), Log: quiet, Now: time.Now,
		Earlier: &Earlier{Initial: []model.Node{parsed(t, "10.0.0.1:80")}, Snapshot: kept}})
	if got, want := fmt.Sprint(next.List()), fmt.Sprint(s.List()); got != want {
		t.Errorf("after a restart %s, want %s", got, want)
	}
	if err := errors.Join(s.Delete(t.Context(), "10.0.0.1:80"), s.Set(t.Context(), "10.0.0.1:80", model.NodeWish{})); err != nil {
		t.Fatal(err)
	}
	if got := s.List()[1]; got.Weight.Int() != 1 || got.Admin != model.Ready {
		t.Errorf("a node that was deleted and added again is %+v", got)
	}
}
