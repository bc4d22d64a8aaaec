package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/fnlb/fnlb/store"
)

// Memory is a server of a database that is only memory. Its faults are turned on and off by its methods, which any goroutine may call.
type Memory struct {
	mu       sync.Mutex
	made     int // how often it was made anew
	records  []store.Record
	deleted  map[string]bool
	open     map[*memory]bool
	opened   int
	loads    int
	batches  [][]string
	refuse   error
	unread   error
	lost     int
	then     error // refuse, once an answer was lost
	dropped  int
	readOnly error
	hung     chan struct{} // closed when it answers again; nil while it does
	deaf     bool
	before   func()
}

// NewMemory gives one that is empty.
func NewMemory() *Memory {
	return &Memory{made: 1, open: map[*memory]bool{}, deleted: map[string]bool{}}
}

// ErrCut is what calls give on a connection that was cut.
var ErrCut = errors.New("the connection was cut")

func (s *Memory) with(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

// Open is for store.Options.
func (s *Memory) Open(ctx context.Context) (store.DB, error) {
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened++
	if s.refuse != nil {
		return nil, s.refuse
	}
	db := &memory{s: s, moved: make(chan struct{}, 1), cut: make(chan struct{})}
	s.open[db] = true
	return db, nil
}

// Refuse has connections cut and refused with that error; nil: no more.
func (s *Memory) Refuse(err error) {
	s.with(func() { s.refuse = err })
	if err != nil {
		s.Cut()
	}
}

// Cut ends all connections.
func (s *Memory) Cut() {
	s.with(func() {
		for db := range s.open {
			close(db.cut)
		}
		clear(s.open)
	})
}

// Hang has no call answered until their context ends, or, when deaf, not even then; or until Answer.
func (s *Memory) Hang(deaf bool) {
	s.with(func() { s.hung, s.deaf = make(chan struct{}), deaf })
}

// Answer ends Hang. What hung goes on.
func (s *Memory) Answer() {
	s.with(func() { close(s.hung); s.hung = nil })
}

// LoseAnswers has the next commits done and their connections cut before they are answered.
func (s *Memory) LoseAnswers(n int) { s.with(func() { s.lost = n }) }

// LoseAnswer has the next commit done and every connection refused from then on, as Refuse does.
func (s *Memory) LoseAnswer(then error) { s.with(func() { s.lost, s.then = 1, then }) }

// DropCommits has the connections of the next commits cut before they are done; nobody can tell.
func (s *Memory) DropCommits(n int) { s.with(func() { s.dropped = n }) }

// FailWrites has every write refused with that error; nil: no more.
func (s *Memory) FailWrites(err error) { s.with(func() { s.readOnly = err }) }

// FailReads has every Load refused with that error; nil: no more.
func (s *Memory) FailReads(err error) { s.with(func() { s.unread = err }) }

// BeforeCommit is called in each transaction that changes anything.
func (s *Memory) BeforeCommit(do func()) { s.with(func() { s.before = do }) }

// Empty makes the database anew.
func (s *Memory) Empty() {
	s.with(func() {
		s.made++
		s.records = nil
		clear(s.deleted)
		s.tell()
	})
}

// Put changes a record as another balancer would; nil deletes it.
func (s *Memory) Put(key string, value []byte) {
	s.with(func() { s.write([]store.Record{{Key: key, Value: value}}) })
}

// Records gives what it has.
func (s *Memory) Records() []store.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records
}

// Batches gives the keys of each transaction that was asked for, and forgets them.
func (s *Memory) Batches() [][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.batches
	s.batches = nil
	return list
}

// Opened says how often somebody tried to open it.
func (s *Memory) Opened() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened
}

// wait is for a hung server.
func (s *Memory) wait(ctx context.Context) error {
	s.mu.Lock()
	hung, deaf := s.hung, s.deaf
	s.mu.Unlock()
	if hung == nil {
		return ctx.Err()
	}
	if deaf {
		<-hung
		return nil
	}
	select {
	case <-hung:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tell is called with the lock.
func (s *Memory) tell() {
	for db := range s.open {
		select {
		case db.moved <- struct{}{}:
		default:
		}
	}
}

// write is called with the lock.
func (s *Memory) write(changes []store.Record) {
	for _, c := range changes {
		s.deleted[c.Key] = c.Value == nil
	}
	s.records = store.Merge(s.records, changes)
	s.tell()
}

// memory is one connection.
type memory struct {
	s     *Memory
	moved chan struct{}
	cut   chan struct{}
}

// ready is called with the lock.
func (db *memory) ready() error {
	if !db.s.open[db] {
		return ErrCut
	}
	return nil
}

func (db *memory) Load(ctx context.Context) (store.Contents, error) {
	if err := db.s.wait(ctx); err != nil {
		return store.Contents{}, err
	}
	db.s.mu.Lock()
	defer db.s.mu.Unlock()
	db.s.loads++
	if err := errors.Join(db.ready(), db.s.unread); err != nil {
		return store.Contents{}, err
	}
	return store.Contents{ID: fmt.Sprint(db.s.made), Records: db.s.records}, nil
}

func (db *memory) Apply(ctx context.Context, edits []store.Edit) ([]error, error) {
	if err := db.s.wait(ctx); err != nil {
		return nil, err
	}
	s := db.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(db.ready(), s.readOnly); err != nil {
		return nil, err
	}
	if len(edits) == 0 {
		return nil, nil
	}
	var keys []string
	errs, changes := make([]error, len(edits)), []store.Record{}
	now := s.records
	for i, e := range edits {
		keys = append(keys, e.Key)
		old, _ := store.Find(now, e.Key)
		if e.Lost && s.deleted[e.Key] {
			continue
		}
		value, err := e.Change(old)
		if errs[i] = err; err == nil {
			c := store.Record{Key: e.Key, Value: slices.Clone(value)}
			changes, now = append(changes, c), store.Merge(now, []store.Record{c})
		}
	}
	s.batches = append(s.batches, keys)
	if s.before != nil {
		s.before()
	}
	if s.dropped > 0 {
		s.dropped--
		db.end()
		return nil, fmt.Errorf("%w: %w", store.ErrUnknown, ErrCut)
	}
	s.write(changes)
	if s.lost > 0 {
		s.lost--
		if s.then != nil {
			s.refuse, s.then = s.then, nil
		}
		db.end()
		return nil, fmt.Errorf("%w: %w", store.ErrUnknown, ErrCut)
	}
	return errs, nil
}

// end is called with the lock.
func (db *memory) end() {
	if db.s.open[db] {
		delete(db.s.open, db)
		close(db.cut)
	}
}

func (db *memory) Watch(ctx context.Context, changed func()) error {
	changed()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-db.cut:
			return ErrCut
		case <-db.moved:
			changed()
		}
	}
}

func (db *memory) Close() error {
	db.s.mu.Lock()
	defer db.s.mu.Unlock()
	db.end()
	return nil
}
