// Package nodes is the source of single nodes: those of the flag --nodes and those that the node API adds. They are kept in a store,
// which several balancers may share.
//
//	PUT, DELETE --> Source.Set, Delete --> store.Mirror --> database
//	                Source.Run <-- Changed -- store.Mirror <-- database (what other balancers wrote as well)
//
// A call is answered when the store has taken it. Run's goroutine makes a Snapshot of all records, so that a storm of calls costs a
// bounded number of Snapshots. Each node is one Offer of one server, owned by the node.
//
// The nodes of the flag are written to the store at the start. They serve from the first moment on, also while the store cannot be
// reached.
//
// Invariants: a node that is offered was parsed, is allowed by this balancer's policy, and its name passes model.ValidName; what is
// refused changes nothing. A record that cannot be read is a Problem and stays as it is.
package nodes
