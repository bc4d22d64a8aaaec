package stored

import (
	"context"
	"errors"
	"time"

	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
)

// Snapshots are not made more often than each minPause, nor so often that they take more than a tenth of a core.
const (
	minPause = 10 * time.Millisecond
	share    = 10
)

// Follower says what the records of a store are.
type Follower struct {
	Store *store.Mirror
	View  *store.View
	Wake  <-chan struct{} // something beside the records has changed
	// Incomplete says that a HAProxy serves which may have more than is known without the store: then nothing is put before the store, or the
	// copy of it, has said something.
	Incomplete bool
	// Snapshot gives the source's whole truth, and a number that is another one when that is.
	Snapshot func() (model.Snapshot, uint64)
}

// Run puts a Snapshot now and after changes, until ctx ends.
func (f *Follower) Run(ctx context.Context, to discovery.Sink) error {
	said := said{to: to}
	for {
		start := time.Now()
		f.tell(&said)
		pause := time.NewTimer(max(minPause, share*time.Since(start)))
		select {
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		case <-pause.C:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.View.Changed():
		case <-f.Wake:
		}
	}
}

// said is what was told last.
type said struct {
	to      discovery.Sink
	put     bool
	version uint64
	away    string
}

// tell puts a Snapshot when there is something new, or says that the store is away, or that it is back.
func (f *Follower) tell(said *said) {
	loaded, err := f.Store.Standing()
	away := ""
	if err != nil {
		away = model.Printable(err.Error())
	}
	if !loaded && err == nil {
		return // the store is about to answer
	}
	if !loaded && f.Incomplete && len(f.View.Records()) == 0 {
		said.to.Down(errors.New(away))
		said.away = away
		return
	}
	next, version := f.Snapshot()
	next.Away = away
	switch {
	case !said.put || version != said.version:
		said.to.Put(next)
		said.put, said.version = true, version
	case away != said.away && away != "":
		said.to.Down(errors.New(away))
	case away != said.away:
		said.to.Down(nil)
	}
	said.away = away
}
