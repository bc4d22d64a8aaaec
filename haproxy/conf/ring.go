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
	homes := make([]uint64, len(addrs)) // home and index of each: they are sorted much faster than addresses
	var text []byte
	for i, a := range addrs {
		text = netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).AppendTo(text[:0])
		h := fnv.New64a()
		h.Write(text) //nolint:errcheck // a hash never fails
		homes[i] = (h.Sum64()%uint64(size)+1)<<32 | uint64(i)
	}
	slices.Sort(homes)
	ids := make([]uint32, len(addrs))
	free := slots{size: size, over: make(map[uint32]uint32, len(addrs))}
	var others []uint64
	for len(homes) > 0 {
		n := 1
		for n < len(homes) && homes[n]>>32 == homes[0]>>32 {
			n++
		}
		if n > 1 {
			slices.SortFunc(homes[:n], func(x, y uint64) int {
				a, b := addrs[uint32(x)], addrs[uint32(y)]
				return cmp.Or(a.Addr().Unmap().Compare(b.Addr().Unmap()), cmp.Compare(a.Port(), b.Port()), cmp.Compare(x, y))
			})
			others = append(others, homes[1:n]...)
		}
		ids[uint32(homes[0])] = free.next(uint32(homes[0] >> 32))
		homes = homes[n:]
	}
	for _, x := range others {
		if len(free.over) == int(size) {
			break
		}
		ids[uint32(x)] = free.next(uint32(x >> 32))
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
