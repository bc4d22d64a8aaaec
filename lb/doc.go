// Package lb is a reverse proxy that sends each path to one of several nodes by a consistent hash, and to another node while that
// one is away. It stands alone: it needs the standard library and nothing else of this repository.
//
// The old calls are those of github.com/iron-io/functions/lb: [ConsistentHashReverseProxy] gives a whole proxy, [NewRoundTripper] only
// the transport that falls back. [New] gives a [Balancer], which has more: nodes that change at run time, health checks, bounded
// loads, a logger and an observer.
//
// # Nodes
//
// A node is HOST:PORT or an http or https URL, which may have a base path and a query: with the node http://10.0.0.5:8080/base a
// request for /dir goes to /base/dir. IPv6 addresses stand in brackets. The Host header of the client stays as it is, and its
// address is added to X-Forwarded-For.
//
// # Which node
//
// The decoded path, without the query, is hashed by XXH64 (Yann Collet, https://github.com/Cyan4973/xxHash) into one of 65,536 slots. Each
// slot belongs to the node with the highest score for it (rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings to
// increase hit rates", 1998); the score is the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
// generators", 2014) over the slot and the XXH64 of the node. What follows:
//
//   - The choice depends on the path and on the set of nodes. Order and duplicates do not matter, no seed is random, so that all
//     processes with the same nodes agree.
//   - A node that leaves moves its own paths and no others, which spread over all who stay; one that joins takes paths from all.
//   - Choosing is one hash and one look into a table, whatever the number of nodes. Ten nodes have their share of the slots within about
//     1 % (standard deviation), a hundred within 4 %, a thousand within 12 %.
//
// The hash is part of what is stable: a version that chooses other nodes would be a new major version.
//
// # When a node fails
//
// When a request fails, the other nodes are asked at once who accepts TCP connections; requests that fail meanwhile share that
// search. The first in the order of the list becomes the fallback, and has all requests of the dead node until that one accepts
// connections again, which is looked at each half second. When the fallback dies too, the next one is looked for; when nobody answers,
// the error is [ErrNoFallbackNodeFound]. A node that accepts connections and yet failed a request keeps its paths; that request alone is
// tried on one other node.
//
// A request is sent again only where that can do no harm: when nothing of it was ever written to the node, or when its method is idempotent
// (RFC 9110, section 9.2.2) or it has an Idempotency-Key; a body of which something was read must in addition come again from GetBody.
// Otherwise the caller has the first error. A client that has gone away, or whose own body fails, says nothing about the node.
//
// # Invariants
//
//   - Nodes and table are a snapshot behind an atomic pointer, never changed after it was stored.
//   - Who is away and who searches is changed under one mutex, which is never held over a call to the network or of the caller's code.
//   - A goroutine is started for a search and for each node that is away, never for a request. All end when the context of the
//     constructor, or of [Balancer.Run], ends.
package lb
