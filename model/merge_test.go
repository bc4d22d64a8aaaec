package model

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(minutes int) time.Time { return t0.Add(time.Duration(minutes) * time.Minute) }

func pool(owner string, since int, port uint16, service string) Offer {
	b := Bind{Port: port}
	return Offer{
		Owner: Owner{"flags", owner}, Since: at(since),
		Rows: Rows{
			Listeners: []Listener{{Bind: b}},
			Routes:    []Route{{Bind: b, Service: service}},
			Services:  []Service{{Name: service}},
		},
	}
}

func node(name string, since int, service, ip string) Offer {
	return Offer{
		Owner: Owner{"nodes", name}, Since: at(since),
		Rows: Rows{Servers: []Server{{Service: service, Name: name, IP: netip.MustParseAddr(ip), Port: 80}}},
	}
}

func route(owner string, since int, pattern string) Offer {
	p, err := ParsePattern(pattern)
	if err != nil {
		panic(err)
	}
	return Offer{
		Owner: Owner{"pools", owner}, Since: at(since),
		Rows: Rows{Routes: []Route{{Bind: Bind{Port: 80}, Pattern: p, Service: owner}}, Services: []Service{{Name: owner}}},
	}
}

func TestMerge(t *testing.T) {
	tests := map[string]struct {
		offers   []Offer
		accepted []string // owners
		problems []string // owner: reason
	}{
		"nothing": {},
		"a pool and its nodes": {
			offers:   []Offer{pool("p", 0, 80, "s"), node("a", 1, "s", "192.0.2.1"), node("b", 2, "s", "192.0.2.2")},
			accepted: []string{"flags p", "nodes a", "nodes b"},
		},
		"the older of two that differ stays": {
			offers:   []Offer{pool("young", 5, 80, "other"), pool("old", 1, 80, "s")},
			accepted: []string{"flags old"},
			problems: []string{"flags young: listener :80 leads to service s by flags old"},
		},
		"a default yields to a younger one": {
			offers: []Offer{func() Offer { o := pool("default", 0, 80, "other"); o.Yields = true; return o }(), pool("asked", 9, 80, "s")},

			accepted: []string{"flags asked"},
			problems: []string{"flags default: listener :80 leads to service s by flags asked"},
		},
		"ties go by owner": {
			offers:   []Offer{pool("b", 1, 80, "other"), pool("a", 1, 80, "s")},
			accepted: []string{"flags a"},
			problems: []string{"flags b: listener :80 leads to service s by flags a"},
		},
		"equal rows are shared": {
			offers:   []Offer{pool("a", 1, 80, "s"), pool("b", 2, 80, "s")},
			accepted: []string{"flags a", "flags b"},
		},
		"routes of one listener": {
			offers:   []Offer{pool("p", 0, 80, "s"), route("a", 1, "h/a/"), route("b", 2, "h/a"), route("c", 3, "/a/")},
			accepted: []string{"flags p", "pools a", "pools b", "pools c"},
		},
		"the same route": {
			offers:   []Offer{pool("p", 0, 80, "s"), route("b", 2, "H./a/"), route("a", 1, "h/a/")},
			accepted: []string{"flags p", "pools a"},
			problems: []string{"pools b: h/a/ of listener :80 leads to service a by pools a"},
		},
		"the same route otherwise": {
			offers: []Offer{pool("p", 0, 80, "s"), route("a", 1, "/a/"), func() Offer {
				o := route("b", 2, "/a/")
				o.Services, o.Routes[0].Service, o.Routes[0].Slash = nil, "a", false
				return o
			}()},
			accepted: []string{"flags p", "pools a"},
			problems: []string{"pools b: /a[/…] of listener :80 leads to service a by pools a"},
		},
		"a route that is none": {
			offers:   []Offer{pool("p", 0, 80, "s"), func() Offer { o := route("a", 1, "/a/"); o.Routes[0].Path = "/a b"; return o }()},
			accepted: []string{"flags p"},
			problems: []string{`pools a: route "/a b/" of listener :80: " " is no character of a path; write it as %20`},
		},
		"a base path that is none": {
			offers:   []Offer{func() Offer { o := pool("p", 0, 80, "s"); o.Services[0].BasePath = "/a/"; return o }()},
			problems: []string{`flags p: base path "/a/" of service s: it ends in /; leave that out, and none at all where nothing is to be put before the path`},
		},
		"two certificates on one listener": {
			offers:   []Offer{func() Offer { o := pool("p", 0, 80, "s"); o.Routes[0].Cert = "x"; return o }(), func() Offer { o := route("a", 1, "/a/"); o.Routes[0].Cert = "y"; return o }()},
			accepted: []string{"flags p"},
			problems: []string{"pools a: listener :80 has another certificate by flags p"},
		},
		"overlapping listeners": {
			offers: []Offer{pool("a", 1, 80, "s"), func() Offer {
				o := pool("b", 2, 80, "s")
				o.Listeners[0].Bind.IP = netip.MustParseAddr("127.0.0.1")
				o.Routes[0].Bind = o.Listeners[0].Bind
				return o
			}()},
			accepted: []string{"flags a"},
			problems: []string{"flags b: listener 127.0.0.1:80 overlaps :80 of flags a"},
		},
		"a server without its service": {
			offers:   []Offer{node("a", 1, "gone", "192.0.2.1")},
			problems: []string{"nodes a: service gone does not exist"},
		},
		"who falls by a dangling name no longer stands in the way": {
			offers: []Offer{
				func() Offer { o := pool("broken", 0, 80, "x"); o.Services = nil; return o }(),
				pool("p", 1, 80, "s"),
			},
			accepted: []string{"flags p"},
			problems: []string{"flags broken: service x does not exist"},
		},
		"the same server at another address": {
			offers:   []Offer{pool("p", 0, 80, "s"), node("a", 1, "s", "192.0.2.1"), func() Offer { o := node("a", 2, "s", "192.0.2.9"); o.Owner.Source = "z"; return o }()},
			accepted: []string{"flags p", "nodes a"},
			problems: []string{"z a: server a of service s is another one at nodes a"},
		},
		"one owner twice": {
			offers:   []Offer{pool("p", 0, 80, "s"), pool("p", 1, 81, "s")},
			accepted: []string{"flags p"},
			problems: []string{"flags p: its source offered it twice"},
		},
		"names that are no words": {
			offers:   []Offer{pool("p", 0, 80, "s s"), pool("q", 1, 81, "s"), node("a\nb", 2, "s", "192.0.2.1")},
			accepted: []string{"flags q"},
			problems: []string{`flags p: service name "s s" has characters other than A-Z a-z 0-9 _ . : -`, "nodes a\nb: server name \"a\\nb\" has characters other than A-Z a-z 0-9 _ . : -"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			st, problems := Merge(test.offers)
			var accepted, reasons []string
			for _, o := range st.Offers {
				accepted = append(accepted, o.Owner.String())
			}
			for _, p := range problems {
				reasons = append(reasons, p.Owner.String()+": "+p.Reason)
			}
			if !slices.Equal(accepted, test.accepted) {
				t.Errorf("accepted %q, want %q", accepted, test.accepted)
			}
			if !slices.Equal(reasons, test.problems) {
				t.Errorf("problems %q, want %q", reasons, test.problems)
			}
		})
	}
}

// TestMergeOrder: any order of the same offers gives the same State, and nothing that was sent is changed.
func TestMergeOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var offers []Offer
		for i := range 12 {
			switch r.IntN(3) {
			case 0:
				offers = append(offers, pool(fmt.Sprint("p", i), r.IntN(3), uint16(80+r.IntN(2)), fmt.Sprint("s", r.IntN(2))))
			default:
				o := node(fmt.Sprint("n", r.IntN(4)), r.IntN(3), fmt.Sprint("s", r.IntN(3)), fmt.Sprint("192.0.2.", r.IntN(3)))
				o.Owner.Name = fmt.Sprint("owner", i)
				o.Yields = r.IntN(4) == 0
				offers = append(offers, o)
			}
		}
		want, wantProblems := Merge(offers)
		before := slices.Clone(offers)
		r.Shuffle(len(offers), func(i, j int) { offers[i], offers[j] = offers[j], offers[i] })
		got, gotProblems := Merge(offers)
		if !got.Equal(want) || !reflect.DeepEqual(gotProblems, wantProblems) {
			t.Fatalf("another order gives another State:\n%+v\n%+v", got, want)
		}
		if len(got.Offers)+len(gotProblems) < len(before) {
			t.Fatalf("an offer was left out without a word: %d accepted, %d problems, %d offers", len(got.Offers), len(gotProblems), len(before))
		}
		again, _ := Merge(got.Offers)
		if !again.Equal(got) {
			t.Fatal("merging the accepted offers again gives another State")
		}
	}
}

func TestBindOverlaps(t *testing.T) {
	b := func(ip string, port uint16) Bind {
		if ip == "" {
			return Bind{Port: port}
		}
		return Bind{IP: netip.MustParseAddr(ip), Port: port}
	}
	tests := []struct {
		a, b Bind
		want bool
	}{
		{b("", 80), b("127.0.0.1", 80), true},
		{b("", 80), b("::1", 80), true},
		{b("", 80), b("", 81), false},
		{b("0.0.0.0", 80), b("::1", 80), false},
		{b("0.0.0.0", 80), b("10.0.0.1", 80), true},
		{b("::", 80), b("10.0.0.1", 80), true},
		{b("10.0.0.2", 80), b("10.0.0.1", 80), false},
		{b("10.0.0.1", 80), b("10.0.0.1", 80), true},
	}
	for _, test := range tests {
		if test.a.Overlaps(test.b) != test.want || test.b.Overlaps(test.a) != test.want {
			t.Errorf("%s and %s: want %v", test.a, test.b, test.want)
		}
	}
}

func BenchmarkMerge10000(b *testing.B) {
	offers := []Offer{pool("p", 0, 80, "s")}
	for i := range 10000 {
		offers = append(offers, node(fmt.Sprint("n", i), i, "s", fmt.Sprintf("10.0.%d.%d", i/250, i%250)))
	}
	for b.Loop() {
		Merge(offers)
	}
}
