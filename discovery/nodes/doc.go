// Package nodes is the source of single nodes: those of the flag --nodes and those that the node API adds. They are kept in
// memory.
//
// The API's calls (Set, Delete, List) change a list in constant time; Run's goroutine makes a Snapshot of it, so that a storm of calls costs a
// bounded number of Snapshots. Each node is one Offer of one server, owned by the node.
//
// Invariants: a node in the list was parsed, is allowed by the policy, and its name passes model.ValidName; what is refused
// changes nothing.
package nodes
