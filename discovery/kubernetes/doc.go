// Package kubernetes is the source of pods: those that a label selector or a service of a cluster names are servers of the node pool.
//
//	API server --list, watch--> world --Snapshot--> Collector
//
// Listing and watching are client-go's (its Reflector, the lower half of its informers): what the API server says of versions that are
// gone, of bookmarks and of tokens that are renewed is theirs to know. Our own is what is kept of an object, which is a hundred bytes,
// what becomes of it, and how often a server that is away is asked.
//
// Invariants:
//   - A pod is offered while it has an address and is ready. It is offered no more from the moment that the cluster says that it is to go
//     or is not ready: that is how the balancer drains.
//   - What an event or a list says was said by the cluster (model.Asked). What a list leaves out was not, and may be doubted.
//   - While the API server is away the last truth stays.
//   - Server names are addresses, ADDRESS:PORT as those of nodes: every balancer that follows the same pods has the same ring.
//   - Text of the cluster becomes types here; names of pods that are none are left out.
package kubernetes
