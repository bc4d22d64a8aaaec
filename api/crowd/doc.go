// Package crowd bounds the connections of a listener without letting anybody lock others out.
//
// Nobody is turned away: when there is one connection too many, the one goes that has made no progress for the longest time, among those of
// the peer that has most. So a peer with thousands of connections only pushes out its own, and even from one address a request is served as
// long as it takes less time than as many new connections as there may be.
package crowd
