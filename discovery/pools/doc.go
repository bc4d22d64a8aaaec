// Package pools is the source of pools of backends behind patterns, which programs add and change over gRPC. They are kept in a store, one
// record a pool, which several balancers may share.
//
//	api/rpc --> Source.AddPool, AddMember, … --> store.Mirror --> database
//	            Source.Run <-- discovery/stored <-- store.Mirror
//	            Spares.Run: services without servers, for pools to come
//
// Each pool is one Offer: a route, a service and its servers. A backend is probed by the pool's check before it is stored; AddMember returns
// when it serves, or is soon to.
//
// Invariants: no two pools have one service, and all balancers of a store agree who has which; a pool in the store was parsed, and its
// pattern is the canonical one; what is refused changes nothing; a record that cannot be read is a Problem and stays as it is.
package pools
