package conf

import (
	"cmp"
	"hash/fnv"
	"net/netip"
	"slices"
)

// ringSize is the number of ids: only an id modulo 2^20 reaches HAProxy's ring, and 0 is none.
const ringSize = 1<<20 - 1

// RingIDs gives each address its id for `server … id`, from 1 to 1,048,575, at the same index. They place the servers on the
// ring of a consistent hash, so the same addresses get the same ids everywhere and in any order.
//
// The id is the 64-bit FNV-1a hash of the address's canonical text ("192.0.2.1:80", "[2001:db8::1]:80", IPv4 in IPv6 as IPv4)
// modulo 1,048,575, plus 1. Of several addresses with one id the lowest keeps it; the others, by id and then address, take the
// next one upwards that is free when every lowest has its own, past the end from 1 on. Equal addresses get different ids. Addresses
// beyond the 1,048,575th have none: 0.
func RingIDs(addrs []netip.AddrPort) []uint32 { return ringIDs(addrs, ringSize) }

func ringIDs(addrs []netip.AddrPort, size uint32) []uint32 {
	type place struct {
		addr  netip.AddrPort
		home  uint32
		index int
	}
	places := make([]place, len(addrs))
	for i, a := range addrs {
		a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		h := fnv.New64a()
		h.Write([]byte(a.String())) //nolint:errcheck // a hash never fails
		places[i] = place{a, uint32(h.Sum64()%uint64(size)) + 1, i}
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.home, b.home), a.addr.Compare(b.addr), cmp.Compare(a.index, b.index))
	})
	ids := make([]uint32, len(addrs))
	free := slots{size: size, over: map[uint32]uint32{}}
	for i, p := range places {
		if i == 0 || places[i-1].home != p.home {
			ids[p.index] = free.next(p.home)
		}
	}
	for i, p := range places {
		if i > 0 && places[i-1].home == p.home && len(free.over) < int(size) {
			ids[p.index] = free.next(p.home)
		}
	}
	return ids
}

// slots knows which of the ids from 1 to size are taken: over leads from each of these to a later one, and all between are taken.
type slots struct {
	size uint32
	over map[uint32]uint32
}

// next takes the first free id from id upwards, around the end; there must be one. Paths are halved on the way, so that many
// equal addresses cost no more than different ones.
func (s slots) next(id uint32) uint32 {
	for {
		to, taken := s.over[id]
		if !taken {
			s.over[id] = id%s.size + 1
			return id
		}
		if far, taken := s.over[to]; taken {
			s.over[id] = far
		}
		id = to
	}
}
