// Package stored runs a source whose truth is the records of a store: it puts what they are whenever they change, and says when the store
// is away, while the records that were known last go on being put.
//
//	store.View.Changed --> Follower.Run --> Snapshot (the source's own) --> discovery.Sink
//
// Nothing is put before the store has answered or has turned out to be away: a truth that is about to be replaced would only make noise.
package stored
