package pools

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/discovery/stored"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
)

// Limits, so that nobody fills memory, the store or HAProxy's text through the API.
const (
	Limit        = 10_000 // pools
	MembersLimit = 1_000  // of a pool
)

const name = "pools"

// patience is how long a call waits for what it asked for to be in force, once it is stored.
const patience = 2 * time.Second

// Options are what a Source needs.
type Options struct {
	Bind     model.Bind     // the listener that the patterns belong to
	Timeouts model.Timeouts // of the services
	Policy   model.Policy   // which addresses may be backends
	Store    *store.Mirror
	Prober   Prober
	// Conflict says what the other sources have against an offer; nil: nothing.
	Conflict func(model.Offer) error
	// Serves waits until a route is in force and a server of its service, where one is named, takes requests, at most until ctx ends.
	Serves   func(ctx context.Context, route model.Route, server string)
	Expected []model.Check   // rules of pools to come, for which services stand ready from the start
	Earlier  *model.Snapshot // what an earlier process had in memory, when we go on with its HAProxy; else nil
	// EarlierSpares is what Spares of an earlier process has put, likewise.
	EarlierSpares *model.Snapshot
	Incomplete    bool // see stored.Follower
	Now           func() time.Time
	Log           *slog.Logger
}

// Prober asks a backend by a rule.
type Prober interface {
	Probe(ctx context.Context, rule model.Check, at netip.AddrPort, server string) check.Result
}

// Source offers the pools that the store keeps. Its methods may be called by any goroutine.
type Source struct {
	o       Options
	view    *store.View
	limit   int // Limit, as tests change it
	members int // MembersLimit

	mu      sync.Mutex
	records []store.Record // as they were read last
	pools   []*pool        // of records
	asked   map[string]string
	gone    map[string]removal // by pattern
	version uint64

	// Of the slots, by name.
	rules    []*rule
	taken    map[string]*pool
	lost     []*pool              // their slots are others'
	rested   map[string]time.Time // since when a slot is free that was taken lately
	reserved map[string]bool      // for pools that are being added
	growAt   time.Time            // when rules get more; zero: none does

	known chan struct{} // closed at the first snapshot
	more  chan struct{} // there are more spares, or soon
	mend  chan struct{} // slots were lost
}

// removal is a pool that somebody removed lately.
type removal struct {
	at time.Time
	by string
}

// remembered is how long a removal is told: Snapshots supersede each other, and whoever reads one later must still learn of it.
const remembered = time.Minute

var _ discovery.Source = (*Source)(nil)

// New must be called before the store runs. Earlier is for a store that is only memory.
func New(o Options) *Source {
	s := &Source{
		o: o, limit: Limit, members: MembersLimit, view: o.Store.Follow(Kind), asked: map[string]string{}, gone: map[string]removal{},
		rested: map[string]time.Time{}, reserved: map[string]bool{},
		known: make(chan struct{}), more: make(chan struct{}, 1), mend: make(chan struct{}, 1),
	}
	s.recallSpares()
	if o.Earlier != nil {
		for i := range o.Earlier.Offers {
			if err := s.recall(&o.Earlier.Offers[i]); err != nil {
				o.Log.Warn("a pool of the earlier process is forgotten", "pattern", o.Earlier.Offers[i].Owner.Name, "error", err)
			}
		}
	}
	return s
}

// recall makes the record of an offer again.
func (s *Source) recall(o *model.Offer) error {
	if len(o.Routes) != 1 || len(o.Services) != 1 {
		return errors.New("it has not one route and one service")
	}
	svc := &o.Services[0]
	r := record{Check: svc.Check, BasePath: svc.BasePath, Service: svc.Name, Since: o.Since, By: o.By} // decode tells a slot from another name
	for i := range o.Servers {
		r.Members = append(r.Members, member{o.Servers[i].IP, o.Servers[i].Port})
	}
	slices.SortFunc(r.Members, compare)
	value, err := encode(r)
	if err == nil {
		r, err = decode(value)
	}
	if err == nil {
		value, err = encode(r)
	}
	if err != nil {
		return err
	}
	return s.o.Store.Update(context.Background(), keyOf(o.Routes[0].Pattern), func([]byte) ([]byte, error) { return value, nil })
}

// Name is "pools".
func (s *Source) Name() string { return name }

// Run puts a Snapshot now and after changes, until ctx ends.
func (s *Source) Run(ctx context.Context, to discovery.Sink) error {
	var mending sync.WaitGroup
	defer mending.Wait()
	mending.Go(func() { s.giveUp(ctx) })
	f := stored.Follower{Store: s.o.Store, View: s.view, Incomplete: s.o.Incomplete, Snapshot: s.snapshot}
	return f.Run(ctx, to)
}

// AddPool adds an empty pool. An error is a model.Problem: Invalid when the pattern or the check cannot be read, Conflict when somebody has
// the pattern, Refused when there are too many, Unavailable when the store cannot be written.
func (s *Source) AddPool(ctx context.Context, p model.Pool) error {
	pattern, err := parse(p.Pattern)
	if err != nil {
		return err
	}
	if err := check.Validate(p.Check); err != nil {
		return problem(pattern, model.Invalid, "a health_check is refused: "+err.Error(), "")
	}
	if s.view.Len() >= s.limit && !s.view.Has(keyOf(pattern)) {
		return problem(pattern, model.Refused, fmt.Sprintf("there are %d pools, the most that are kept", s.limit), "remove some first")
	}
	taken := problem(pattern, model.Conflict, fmt.Sprintf("pattern(%s) is already registered", p.Pattern), "")
	if s.view.Has(keyOf(pattern)) {
		return taken
	}
	r := record{Check: p.Check, Since: s.o.Now(), By: model.Asker(ctx)}
	if err := s.o.Conflict(s.offer(pattern, r, serviceOf(pattern))); err != nil {
		return problem(pattern, model.Conflict, fmt.Sprintf("pattern(%s) is already registered: %v", p.Pattern, err), "")
	}
	r.Service = s.reserve(ctx, r.Check)
	defer s.release(r.Service)
	err = s.update(ctx, pattern, func(old []byte) ([]byte, error) {
		if old != nil {
			return nil, taken
		}
		return encode(r)
	})
	if err == nil {
		s.wait(ctx, p.Pattern, "")
	}
	return err
}

// RemovePool removes a pool and its members; removing an unknown one is a success.
func (s *Source) RemovePool(ctx context.Context, pattern string) error {
	p, err := parse(pattern)
	if err != nil {
		return err
	}
	key := p.String()
	s.mu.Lock()
	s.asked[key] = model.Asker(ctx)
	s.mu.Unlock()
	there := false
	err = s.update(ctx, p, func(old []byte) ([]byte, error) {
		there = old != nil
		return nil, nil
	})
	if err != nil || !there {
		s.mu.Lock()
		delete(s.asked, key)
		s.mu.Unlock()
	}
	return err
}

// AddMember adds a backend that passes the pool's check, and returns once it is stored and, where that comes soon, serves. An error is a
// model.Problem: NotFound when there is no such pool, Conflict when it has the backend, Refused when the backend is sick, is not allowed,
// has another base path than the others, or is one too many.
func (s *Source) AddMember(ctx context.Context, pattern string, m model.Member) error {
	p, r, err := s.pool(pattern)
	if err != nil {
		return err
	}
	at := netip.AddrPortFrom(m.IP, m.Port)
	if err := s.o.Policy.Check(at); err != nil {
		return problem(p, model.Refused, "backend ip is invalid: "+err.Error(), "")
	}
	if _, err := r.add(p, m, s.members); err != nil {
		return err
	}
	if found := s.o.Prober.Probe(ctx, r.Check, at, m.Name()); !found.OK {
		if err := ctx.Err(); err != nil {
			return problem(p, model.Unavailable, "the caller did not wait for the check: "+err.Error(), "")
		}
		return problem(p, model.Refused, "backend is sick: "+found.Reason, found.Mend)
	}
	err = s.update(ctx, p, func(old []byte) ([]byte, error) {
		now, err := stands(p, pattern, old)
		if err == nil {
			now, err = now.add(p, m, s.members)
		}
		if err != nil {
			return nil, err
		}
		now.By = model.Asker(ctx)
		return encode(now)
	})
	if err == nil {
		s.wait(ctx, pattern, m.Name())
	}
	return err
}

// add gives the record with one more member.
func (r record) add(p model.Pattern, m model.Member, most int) (record, error) {
	added := member{m.IP, m.Port}
	i, there := r.find(added)
	switch {
	case there:
		return r, problem(p, model.Conflict, "backend already exists", "")
	case len(r.Members) >= most:
		return r, problem(p, model.Refused, fmt.Sprintf("the pool has %d backends, the most that are kept", most), "remove some first")
	case len(r.Members) > 0 && r.BasePath != m.BasePath:
		return r, problem(p, model.Refused, fmt.Sprintf("the pool's other backends have the url_path %q, this one has %q", slash(r.BasePath), slash(m.BasePath)),
			"all backends of a pool have the same url_path; make a pool of its own for another one")
	}
	if r.BasePath = m.BasePath; r.BasePath != "" {
		r.Service = "" // which has none
	}
	r.Members = slices.Insert(slices.Clone(r.Members), i, added)
	return r, nil
}

func slash(base string) string { return base + "/" }

// RemoveMember removes a backend: it gets no new requests, running ones finish. Removing an unknown one is a success.
func (s *Source) RemoveMember(ctx context.Context, pattern string, m model.Member) error {
	p, _, err := s.pool(pattern)
	if err != nil {
		return err
	}
	return s.update(ctx, p, func(old []byte) ([]byte, error) {
		r, err := stands(p, pattern, old)
		if err != nil {
			return nil, err
		}
		i, there := r.find(member{m.IP, m.Port})
		if !there {
			return old, nil
		}
		r.Members = slices.Delete(slices.Clone(r.Members), i, i+1)
		r.By = model.Asker(ctx)
		return encode(r)
	})
}

// Pool gives one pool; NotFound says that there is none.
func (s *Source) Pool(pattern string) (model.PoolRow, error) {
	found, err := s.find(pattern)
	if err != nil {
		return model.PoolRow{}, err
	}
	r := &found.record
	row := model.PoolRow{Pool: model.Pool{Pattern: found.pattern.String(), Check: r.Check}, Service: found.service}
	for _, m := range r.Members {
		row.Members = append(row.Members, model.Member{IP: m.IP, Port: m.Port, BasePath: r.BasePath})
	}
	return row, nil
}

// pool gives a pool as it is known here.
func (s *Source) pool(pattern string) (model.Pattern, record, error) {
	found, err := s.find(pattern)
	if err != nil {
		return model.Pattern{}, record{}, err
	}
	return found.pattern, found.record, nil
}

func (s *Source) find(pattern string) (*pool, error) {
	p, err := parse(pattern)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.look()
	key := keyOf(p)
	i, there := slices.BinarySearchFunc(s.pools, key, func(p *pool, key string) int { return strings.Compare(p.key, key) })
	var found *pool
	if there {
		found = s.pools[i]
	}
	s.mu.Unlock()
	switch {
	case !there:
		return nil, notFound(p, pattern)
	case found.problem != nil && found.problem.Kind == model.Invalid:
		return nil, *found.problem
	}
	return found, nil
}

func notFound(p model.Pattern, pattern string) error {
	return problem(p, model.NotFound, fmt.Sprintf("pool(%s) not found", pattern), "add it first")
}

// stands is the record that a change begins with.
func stands(p model.Pattern, pattern string, old []byte) (record, error) {
	if old == nil {
		return record{}, notFound(p, pattern)
	}
	r, err := decode(old)
	if err != nil {
		return r, problem(p, model.Invalid, "what the store has of it cannot be read: "+err.Error(), "remove the pool and add it again")
	}
	return r, nil
}

func (s *Source) wait(ctx context.Context, pattern, server string) {
	p, err := s.find(pattern)
	if err != nil { // somebody has removed it meanwhile
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s.o.Serves(ctx, s.route(p.pattern, p.service), server)
}

func (s *Source) update(ctx context.Context, p model.Pattern, c store.Change) error {
	err := s.o.Store.Update(ctx, keyOf(p), c)
	var told model.Problem
	if err == nil || errors.As(err, &told) {
		return err
	}
	return problem(p, model.Unavailable, "nothing was changed: the store of the pools cannot be written: "+model.Printable(err.Error()), "try again; traffic goes on with the pools that are known")
}

func parse(pattern string) (model.Pattern, error) {
	p, err := model.ParsePattern(pattern)
	if err != nil {
		return p, model.Problem{Kind: model.Invalid, Owner: model.Owner{Source: name}, Reason: err.Error()}
	}
	return p, nil
}

func problem(p model.Pattern, kind model.Kind, reason, mend string) error {
	return model.Problem{Kind: kind, Owner: model.Owner{Source: name, Name: p.String()}, Reason: reason, Mend: mend}
}

// look reads the records anew, when they are other ones; s.mu is held. Pools whose record is the same stay as they are.
func (s *Source) look() {
	records := s.view.Records()
	if len(records) == len(s.records) && (len(records) == 0 || &records[0] == &s.records[0]) {
		return
	}
	s.version++
	now := s.o.Now()
	pools := make([]*pool, 0, len(records))
	before := s.pools
	settled := true // each pool has the slot that it had
	drop := func(p *pool) {
		owner := p.pattern.String()
		s.gone[owner] = removal{at: now, by: s.asked[owner]}
		delete(s.asked, owner)
		settled = false
	}
	for i := range records {
		r := &records[i]
		for len(before) > 0 && before[0].key < r.Key {
			drop(before[0])
			before = before[1:]
		}
		var was *pool
		if len(before) > 0 && before[0].key == r.Key {
			was = before[0]
			before = before[1:]
			if bytes.Equal(was.value, r.Value) {
				pools = append(pools, was)
				continue
			}
		}
		p := s.read(*r)
		switch {
		case was == nil || was.problem != nil || was.slot != p.slot || was.rule != p.rule || !was.record.Since.Equal(p.record.Since):
			settled = false
		case was.service != p.service && p.problem == nil: // its slot is another's
			p = s.serve(p, was.service)
		}
		if was != nil && len(p.record.Members) < len(was.record.Members) { // that is asked for as well, and not to be doubted
			s.gone[p.pattern.String()] = removal{at: now, by: p.record.By}
		} else if was == nil {
			delete(s.gone, p.pattern.String())
		}
		pools = append(pools, p)
	}
	for _, p := range before {
		drop(p)
	}
	s.records, s.pools = records, pools
	if !settled {
		s.settle()
	}
}

// snapshot gives one Offer a pool, and the version of what it tells.
func (s *Source) snapshot() (model.Snapshot, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look()
	select {
	case <-s.known:
	default:
		close(s.known)
	}
	out := model.Snapshot{Source: name, Offers: make([]model.Offer, 0, len(s.pools))}
	now := s.o.Now()
	for owner, r := range s.gone {
		if now.Sub(r.at) > remembered {
			delete(s.gone, owner)
			continue
		}
		out.Asked = append(out.Asked, model.Asked{Owner: model.Owner{Source: name, Name: owner}, By: r.by})
	}
	slices.SortFunc(out.Asked, func(a, b model.Asked) int { return strings.Compare(a.Owner.Name, b.Owner.Name) })
	for _, p := range s.pools {
		if p.problem != nil {
			out.Problems = append(out.Problems, *p.problem)
			continue
		}
		out.Offers = append(out.Offers, p.offer)
	}
	return out, s.version
}
