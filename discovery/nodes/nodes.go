package nodes

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/model"
)

// Limit is how many nodes there may be, so that nobody fills memory through the API.
const Limit = 20_000

// Snapshots are not made more often than each minPause, nor so often that they take more than a tenth of a core.
const (
	minPause = 10 * time.Millisecond
	share    = 10
)

const name = "nodes"

// Options are what a Source needs.
type Options struct {
	Service string       // whose servers the nodes become
	Initial []model.Node // the flag's
	Earlier *Earlier     // what an earlier process had, when we go on with its HAProxy; else nil
	Policy  model.Policy // which addresses may be nodes
	Now     func() time.Time
}

// Earlier is what an earlier process had.
type Earlier struct {
	Initial  []model.Node   // its flag's
	Snapshot model.Snapshot // the last one that it put
}

// Source keeps the nodes. Its methods may be called by any goroutine.
type Source struct {
	o        Options
	problems []model.Problem // of the initial nodes
	changed  chan struct{}   // the nodes have changed since Run read it last; one place is enough

	mu    sync.Mutex
	nodes []*node        // in the order of the calls; the last one takes the place of one that goes
	place map[string]int // of a key in nodes
	gone  map[string]removal
}

// removal is a node that somebody deleted lately.
type removal struct {
	at time.Time
	by string
}

// remembered is how long a deletion is told: Snapshots supersede each other, and whoever reads one later must still learn of it.
const remembered = time.Minute

// node is never changed.
type node struct {
	key   string // model.Node.String
	offer model.Offer
}

var _ discovery.Source = (*Source)(nil)

// New keeps the initial nodes; those that are refused stand as Problems in the Snapshot.
func New(o Options) *Source {
	s := &Source{o: o, changed: make(chan struct{}, 1), place: map[string]int{}, gone: map[string]removal{}}
	now := o.Now()
	for _, n := range s.initial() {
		if err := s.put(n.Node, n.NodeWish, now, ""); err != nil {
			s.problems = append(s.problems, *err)
		}
	}
	return s
}

// wished is a node, and what somebody asked for about it.
type wished struct {
	model.Node
	model.NodeWish
}

// initial lists the nodes to begin with. What was added, changed or deleted since the earlier process began stays so; what its flag named
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
// stays otherwise as it is. An error is a model.Problem: Invalid when n cannot be read, Refused when it is not allowed or there are too
// many.
func (s *Source) Set(ctx context.Context, n string, w model.NodeWish) error {
	parsed, err := parse(n)
	if err != nil {
		return *err
	}
	if err := s.put(parsed, w, s.o.Now(), model.Asker(ctx)); err != nil {
		return *err
	}
	return nil
}

// Delete removes the node; removing an unknown one is a success. An error is a model.Problem of kind Invalid.
func (s *Source) Delete(ctx context.Context, n string) error {
	parsed, err := parse(n)
	if err != nil {
		return *err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := parsed.String()
	i, found := s.place[key]
	if !found {
		return nil
	}
	end := len(s.nodes) - 1
	last := s.nodes[end]
	s.nodes[i], s.place[last.key] = last, i
	s.nodes[end] = nil // nothing holds it any more
	s.nodes = s.nodes[:end]
	delete(s.place, key)
	s.forget(key, model.Asker(ctx))
	s.signal()
	return nil
}

// forget notes a deletion; s.mu is held.
func (s *Source) forget(key, by string) {
	now := s.o.Now()
	if len(s.gone) >= Limit {
		s.prune(now)
	}
	if len(s.gone) < Limit { // so many within a minute: that of the others nobody is told
		s.gone[key] = removal{at: now, by: by}
	}
}

// prune drops what was deleted long ago; s.mu is held.
func (s *Source) prune(now time.Time) {
	for key, r := range s.gone {
		if now.Sub(r.at) > remembered {
			delete(s.gone, key)
		}
	}
}

// List gives the nodes, sorted by their canonical HOST:PORT.
func (s *Source) List() []model.NodeRow {
	nodes := s.clone()
	list := make([]model.NodeRow, len(nodes))
	for i, n := range nodes {
		srv := &n.offer.Servers[0]
		list[i] = model.NodeRow{Node: n.key, Server: srv.Name, Weight: srv.Weight, Admin: srv.Admin}
	}
	slices.SortFunc(list, func(a, b model.NodeRow) int { return strings.Compare(a.Node, b.Node) })
	return list
}

// clone is all that List does under the lock, so that thousands of nodes hold up nobody who adds one.
func (s *Source) clone() []*node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.nodes)
}

func parse(n string) (model.Node, *model.Problem) {
	parsed, err := model.ParseNode(n)
	if err != nil {
		return model.Node{}, &model.Problem{Kind: model.Invalid, Owner: model.Owner{Source: name}, Reason: err.Error()}
	}
	return parsed, nil
}

// put adds a node, or changes one that is there.
func (s *Source) put(n model.Node, w model.NodeWish, now time.Time, by string) *model.Problem {
	key := n.String()
	problem := func(kind model.Kind, reason, mend string) *model.Problem {
		return &model.Problem{Kind: kind, Owner: model.Owner{Source: name, Name: key}, Reason: reason, Mend: mend}
	}
	// A name is checked after it was resolved, each time again (the supervisor does).
	if n.IP.IsValid() {
		if err := s.o.Policy.Check(netip.AddrPortFrom(n.IP, n.Port)); err != nil {
			return problem(model.Refused, "node "+err.Error(), "")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, found := s.place[key]; found {
		s.change(i, w, by)
		return nil
	}
	if len(s.nodes) >= Limit {
		return problem(model.Refused, fmt.Sprintf("node %s: there are %d nodes, the most that are kept", key, Limit), "delete some first")
	}
	added := &node{key: key, offer: model.Offer{Owner: model.Owner{Source: name, Name: key}, Since: now, By: by}}
	added.offer.Servers = []model.Server{wish(model.Server{Service: s.o.Service, Name: n.ServerName(), IP: n.IP, Host: n.Host, Many: n.Many, Port: n.Port}, w)}
	delete(s.gone, key)
	s.place[key] = len(s.nodes)
	s.nodes = append(s.nodes, added)
	s.signal()
	return nil
}

// change gives the node at place i what is wished for; s.mu is held.
func (s *Source) change(i int, w model.NodeWish, by string) {
	was := s.nodes[i]
	server := wish(was.offer.Servers[0], w)
	if server == was.offer.Servers[0] {
		return
	}
	changed := &node{key: was.key, offer: was.offer}
	changed.offer.Servers, changed.offer.By = []model.Server{server}, by
	s.nodes[i] = changed
	s.signal()
}

func wish(s model.Server, w model.NodeWish) model.Server {
	if w.Weight != nil {
		s.Weight = *w.Weight
	}
	if w.Admin != nil {
		s.Admin = *w.Admin
	}
	return s
}

// signal tells Run of a change.
func (s *Source) signal() {
	select {
	case s.changed <- struct{}{}:
	default: // Run has not read the last change yet, it will see this one with it
	}
}

// Run puts a Snapshot now and after changes, until ctx ends.
func (s *Source) Run(ctx context.Context, to discovery.Sink) error {
	for {
		start := time.Now()
		to.Put(s.snapshot())
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
		case <-s.changed:
		}
	}
}

// snapshot gives one Offer a node; their order means nothing, Merge sorts them. Nodes and deletions are read in one moment: a node
// that is listed no more must stand among the deletions.
func (s *Source) snapshot() model.Snapshot {
	s.mu.Lock()
	nodes := slices.Clone(s.nodes)
	s.prune(s.o.Now())
	asked := make([]model.Asked, 0, len(s.gone))
	for key, r := range s.gone {
		asked = append(asked, model.Asked{Owner: model.Owner{Source: name, Name: key}, By: r.by})
	}
	s.mu.Unlock()
	slices.SortFunc(asked, func(a, b model.Asked) int { return strings.Compare(a.Owner.Name, b.Owner.Name) })
	offers := make([]model.Offer, len(nodes))
	for i, n := range nodes {
		offers[i] = n.offer
	}
	return model.Snapshot{Source: name, Offers: offers, Problems: s.problems, Asked: asked}
}
