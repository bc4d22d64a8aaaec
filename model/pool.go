package model

import (
	"net/netip"
	"strconv"
)

// Pool is a set of backends behind a pattern, as the gRPC service knows it. Requests go to the less busy one of two that are chosen at
// random.
type Pool struct {
	Pattern string // as it was sent (ParsePattern reads it)
	Check   Check  // all Asks must pass
}

// Member is one backend of a pool.
type Member struct {
	IP       netip.Addr // without zone
	Port     uint16
	BasePath string // put before the path of each request: empty, or /NAME… without a slash at the end
}

// Name is the name of the member's server: its address, without brackets.
func (m Member) Name() string { return m.IP.String() + ":" + strconv.Itoa(int(m.Port)) }

// PoolRow is a pool as its source lists it.
type PoolRow struct {
	Pool
	Service string   // Name of its Service
	Members []Member // sorted by address
}
