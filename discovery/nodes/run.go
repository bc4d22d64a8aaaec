package nodes

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/discovery/stored"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
)

// The initial nodes are written by so many calls at once, which the store makes into few transactions. What could not be written is tried
// again after these pauses.
const (
	writers    = 64
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
)

// Run writes the initial nodes to the store and puts a Snapshot now and after changes, until ctx ends.
func (s *Source) Run(ctx context.Context, to discovery.Sink) error {
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() { s.writeInitial(ctx) })
	f := stored.Follower{Store: s.o.Store, View: s.view, Wake: s.wake, Incomplete: s.o.Incomplete, Snapshot: s.snapshot}
	return f.Run(ctx, to)
}

// snapshot gives one Offer a node, and the version of what it tells. Nodes and deletions are read in one moment: a node that is listed
// no more must stand among the deletions.
func (s *Source) snapshot() (model.Snapshot, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look()
	s.prune(s.o.Now())
	out := model.Snapshot{Source: name, Problems: slices.Clone(s.problems)}
	for _, key := range slices.Sorted(maps.Keys(s.gone)) {
		out.Asked = append(out.Asked, model.Asked{Owner: model.Owner{Source: name, Name: key}, By: s.gone[key].by})
	}
	out.Offers = make([]model.Offer, 0, len(s.nodes)+len(s.waiting))
	for _, n := range s.nodes {
		switch {
		case n.problem != nil:
			out.Problems = append(out.Problems, *n.problem)
		case !n.rename: // else it is about to get its canonical key
			out.Offers = append(out.Offers, n.offer)
		}
	}
	for _, n := range s.waiting { // Merge sorts
		out.Offers = append(out.Offers, n.offer)
	}
	slices.SortFunc(out.Offers, func(a, b model.Offer) int { return strings.Compare(a.Owner.Name, b.Owner.Name) })
	return out, s.version
}

// writeInitial writes the initial nodes to the store, those that it has not, and gives records their canonical keys. It tries for as long
// as ctx lasts.
func (s *Source) writeInitial(ctx context.Context) {
	pause := firstPause
	told := false
	for {
		err := s.write(ctx)
		if err == nil {
			break
		}
		var away *store.Away
		if ctx.Err() == nil && !errors.As(err, &away) && !errors.Is(err, errUnread) && !told { // that one is told by Down
			s.o.Log.Warn("the nodes of --nodes are not in the store yet, they serve here alone", "error", err)
			told = true
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
	s.mu.Lock()
	s.look()
	clear(s.waiting) // what is neither waiting nor a record was deleted by somebody else meanwhile
	s.version++
	s.mu.Unlock()
	s.signal()
}

func (s *Source) write(ctx context.Context) error {
	if err := s.writeWaiting(ctx); err != nil {
		return err
	}
	if loaded, away := s.o.Store.Standing(); !loaded {
		return errors.Join(errUnread, away)
	}
	return s.renameAll(ctx)
}

// errUnread is that nobody knows yet what the store has.
var errUnread = errors.New("the store was not read yet")

func (s *Source) writeWaiting(ctx context.Context) error {
	var edits []store.Edit
	s.mu.Lock()
	s.look()
	for _, name := range slices.Sorted(maps.Keys(s.waiting)) {
		n := s.waiting[name]
		edits = append(edits, store.Edit{Key: n.key, Change: func(old []byte) ([]byte, error) {
			if old != nil || n.out.Load() {
				return old, nil
			}
			return encode(n.record)
		}})
	}
	s.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for _, e := range edits {
		g.Go(func() error { return s.o.Store.Update(ctx, e.Key, e.Change) })
	}
	return g.Wait()
}

// renameAll gives records of the original their canonical keys.
func (s *Source) renameAll(ctx context.Context) error {
	s.mu.Lock()
	s.look()
	nodes := s.nodes // replaced, never changed
	s.mu.Unlock()
	for _, n := range nodes {
		if n.rename {
			if err := s.rename(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// rename moves a record to its canonical key, where there is none.
func (s *Source) rename(ctx context.Context, n *node) error {
	err := s.o.Store.Update(ctx, keyOf(n.name), func(old []byte) ([]byte, error) {
		if old != nil {
			return old, nil
		}
		return n.value, nil
	})
	if err != nil {
		return err
	}
	return s.o.Store.Update(ctx, n.key, func([]byte) ([]byte, error) { return nil, nil })
}

// signal wakes Run.
func (s *Source) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // Run has not read the last change yet, it will see this one with it
	}
}
