package nodes

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
)

// Limit is how many nodes there may be, so that nobody fills memory or the store through the API. It is judged by what this balancer
// knows: several that add at once may exceed it by a few.
const Limit = 20_000

const name = "nodes"

// Options are what a Source needs.
type Options struct {
	Service string       // whose servers the nodes become
	Initial []model.Node // the flag's
	Earlier *Earlier     // what an earlier process had in memory, when we go on with its HAProxy; else nil
	Policy  model.Policy // which addresses may be nodes
	Store   *store.Mirror
	// Incomplete says that a HAProxy serves which may have more nodes than the flag names: without the store's word nothing is said.
	Incomplete bool
	Now        func() time.Time
	Log        *slog.Logger
}

// Earlier is what an earlier process had.
type Earlier struct {
	Initial  []model.Node   // its flag's
	Snapshot model.Snapshot // the last one that it put
}

// Source offers what the store keeps. Its methods may be called by any goroutine.
type Source struct {
	o        Options
	view     *store.View
	problems []model.Problem // of the initial nodes
	wake     chan struct{}   // something beside the records has changed; one place is enough

	// It is held while the store is asked for its records, so that a change, which the store runs, must not take it.
	mu      sync.Mutex
	records []store.Record     // as they were read last
	nodes   []*node            // of records
	waiting map[string]*node   // initial nodes by name, until they are in the store
	asked   map[string]string  // who asks for a deletion that the records do not show yet
	gone    map[string]removal // by name
	version uint64             // counts what changes a Snapshot
}

// removal is a node that somebody deleted lately.
type removal struct {
	at time.Time
	by string
}

// remembered is how long a deletion is told: Snapshots supersede each other, and whoever reads one later must still learn of it.
const remembered = time.Minute

var _ discovery.Source = (*Source)(nil)

// New takes the initial nodes; those that are refused stand as Problems in the Snapshot. It must be called before the store runs.
func New(o Options) *Source {
	s := &Source{
		o: o, view: o.Store.Follow(Kind), wake: make(chan struct{}, 1),
		waiting: map[string]*node{}, asked: map[string]string{}, gone: map[string]removal{},
	}
	now := o.Now()
	for _, w := range s.initial() {
		owner := model.Owner{Source: name, Name: w.String()}
		switch err := s.allowed(w.Node); {
		case err != nil:
			s.problems = append(s.problems, model.Problem{Kind: model.Refused, Owner: owner, Reason: "node " + err.Error()})
		case len(s.waiting) >= Limit && s.waiting[owner.Name] == nil:
			s.problems = append(s.problems, full(owner.Name))
		default:
			r := record{Since: now}
			r.wish(w.NodeWish, "")
			s.waiting[owner.Name] = &node{key: keyOf(owner.Name), name: owner.Name, record: r, out: new(atomic.Bool), offer: s.offer(w.Node, r)}
		}
	}
	return s
}

func full(key string) model.Problem {
	return model.Problem{
		Kind: model.Refused, Owner: model.Owner{Source: name, Name: key},
		Reason: fmt.Sprintf("node %s: there are %d nodes, the most that are kept", key, Limit), Mend: "delete some first",
	}
}

// wished is a node, and what somebody asked for about it.
type wished struct {
	model.Node
	model.NodeWish
}

// initial lists the nodes to begin with. Of what an earlier process had in memory: what was added, changed or deleted since the earlier process began stays so; what its flag named
// and ours does not is left out.
func (s *Source) initial() []wished {
	var list []wished
	e := s.o.Earlier
	if e == nil {
		for _, n := range s.o.Initial {
			list = append(list, wished{Node: n})
		}
		return list
	}
	flagged, now, kept := map[model.Node]bool{}, map[model.Node]bool{}, map[model.Node]bool{}
	for _, n := range e.Initial {
		flagged[n] = true
	}
	for _, n := range s.o.Initial {
		now[n] = true
	}
	for i := range e.Snapshot.Offers {
		o := &e.Snapshot.Offers[i]
		n, err := parse(o.Owner.Name)
		if err != nil {
			s.problems = append(s.problems, *err)
			continue
		}
		kept[n] = true
		if !flagged[n] || now[n] {
			w := wished{Node: n}
			if len(o.Servers) == 1 {
				w.Weight, w.Admin = &o.Servers[0].Weight, &o.Servers[0].Admin
			}
			list = append(list, w)
		}
	}
	for _, n := range s.o.Initial {
		if !kept[n] && !flagged[n] { // kept ones are there, and one that was flagged before was deleted by somebody
			list = append(list, wished{Node: n})
		}
	}
	return list
}

// Name is "nodes".
func (s *Source) Name() string { return name }

// Set adds the node HOST:PORT, or *NAME:PORT for all addresses of the name; one that is there already gets what is wished for, and
// stays otherwise as it is. It returns when the store has it for good. An error is a model.Problem: Invalid when n cannot be read, Refused
// when it is not allowed or there are too many, Unavailable when the store cannot be written.
func (s *Source) Set(ctx context.Context, n string, w model.NodeWish) error {
	parsed, bad := parse(n)
	if bad != nil {
		return *bad
	}
	key := parsed.String()
	if err := s.allowed(parsed); err != nil {
		return model.Problem{Kind: model.Refused, Owner: model.Owner{Source: name, Name: key}, Reason: "node " + err.Error()}
	}
	if s.full(key) {
		return full(key)
	}
	by := model.Asker(ctx)
	return s.update(ctx, key, changed(s.fresh(key, by), w, by))
}

// full reports whether a node of that name would be one too many.
func (s *Source) full(name string) bool {
	if s.view.Len() < Limit-len(s.o.Initial) { // those that wait are not among the records
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look()
	return s.waiting[name] == nil && !s.view.Has(keyOf(name)) && s.view.Len()+len(s.waiting) >= Limit
}

// fresh is the record of a node that the store has not.
func (s *Source) fresh(key, by string) record {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.waiting[key]; n != nil {
		return n.record
	}
	return record{Since: s.o.Now(), By: by}
}

// Delete removes the node, for good until a start whose flag names it; removing an unknown one is a success. An error is a
// model.Problem of kind Invalid or Unavailable.
func (s *Source) Delete(ctx context.Context, n string) error {
	parsed, bad := parse(n)
	if bad != nil {
		return *bad
	}
	key := parsed.String()
	back := s.withdraw(key, model.Asker(ctx))
	there := false
	err := s.update(ctx, key, func(old []byte) ([]byte, error) {
		there = old != nil
		return nil, nil
	})
	if err != nil {
		back()
		return err
	}
	if !there {
		s.mu.Lock()
		delete(s.asked, key)
		s.mu.Unlock()
	}
	if slices.Contains(s.o.Initial, parsed) {
		s.o.Log.Info("a node of --nodes was deleted; a new start with that flag brings it back", "node", key)
	}
	return nil
}

// withdraw notes who asks for a deletion, and that an initial node is to be written no more: what of it is on its way to the store
// comes there before the deletion. The function that it gives puts things back.
func (s *Source) withdraw(key, by string) (back func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.waiting[key]
	if n != nil {
		n.out.Store(true)
		delete(s.waiting, key)
		s.gone[key] = removal{at: s.o.Now(), by: by}
		s.version++
		s.signal()
	}
	s.asked[key] = by
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.asked, key)
		if n != nil {
			delete(s.gone, key)
			n.out.Store(false)
			s.waiting[key] = n
			s.version++
			s.signal()
		}
	}
}

func (s *Source) update(ctx context.Context, key string, c store.Change) error {
	if err := s.o.Store.Update(ctx, keyOf(key), c); err != nil {
		return s.unavailable(key, err)
	}
	return nil
}

func (s *Source) unavailable(key string, err error) error {
	return model.Problem{
		Kind: model.Unavailable, Owner: model.Owner{Source: name, Name: key},
		Reason: "nothing was changed: the store of the nodes cannot be written: " + model.Printable(err.Error()), Mend: "try again; traffic goes on with the nodes that are known",
	}
}

// List gives the nodes, sorted by their canonical HOST:PORT.
func (s *Source) List() []model.NodeRow {
	nodes := s.offered()
	list := make([]model.NodeRow, len(nodes))
	for i, n := range nodes {
		srv := &n.offer.Servers[0]
		list[i] = model.NodeRow{Node: n.name, Server: srv.Name, Weight: srv.Weight, Admin: srv.Admin}
	}
	return list
}

// offered gives the nodes that can be offered, sorted by name.
func (s *Source) offered() []*node {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look()
	list := make([]*node, 0, len(s.nodes)+len(s.waiting))
	for _, n := range s.nodes {
		if n.problem == nil && !n.rename {
			list = append(list, n)
		}
	}
	for _, n := range s.waiting {
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	return list
}

// look reads the records anew, when they are other ones; s.mu is held. Nodes whose record is the same stay as they are.
func (s *Source) look() {
	records := s.view.Records()
	if same(records, s.records) {
		return
	}
	s.version++
	nodes := make([]*node, 0, len(records))
	before := s.nodes
	for i := range records {
		r := &records[i]
		for len(before) > 0 && before[0].key < r.Key {
			s.forget(before[0])
			before = before[1:]
		}
		if len(before) > 0 && before[0].key == r.Key {
			n := before[0]
			before = before[1:]
			if bytes.Equal(n.value, r.Value) {
				nodes = append(nodes, n)
				continue
			}
		}
		n := s.read(*r)
		delete(s.waiting, n.name) // it is in the store, by whomever
		delete(s.gone, n.name)
		delete(s.asked, n.name)
		nodes = append(nodes, n)
	}
	for _, n := range before {
		s.forget(n)
	}
	s.records, s.nodes = records, nodes
}

// same reports whether it is one and the same list.
func same(a, b []store.Record) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// forget notes a deletion; s.mu is held.
func (s *Source) forget(n *node) {
	if n.problem != nil || n.rename {
		return
	}
	now := s.o.Now()
	if len(s.gone) >= Limit {
		s.prune(now)
	}
	if len(s.gone) < Limit { // so many within a minute: that of the others nobody is told
		s.gone[n.name] = removal{at: now, by: s.asked[n.name]}
	}
	delete(s.asked, n.name)
}

// prune drops what was deleted long ago; s.mu is held.
func (s *Source) prune(now time.Time) {
	for key, r := range s.gone {
		if now.Sub(r.at) > remembered {
			delete(s.gone, key)
		}
	}
}
