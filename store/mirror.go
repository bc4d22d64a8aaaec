package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
	"unicode/utf8"
)

// patience is how long a database may be silent before it counts as away. Nobody waits for it longer.
const patience = 2 * time.Second

// guard is how long Update waits at most: for the batch before its own, for its own, and for one more try.
const guard = 4 * patience

// Options are what a Mirror needs.
type Options struct {
	Open func(context.Context) (DB, error) // nil: only memory, where an Update is done at once and nothing is written but Copy
	Name string                            // the address without secrets, for messages
	Copy string                            // a file, 0600, for the records as they were last, for the next start; "": none
	Log  *slog.Logger
}

// Mirror has the records of a database in memory, and changes them there. Its methods may be called by any goroutine.
//
// The goroutine of Run alone calls the database, one call after the other, so that what it read and what it wrote come in one order. The
// mutex is held for constant time, or one pass over the records.
type Mirror struct {
	o    Options
	wake chan struct{} // something is queued; one place is enough
	copy chan struct{} // the records have changed since they were copied

	mu      sync.Mutex
	records []Record          // sorted; replaced, never changed
	fresh   map[string]Record // by key: changes that are not among records yet, in memory alone; without a value: a deletion
	views   []*View
	queue   []*request
	id      string // of the database that the records are from; "" until it was read
	loaded  bool
	away    *Away
	ended   bool
}

// New does no I/O.
func New(o Options) *Mirror {
	return &Mirror{o: o, wake: make(chan struct{}, 1), copy: make(chan struct{}, 1), fresh: map[string]Record{}, loaded: o.Open == nil}
}

// Standing says whether the records are those of the database, which was read at least once, and why the database cannot be reached now (an
// *Away), nil when it can.
func (m *Mirror) Standing() (loaded bool, away error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away != nil {
		away = m.away
	}
	return m.loaded, away
}

// request is one Update on its way.
type request struct {
	key    string
	change Change
	done   chan error // one place
	tries  int        // batches that failed with it; of Run's goroutine

	mu     sync.Mutex // nobody runs the change while the request is settled
	over   bool       // it has its answer
	ran    bool
	now    []byte // what the change gave last
	unsure bool   // a commit of now had no answer
}

// run is the Change that the database gets.
func (r *request) run(old []byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return nil, errOver
	}
	if r.unsure && same(old, r.now) {
		return old, nil // that commit was done
	}
	now, err := r.change(old)
	if err != nil {
		return nil, err
	}
	if now != nil {
		if err := checkValue(r.key, now); err != nil {
			return nil, err
		}
	}
	r.ran, r.now, r.unsure = true, bytes.Clone(now), false
	return r.now, nil
}

// errOver is for a database that still works on what was given up.
var errOver = errors.New("nobody waits for this change any more")

// settle gives the answer, unless there was one. After it the change is not run.
func (r *request) settle(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.over = true
		r.done <- err
	}
}

// fail gives the answer that the database is away.
func (r *request) fail(err error) {
	r.mu.Lock()
	if r.unsure && !errors.Is(err, ErrUnknown) {
		err = fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	r.mu.Unlock()
	r.settle(&Away{err})
}

// result is the record after the change.
func (r *request) result() Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Record{r.key, r.now}
}

// doubt notes that a commit had no answer.
func (r *request) doubt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unsure = r.ran
}

// same tells whether a value is another, where none is another than empty.
func same(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

func checkValue(key string, value []byte) error {
	switch {
	case len(value) > MaxValue:
		return &Refused{key, fmt.Sprintf("a value has at most %d bytes, this one has %d", MaxValue, len(value))}
	case !json.Valid(value) || !utf8.Valid(value):
		return &Refused{key, "a value is JSON in UTF-8"}
	}
	return nil
}

// Update changes the record of that key and returns after the change is durable in the database and visible here. An error is that of the
// change as it is, a *Refused when such a record cannot be kept, an *Away when the database cannot be reached, or that of ctx, and then
// nobody knows what becomes of the change.
func (m *Mirror) Update(ctx context.Context, key string, c Change) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	r := &request{key: key, change: c, done: make(chan error, 1)}
	if m.o.Open == nil {
		return m.updateMemory(r)
	}
	if err := m.enqueue(r); err != nil {
		return err
	}
	timer := time.NewTimer(guard)
	defer timer.Stop()
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		r.settle(ctx.Err())
	case <-timer.C:
		r.settle(&Away{fmt.Errorf("no answer for %v: %w", guard, ErrUnknown)})
	}
	return <-r.done // the answer may have come meanwhile
}

func (m *Mirror) enqueue(r *request) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.ended:
		return &Away{errStopped}
	case m.away != nil:
		return m.away
	}
	m.queue = append(m.queue, r)
	signal(m.wake)
	return nil
}

var errStopped = errors.New("we are stopping")

// updateMemory takes constant time: the records are put in order when somebody reads them.
func (m *Mirror) updateMemory(r *request) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, found := m.find(r.key)
	now, err := r.run(old)
	if err != nil || same(old, now) {
		return err
	}
	m.fresh[r.key] = Record{r.key, now}
	for _, v := range m.views {
		if v.kind != Kind(r.key) {
			continue
		}
		switch {
		case now == nil:
			v.extra--
		case !found:
			v.extra++
		}
		signal(v.changed)
	}
	signal(m.copy)
	return nil
}

// find gives the value as it is, whether it stands in order or not; m.mu is held.
func (m *Mirror) find(key string) (value []byte, found bool) {
	if r, ok := m.fresh[key]; ok {
		return r.Value, r.Value != nil
	}
	return Find(m.records, key)
}

// order puts what was changed in memory among the records; m.mu is held.
func (m *Mirror) order() {
	if len(m.fresh) == 0 {
		return
	}
	m.records = Merge(m.records, slices.Collect(maps.Values(m.fresh)))
	clear(m.fresh)
	for _, v := range m.views {
		if part := section(m.records, v.kind); !Equal(part, v.records) {
			v.records = part
		}
		v.extra = 0
	}
}

// dequeue takes at most that many requests off the queue.
func (m *Mirror) dequeue(most int) []*request {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := min(most, len(m.queue))
	batch := m.queue[:n:n]
	m.queue = m.queue[n:]
	if len(m.queue) > 0 {
		signal(m.wake)
	} else {
		m.queue = nil
	}
	return batch
}

// requeue puts requests before all others.
func (m *Mirror) requeue(batch []*request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queue = append(batch, m.queue...)
	signal(m.wake)
}

func signal(to chan struct{}) {
	select {
	case to <- struct{}{}:
	default: // the last signal was not read yet, that one will do
	}
}
