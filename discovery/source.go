package discovery

import (
	"context"

	"github.com/fnlb/fnlb/model"
)

// Source finds backends in one world: flags and the node API, an engine, a cluster.
type Source interface {
	// Name is the source's name in Status and in owners; it never changes.
	Name() string
	// Run tells to what the source knows, and every change of it, until ctx ends; then it returns. A Run that returns
	// before is started again later, and the source counts as down until it says something.
	Run(ctx context.Context, to Sink) error
}

// Sink takes what a source says. Neither call blocks, and both may be called from any goroutine.
type Sink interface {
	// Put says the whole of what the source knows; the newest wins. The Snapshot must not be changed afterwards. A source
	// that puts is up, unless the Snapshot says that it is Away.
	Put(model.Snapshot)
	// Down says that the source cannot see its world, and why; its last Snapshot stays. Nil means that it sees it again.
	Down(error)
}

// Static is a Source that says one thing once: what the flags ask for.
type Static struct{ Snapshot model.Snapshot }

// Name is the source's name in the Snapshot.
func (s Static) Name() string { return s.Snapshot.Source }

// Run puts the Snapshot and waits for ctx to end.
func (s Static) Run(ctx context.Context, to Sink) error {
	to.Put(s.Snapshot)
	<-ctx.Done()
	return ctx.Err()
}
