package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// Bounds of calls, and pauses before the database is opened again.
const (
	openLimit  = 5 * time.Second
	loadLimit  = 5 * time.Second
	wholeLimit = 10 * time.Second // the first Load of a connection may be of very much
	closeWait  = time.Second
	endLimit   = 10 * time.Second       // for calls that were given up to end
	grace      = 500 * time.Millisecond // for a call to end after its context has
	firstPause = 100 * time.Millisecond
	longPause  = 5 * time.Second
	shortLife  = time.Second // a connection that lived shorter is not replaced without a pause
	batchMost  = 256         // changes in one transaction
)

// errSilent is that the database does not answer.
var errSilent = fmt.Errorf("no answer for %v", patience)

// Run opens the database, keeps the records as they are there and makes the changes, until ctx ends. It opens the database again whenever
// it was lost.
func (m *Mirror) Run(ctx context.Context) error {
	copying, stop := context.WithCancel(context.WithoutCancel(ctx))
	var beside sync.WaitGroup
	beside.Go(func() { m.keepCopy(copying) })
	if m.o.Open == nil {
		<-ctx.Done()
	} else {
		r := runner{m: m, most: batchMost}
		r.run(ctx)
	}
	m.end()
	stop()
	beside.Wait()
	return ctx.Err()
}

// end answers whoever still waits.
func (m *Mirror) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	for _, r := range m.queue {
		r.fail(errStopped)
	}
	m.queue = nil
}

// runner is what only Run's goroutine knows.
type runner struct {
	m     *Mirror
	most  int            // changes in one transaction, fewer after so many were too many
	calls sync.WaitGroup // what calls the database
	since time.Time      // it is away
	said  map[string]bool
}

func (r *runner) run(ctx context.Context) {
	pause := time.Duration(0)
	for ctx.Err() == nil {
		lived, err := r.connect(ctx)
		switch {
		case ctx.Err() != nil:
		case lived == 0:
			r.goAway(err)
			pause = min(max(2*pause, firstPause), longPause)
		case lived < shortLife:
			pause = firstPause
		default:
			pause = 0
		}
		rest(ctx, pause)
	}
	ended := make(chan struct{})
	go func() { // ends with the calls, which nobody can force to
		r.calls.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(endLimit):
	}
}

// rest waits, not all balancers for the same time.
func rest(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(time.Duration((0.8 + 0.4*rand.Float64()) * float64(pause)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// connect opens the database and lives with it until it is lost. It says for how long, 0 when it never could be used.
func (r *runner) connect(ctx context.Context) (lived time.Duration, err error) {
	db, err := call(ctx, r, openLimit, func(ctx context.Context) (DB, error) {
		db, err := r.m.o.Open(ctx)
		if err == nil && ctx.Err() != nil { // nobody waits any more
			return nil, errors.Join(ctx.Err(), db.Close())
		}
		return db, err
	})
	if err != nil {
		return 0, err
	}
	lived, err = r.live(ctx, db)
	r.m.o.Log.Debug("the connection to the database has ended", "database", r.m.o.Name, "error", err)
	closed := make(chan struct{})
	r.calls.Go(func() {
		if err := db.Close(); err != nil {
			r.m.o.Log.Debug("the connection to the database does not close well", "database", r.m.o.Name, "error", err)
		}
		close(closed)
	})
	select {
	case <-closed:
	case <-time.After(closeWait): // it may be slow to say goodbye to a server that is gone
	}
	return lived, err
}

func (r *runner) live(ctx context.Context, db DB) (lived time.Duration, err error) {
	if err := r.load(ctx, db, wholeLimit); err != nil {
		return 0, err
	}
	// Being read says nothing about writing: a disk may be full, a server somebody's replica.
	if _, err := call(ctx, r, openLimit, func(ctx context.Context) ([]error, error) { return db.Apply(ctx, nil) }); err != nil {
		return 0, err
	}
	r.back()
	begin := time.Now()
	watching, cancel := context.WithCancel(ctx)
	moved, ended := make(chan struct{}, 1), make(chan error, 1)
	r.calls.Go(func() { ended <- db.Watch(watching, func() { signal(moved) }) })
	err = r.serve(ctx, db, moved, ended)
	cancel()
	return max(time.Since(begin), 1), err
}

// serve makes changes and reads those of others until something goes wrong.
func (r *runner) serve(ctx context.Context, db DB, moved <-chan struct{}, ended <-chan error) error {
	for ctx.Err() == nil { // looked at first: select takes any
		select {
		case <-ctx.Done():
		case err := <-ended:
			return fmt.Errorf("watch: %w", err)
		case <-r.m.wake:
			if err := r.batch(ctx, db); err != nil {
				return err
			}
		case <-moved:
			if err := r.load(ctx, db, loadLimit); err != nil {
				return err
			}
			r.back()
		}
	}
	return ctx.Err()
}

type answer[T any] struct {
	is  T
	err error
}

// call calls f, which gets a context that ends after limit, and returns soon after that whether f does or not. A database that is silent for
// our patience is told to be away meanwhile.
func call[T any](parent context.Context, r *runner, limit time.Duration, f func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(parent, limit)
	defer cancel()
	answers := make(chan answer[T], 1)
	r.calls.Go(func() {
		is, err := f(ctx)
		answers <- answer[T]{is, err}
	})
	silent := time.NewTimer(patience)
	defer silent.Stop()
	ended, over := ctx.Done(), (<-chan time.Time)(nil)
	for {
		select {
		case a := <-answers:
			if a.err != nil && parent.Err() == nil && ctx.Err() != nil {
				a.err = errSilent
			}
			return a.is, a.err
		case <-silent.C:
			r.goAway(errSilent)
		case <-ended:
			ended, over = nil, time.After(grace)
		case <-over:
			var none T
			return none, errSilent
		}
	}
}

// batch makes what is queued in one transaction. What is asked for meanwhile is the next one.
func (r *runner) batch(ctx context.Context, db DB) error {
	batch := r.m.dequeue(r.most)
	if len(batch) == 0 {
		return nil
	}
	edits := make([]Edit, len(batch))
	for i, q := range batch {
		edits[i] = Edit{Key: q.key, Change: q.run}
	}
	// Not to be cut by a stop: that answer may be had.
	errs, err := call(context.WithoutCancel(ctx), r, patience, func(ctx context.Context) ([]error, error) { return db.Apply(ctx, edits) })
	if err != nil {
		r.failed(batch, err)
		return err
	}
	r.most = min(2*r.most, batchMost)
	var written []Record
	for i, q := range batch {
		if errs[i] == nil {
			written = append(written, q.result())
		}
	}
	r.m.mu.Lock()
	r.m.publish(Merge(r.m.records, written))
	r.m.mu.Unlock()
	for i, q := range batch {
		q.settle(errs[i])
	}
	return nil
}

// failed has the batch tried once more on another connection, unless that was done, or nobody answers at all.
func (r *runner) failed(batch []*request, err error) {
	silent := errors.Is(err, errSilent)
	if silent {
		err = fmt.Errorf("%w: %w", ErrUnknown, err)
		r.most = max(1, len(batch)/2) // it may have been too much at once
	}
	var again []*request
	for _, q := range batch {
		if errors.Is(err, ErrUnknown) {
			q.doubt()
		}
		if q.tries++; q.tries < 2 && !silent {
			again = append(again, q)
			continue
		}
		q.fail(err)
	}
	r.m.requeue(again)
	if len(again) < len(batch) {
		r.goAway(err)
	}
}

// load reads the database.
func (r *runner) load(ctx context.Context, db DB, limit time.Duration) error {
	read := func() (Contents, error) { return call(ctx, r, limit, db.Load) }
	c, err := read()
	if err != nil {
		return err
	}
	m := r.m
	m.mu.Lock()
	id, known := m.id, m.records
	m.mu.Unlock()
	if id != "" && id != c.ID && len(known) > 0 {
		if err := r.restore(ctx, db, known); err != nil {
			return err
		}
		if c, err = read(); err != nil {
			return err
		}
	}
	m.mu.Lock()
	first := !m.loaded
	m.id, m.loaded = c.ID, true
	m.publish(c.Records)
	if first {
		m.stand()
	}
	m.mu.Unlock()
	if first {
		m.o.Log.Info("the database is read", "database", m.o.Name, "records", len(c.Records))
	}
	return nil
}

// restore writes what is known to a database that was emptied. What others have written there or deleted since stays so.
func (r *runner) restore(ctx context.Context, db DB, known []Record) error {
	refused := 0
	for part := range slices.Chunk(known, batchMost) {
		edits := make([]Edit, len(part))
		for i, record := range part {
			edits[i] = Edit{Key: record.Key, Lost: true, Change: func(old []byte) ([]byte, error) {
				if old != nil {
					return old, nil
				}
				return record.Value, nil
			}}
		}
		errs, err := call(ctx, r, loadLimit, func(ctx context.Context) ([]error, error) { return db.Apply(ctx, edits) })
		if err != nil {
			return err
		}
		for _, err := range errs {
			if err != nil {
				refused++
			}
		}
	}
	r.m.o.Log.Warn("the database was emptied: what was known of it is written back", "database", r.m.o.Name, "records", len(known), "refused", refused)
	return nil
}

// goAway has changes refused until the database is back, those that wait for it first.
func (r *runner) goAway(err error) {
	if errors.Is(err, ErrUnknown) { // that is about one batch
		err = errors.New(strings.Replace(err.Error(), ErrUnknown.Error()+": ", "", 1))
	}
	m := r.m
	away := &Away{err}
	m.mu.Lock()
	first := m.away == nil
	m.away = away
	for _, q := range m.queue {
		q.fail(err)
	}
	m.queue = nil
	if first {
		r.since, r.said = time.Now(), map[string]bool{}
	}
	reason := shape(err)
	fresh := !r.said[reason]
	if fresh {
		m.stand()
	}
	m.mu.Unlock()
	if fresh && len(r.said) < 20 {
		r.said[reason] = true
		m.o.Log.Warn("the database is away: reading goes on with what is known, changes are refused", "database", m.o.Name, "error", err)
	}
}

// shape is an error without its numbers, such as ports and times, so that the same reason is told once.
func shape(err error) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, err.Error())
}

func (r *runner) back() {
	m := r.m
	m.mu.Lock()
	was := m.away != nil
	m.away = nil
	if was {
		m.stand()
	}
	m.mu.Unlock()
	if was {
		m.o.Log.Info("the database is back", "database", m.o.Name, "after", time.Since(r.since).Round(time.Millisecond))
	}
}
