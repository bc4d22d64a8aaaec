package conf

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// address is one of many different ones.
func numbered(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 8080)
}

// colliding groups addresses by the id that each would get alone, until a group of the wanted size is found.
func colliding(t *testing.T, size int) []netip.AddrPort {
	t.Helper()
	homes := map[uint32][]netip.AddrPort{}
	for n := range 1 << 22 {
		a := numbered(n)
		id := RingIDs([]netip.AddrPort{a})[0]
		homes[id] = append(homes[id], a)
		if len(homes[id]) == size {
			return homes[id]
		}
	}
	t.Fatal("no collision found")
	return nil
}

// The ids are on disks and in other balancers: they must never change.
func TestRingIDsStayTheSame(t *testing.T) {
	for addr, want := range map[string]uint32{
		"10.0.0.1:80":           457641,
		"[::ffff:10.0.0.1]:80":  457641,
		"[2001:db8::1]:8080":    974258,
		"192.168.255.254:65535": 848927,
	} {
		if got := RingIDs([]netip.AddrPort{netip.MustParseAddrPort(addr)})[0]; got != want {
			t.Errorf("%s: %d, want %d", addr, got, want)
		}
	}
}

func TestRingIDsCollisions(t *testing.T) {
	group := colliding(t, 3)
	home := RingIDs(group[:1])[0]
	var neighbour netip.AddrPort // whose own id is the next one
	for n := 0; ; n++ {
		if a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, byte(n >> 16), byte(n >> 8), byte(n)}), 80); RingIDs([]netip.AddrPort{a})[0] == home%ringSize+1 {
			neighbour = a
			break
		}
	}
	in := []netip.AddrPort{group[2], neighbour, group[0], group[1]}
	want := []uint32{home + 3, home + 1, home, home + 2} // by address within the group, and the neighbour keeps its own
	if got := RingIDs(in); !slices.Equal(got, want) {
		t.Errorf("got %d, want %d", got, want)
	}
	slices.Reverse(in)
	slices.Reverse(want)
	if got := RingIDs(in); !slices.Equal(got, want) {
		t.Errorf("reversed: got %d, want %d", got, want)
	}
}

func TestRingIDsAreDistinctAndIndependentOfOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 2, 100, 20_000} {
		addrs := make([]netip.AddrPort, n)
		for i := range addrs {
			addrs[i] = numbered(i)
		}
		byAddr := map[netip.AddrPort]uint32{}
		seen := map[uint32]bool{}
		for i, id := range RingIDs(addrs) {
			if id < 1 || id > ringSize || seen[id] {
				t.Fatalf("id %d of %s is taken or out of range", id, addrs[i])
			}
			seen[id], byAddr[addrs[i]] = true, id
		}
		random.Shuffle(n, func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
		for i, id := range RingIDs(addrs) {
			if byAddr[addrs[i]] != id {
				t.Fatalf("id of %s depends on the order", addrs[i])
			}
		}
	}
}

func TestRingIDsOfEqualAddresses(t *testing.T) {
	addrs := make([]netip.AddrPort, 20_000)
	for i := range addrs {
		addrs[i] = numbered(7)
	}
	ids := RingIDs(addrs)
	slices.Sort(ids)
	if len(slices.Compact(ids)) != len(addrs) {
		t.Error("ids are not distinct")
	}
}

func TestRingIDsWhenFull(t *testing.T) {
	for _, more := range []int{-1, 0, 1, 50} {
		const size = 100
		addrs := make([]netip.AddrPort, size+more)
		for i := range addrs {
			addrs[i] = numbered(i)
		}
		ids := ringIDs(addrs, size)
		slices.Sort(ids)
		none := max(more, 0)
		if len(slices.Compact(slices.Clone(ids[none:]))) != size+min(more, 0) || none > 0 && ids[none-1] != 0 || ids[none] == 0 {
			t.Errorf("%d more than fit: ids %d", more, ids)
		}
	}
}

func BenchmarkRingIDs(b *testing.B) {
	addrs := make([]netip.AddrPort, 10_000)
	for i := range addrs {
		addrs[i] = numbered(i)
	}
	for b.Loop() {
		RingIDs(addrs)
	}
}
