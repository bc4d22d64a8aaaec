package kubernetes

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/model"
)

const (
	name       = "kubernetes"
	remembered = time.Minute          // how long it is told why a pod went, because Snapshots supersede each other
	minPut     = 5 * time.Millisecond // what changes within this time is one Snapshot, but that a pod leaves is said at once
	putShare   = 10                   // making Snapshots takes at most this part of the time
)

// Options are what a Source needs. Pool, Port, Now and Log are required.
type Options struct {
	Kubeconfig string // file; empty: the service account of our pod, else the file that kubectl takes
	Context    string // of the file; empty: the current one
	Namespace  string // empty: our own, or that of the context
	Selector   string // of pods; empty: all
	Service    string // whose EndpointSlices are followed in place of pods; empty: none
	Port       Port
	NotReady   bool   // pods that are running but not ready are offered as well
	Family     Family // of the one address of a pod that has several

	Pool    string // model's service of the servers
	Policy  model.Policy
	Earlier *model.Snapshot // what an earlier process had, for an API server that is away when we go on with its HAProxy
	Now     func() time.Time
	Log     *slog.Logger
}

// Port is where pods are asked: a number or a name. The zero value is the one port that a service has.
type Port struct {
	Number uint16
	Name   string
}

// Family is a family of addresses.
type Family uint8

// The families.
const (
	AnyFamily Family = iota // the first address that the cluster names
	IPv4
	IPv6
)

// Source follows the pods of one cluster.
type Source struct {
	o    Options
	wake chan struct{} // something has changed; one place is enough

	mu      sync.Mutex
	world   *world
	listed  bool   // the world was seen whole once
	away    string // why it is not seen now; empty: it is
	urgent  bool   // something leaves
	rows    []model.NodeRow
	offered []string // owners in the last Snapshot, sorted

	// Of Run's goroutine alone, and kept over its runs:
	gone map[string]goneBy // pods that went because the cluster said so, by owner
	put  uint64            // version of the world that was put last; 0: none
	told string            // away, when it was told last
}

// goneBy is why a pod is not offered any more.
type goneBy struct {
	at time.Time
	by string
}

var _ discovery.Source = (*Source)(nil)

// New makes a Source; it asks nothing yet.
func New(o Options) *Source {
	return &Source{o: o, wake: make(chan struct{}, 1), world: newWorld(), gone: map[string]goneBy{}}
}

// Name is "kubernetes".
func (s *Source) Name() string { return name }

// Run follows the cluster until ctx ends, and starts again whenever it goes away.
func (s *Source) Run(ctx context.Context, to discovery.Sink) error {
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	following.Go(func() { s.follow(ctx) })
	for {
		start := time.Now()
		urgent := s.tell(to)
		pause := max(minPut, putShare*time.Since(start))
		if urgent {
			pause = 2 * time.Since(start)
		}
		if err := s.await(ctx, pause); err != nil {
			return err
		}
	}
}

// await waits until something has changed, and at least for the pause when it is nothing urgent.
func (s *Source) await(ctx context.Context, pause time.Duration) error {
	least := time.NewTimer(pause)
	defer least.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.wake:
	}
	s.mu.Lock()
	urgent := s.urgent
	s.mu.Unlock()
	for !urgent {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-least.C:
			return nil
		case <-s.wake:
			s.mu.Lock()
			urgent = s.urgent
			s.mu.Unlock()
		}
	}
	return nil
}

// List gives the pods that are offered as nodes, sorted.
func (s *Source) List() []model.NodeRow {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rows
}

// signal wakes Run.
func (s *Source) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // Run has not looked yet, it will see this with the rest
	}
}

// tell puts a Snapshot when there is something new, or says that the cluster is away, or that it is back. It reports whether something left.
func (s *Source) tell(to discovery.Sink) (urgent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	urgent, s.urgent = s.urgent, false
	defer func() { s.told = s.away }()
	switch {
	case !s.listed && s.away == "":
		return // the cluster is about to answer
	case !s.listed:
		if s.o.Earlier != nil && s.put == 0 {
			s.recall(to)
		}
		to.Down(errors.New(s.away))
	case s.world.version != s.put:
		s.put = s.world.version
		next := s.snapshot()
		next.Away = s.away
		to.Put(next)
	case s.away != "":
		to.Down(errors.New(s.away))
	case s.told != "":
		to.Down(nil)
	}
	return urgent
}

// recall puts what an earlier process had; s.mu is held.
func (s *Source) recall(to discovery.Sink) {
	earlier := *s.o.Earlier
	earlier.Away = s.away
	s.put = ^uint64(0) // of no world of ours
	s.rows = rowsOf(earlier.Offers)
	for i := range earlier.Offers {
		s.offered = append(s.offered, earlier.Offers[i].Owner.Name)
	}
	slices.Sort(s.offered)
	to.Put(earlier)
}

// snapshot says the whole of what is known; s.mu is held.
func (s *Source) snapshot() model.Snapshot {
	now := s.o.Now()
	all := s.world.flat(s.o.Service != "")
	out := model.Snapshot{Source: name}
	out.Offers = make([]model.Offer, 0, len(all))
	servers := make([]model.Server, 0, len(all)) // of all offers, in one piece
	offered, rows := make([]string, 0, len(all)), make([]model.NodeRow, 0, len(all))
	for _, e := range all {
		owner := model.Owner{Source: name, Name: e.owner}
		if e.take {
			servers = append(servers, model.Server{Service: s.o.Pool, Name: e.name, IP: e.at.Addr(), Port: e.at.Port(), Instance: e.uid})
			o := model.Offer{Owner: owner, Since: time.Unix(e.since, 0).UTC()}
			o.Servers = servers[len(servers)-1 : len(servers) : len(servers)]
			out.Offers = append(out.Offers, o)
			offered, rows = append(offered, e.owner), append(rows, model.NodeRow{Node: e.node, Server: e.name})
			continue
		}
		if in(s.offered, e.owner) {
			s.gone[e.owner] = goneBy{now, e.leaving}
		}
		switch e.verdict {
		case model.LeftOut:
			out.Problems = append(out.Problems, model.Problem{Kind: model.Invalid, Owner: owner, Reason: e.reason, Mend: e.mend})
			fallthrough
		case model.Waiting:
			out.Found = append(out.Found, model.Found{Owner: owner, ID: e.uid, Verdict: e.verdict, Reason: e.reason, Mend: e.mend})
		case model.Offered, model.Ignored: // there is nothing to explain
		}
	}
	s.note(all, offered, now)
	out.Asked = s.asked()
	sortRows(rows)
	s.offered, s.rows = offered, rows
	return out
}

func in(sorted []string, owner string) bool {
	_, found := slices.BinarySearch(sorted, owner)
	return found
}

// note keeps why pods went: an event took them away. Of what only a list does not have any more nobody has said anything.
func (s *Source) note(all []*entry, offered []string, now time.Time) {
	for _, owner := range s.offered {
		if in(offered, owner) || s.world.missed[owner] {
			continue
		}
		if _, there := slices.BinarySearchFunc(all, owner, func(e *entry, owner string) int { return strings.Compare(e.owner, owner) }); !there {
			s.gone[owner] = goneBy{now, "deleted"}
		}
	}
	for owner, g := range s.gone {
		if in(offered, owner) || now.Sub(g.at) > remembered {
			delete(s.gone, owner)
		}
	}
}

func (s *Source) asked() []model.Asked {
	var out []model.Asked
	for owner, g := range s.gone {
		out = append(out, model.Asked{Owner: model.Owner{Source: name, Name: owner}, By: "Kubernetes: " + g.by})
	}
	slices.SortFunc(out, func(a, b model.Asked) int { return strings.Compare(a.Owner.Name, b.Owner.Name) })
	return out
}

func rowsOf(offers []model.Offer) []model.NodeRow {
	rows := make([]model.NodeRow, 0, len(offers))
	for i := range offers {
		for _, srv := range offers[i].Servers {
			rows = append(rows, model.NodeRow{Node: model.Node{IP: srv.IP, Port: srv.Port}.String(), Server: srv.Name})
		}
	}
	sortRows(rows)
	return rows
}

func sortRows(rows []model.NodeRow) {
	slices.SortFunc(rows, func(a, b model.NodeRow) int { return strings.Compare(a.Node, b.Node) })
}
