package pools

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/model"
)

// HAProxy makes no backend at run time, and none changes its name. So that a new pool is no reload, services without servers stand ready for
// each rule in use: firstSpares of them, and each time when few are left as many more, or half as many again where that is more. That is a
// reload, but one that no call waits for: it comes growDelay after the pool that made it necessary. More from the start would cost each apply
// the time to write and read them.
const (
	sparesName  = "spares"
	firstSpares = 8
	fewSpares   = 2 // or a quarter of all
	rulesLimit  = 8 // with spares; pools of further ones have services of their own
	growDelay   = 250 * time.Millisecond
	slotsLimit  = 2 * Limit
)

// rule is a rule of checks with spare services, its slots. All is guarded by Source.mu.
type rule struct {
	check model.Check
	id    string
	size  int // slots that are offered
	next  int // that are to be offered soon; 0: no more
	used  int // by pools
	top   int // the first slot above all that are used
}

// ruleID names a rule among all, the same one in each process.
func ruleID(c model.Check) string {
	text, err := json.Marshal(c)
	if err != nil {
		return "" // it has no field of which this could be
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:4])
}

// slotName names the service of a slot. Those of single pools end with ten digits (serviceOf).
func slotName(id string, n int) string { return "pool:" + id + ":" + strconv.Itoa(n) }

// slotOf reads such a name; false where it is another rule's or none.
func slotOf(service, id string) (n int, ok bool) {
	digits, ok := strings.CutPrefix(service, "pool:"+id+":")
	if !ok || id == "" {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil && n >= 0 && n < slotsLimit && slotName(id, n) == service
}

// settle says which pool has which slot after the pools have changed. Of two that took the same one, in two balancers at the same time, the
// later has a service of its own, and gives the slot up in the store; s.mu is held.
func (s *Source) settle() {
	now := s.o.Now()
	first := make(map[string]*pool, len(s.pools))
	for _, p := range s.pools {
		if other := first[p.slot]; p.slot != "" && (other == nil || p.before(other)) {
			first[p.slot] = p
		}
	}
	s.lost = nil
	for i, p := range s.pools {
		if p.slot == "" {
			continue
		}
		service := p.slot
		if first[p.slot] != p {
			service = serviceOf(p.pattern)
			s.lost = append(s.lost, p)
		}
		if p.service != service && p.problem == nil {
			s.pools[i] = s.serve(p, service)
		}
	}
	for slot := range s.taken {
		if first[slot] == nil {
			s.rested[slot] = now
		}
	}
	for slot, since := range s.rested {
		if first[slot] != nil || now.Sub(since) > remembered {
			delete(s.rested, slot)
		}
	}
	s.taken = first
	if len(s.lost) > 0 {
		signal(s.mend)
	}
	s.count()
}

func (p *pool) before(o *pool) bool {
	return cmp.Or(p.record.Since.Compare(o.record.Since), strings.Compare(p.key, o.key)) < 0
}

// count looks how many slots the rules in use need; s.mu is held.
func (s *Source) count() {
	var fresh []*pool // the first of each rule that has no spares yet
	rules := make(map[string]*rule, len(s.rules))
	for _, r := range s.rules {
		r.used, r.top = 0, 0
		rules[r.id] = r
	}
	for _, p := range s.pools {
		if p.rule == "" {
			continue
		}
		r, known := rules[p.rule]
		if !known {
			i := slices.IndexFunc(fresh, func(o *pool) bool { return o.rule == p.rule })
			if i < 0 {
				fresh = append(fresh, p)
			} else if p.before(fresh[i]) {
				fresh[i] = p
			}
		} else if n, ok := slotOf(p.slot, r.id); ok {
			r.used++
			r.top = max(r.top, n+1)
		}
	}
	slices.SortFunc(fresh, func(a, b *pool) int {
		return cmp.Or(a.record.Since.Compare(b.record.Since), strings.Compare(a.key, b.key))
	})
	if fresh = fresh[:min(len(fresh), rulesLimit-len(s.rules))]; len(fresh) > 0 {
		for _, p := range fresh {
			s.rules = append(s.rules, &rule{check: p.record.Check, id: p.rule})
		}
		s.count()
		return
	}
	for _, r := range s.rules {
		s.grow(r)
	}
}

// grow offers more slots where few are left: at once where a pool already has one above them, else soon; s.mu is held.
func (s *Source) grow(r *rule) {
	need := max(r.size, firstSpares)
	for r.top > need || need-r.used <= max(fewSpares, need/4) {
		need += max(firstSpares, need/2)
	}
	switch need = min(need, slotsLimit); {
	case need <= r.size:
		return
	case r.size == 0 || r.top > r.size:
		r.size, r.next = need, 0
	default:
		r.next = need
		if s.growAt.IsZero() {
			s.growAt = time.Now().Add(growDelay)
		}
	}
	signal(s.more)
}

// reserve chooses the service of a new pool: a slot that has been free for a while before one that was not, so that nothing of the pool
// that had it is left; one above them where none is free, and "" where the rule has none, or where nobody knows yet which ones are free. It is
// kept until release.
func (s *Source) reserve(ctx context.Context, c model.Check) string {
	if loaded, _ := s.o.Store.Standing(); !loaded { // we have just begun
		soon, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		select {
		case <-s.known:
		case <-soon.Done():
		}
		if loaded, _ := s.o.Store.Standing(); !loaded {
			return ""
		}
	}
	id := ruleID(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look()
	i := slices.IndexFunc(s.rules, func(r *rule) bool { return r.id == id })
	size := 0
	switch {
	case i >= 0:
		size = s.rules[i].size
	case len(s.rules) >= rulesLimit:
		return ""
	}
	chosen, since := "", time.Time{}
	for n := range slotsLimit {
		slot := slotName(id, n)
		if s.taken[slot] != nil || s.reserved[slot] {
			continue
		}
		at, rests := s.rested[slot]
		if n >= size && chosen != "" {
			break
		}
		if chosen == "" || !rests || at.Before(since) {
			chosen, since = slot, at
		}
		if !rests {
			break
		}
	}
	s.reserved[chosen] = true
	return chosen
}

func (s *Source) release(slot string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look() // before another call looks which ones are free
	delete(s.reserved, slot)
}

// giveUp takes slots that older pools have out of the records of younger ones, until ctx ends. Several balancers may do the same.
func (s *Source) giveUp(ctx context.Context) {
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.mend:
		case <-again:
		}
		s.mu.Lock()
		s.look()
		lost := s.lost
		s.mu.Unlock()
		again = nil
		for _, p := range lost {
			err := s.o.Store.Update(ctx, p.key, func(old []byte) ([]byte, error) {
				r, err := decode(old)
				if old == nil || err != nil || r.Service != p.slot {
					return old, nil //nolint:nilerr // it is another one by now
				}
				r.Service = ""
				return encode(r)
			})
			switch {
			case err == nil:
				s.o.Log.Info("two pools took the same spare service, the later one has its own", "pattern", p.pattern.String(), "service", p.slot)
			default: // that the store is away is told elsewhere; what is served does not depend on this
				s.o.Log.Debug("a spare service stands in two pools", "pattern", p.pattern.String(), "error", err)
				again = time.After(time.Second)
			}
		}
	}
}

// Spares is the source of the services without servers that are there for pools to come. They never become fewer: that would be a reload.
type Spares struct{ s *Source }

var _ discovery.Source = Spares{}

// Spares gives the second source, which runs beside the first one.
func (s *Source) Spares() Spares { return Spares{s} }

// Name is "spares".
func (Spares) Name() string { return sparesName }

// Run puts a Snapshot once the pools are known, and when there are more spares, until ctx ends.
func (v Spares) Run(ctx context.Context, to discovery.Sink) error {
	s := v.s
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.known:
	}
	put := -1
	for {
		s.mu.Lock()
		wait := time.Until(s.growAt)
		if !s.growAt.IsZero() && wait <= 0 {
			s.growAt = time.Time{}
			for _, r := range s.rules {
				r.size, r.next = max(r.size, r.next), 0
			}
		}
		var due <-chan time.Time
		if !s.growAt.IsZero() {
			due = time.After(wait)
		}
		all := 0
		for _, r := range s.rules {
			all += r.size
		}
		var next model.Snapshot
		if all != put {
			next = s.spares()
		}
		s.mu.Unlock()
		if all != put { // they only grow
			put = all
			s.o.Log.Debug("spare services for pools", "services", all)
			to.Put(next)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.more:
		case <-due:
		}
	}
}

// spares gives one Offer a rule; s.mu is held.
func (s *Source) spares() model.Snapshot {
	out := model.Snapshot{Source: sparesName}
	for _, r := range s.rules {
		o := model.Offer{Owner: model.Owner{Source: sparesName, Name: r.id}, Yields: true}
		for n := range r.size {
			o.Services = append(o.Services, s.service(slotName(r.id, n), "", r.check))
		}
		out.Offers = append(out.Offers, o)
	}
	return out
}

// FirstSpares are the spare services for rules that are expected, without a source: what a text has before any pool is known.
func FirstSpares(owner model.Owner, expected []model.Check, t model.Timeouts) model.Offer {
	o := model.Offer{Owner: owner, Yields: true}
	for _, c := range expected {
		for n := range firstSpares {
			o.Services = append(o.Services, serviceRow(slotName(ruleID(c), n), "", c, t))
		}
	}
	return o
}

// recallSpares begins with what an earlier process offered, and with the rules that are expected.
func (s *Source) recallSpares() {
	if e := s.o.EarlierSpares; e != nil {
		for i := range e.Offers {
			if services := e.Offers[i].Services; len(services) > 0 && len(services) <= slotsLimit {
				s.startWith(services[0].Check, len(services))
			}
		}
	}
	for _, c := range s.o.Expected {
		s.startWith(c, firstSpares)
	}
}

func (s *Source) startWith(c model.Check, size int) {
	id := ruleID(c)
	if len(s.rules) < rulesLimit && !slices.ContainsFunc(s.rules, func(r *rule) bool { return r.id == id }) {
		s.rules = append(s.rules, &rule{check: c, id: id, size: size})
	}
}

func signal(to chan struct{}) {
	select {
	case to <- struct{}{}:
	default: // who reads it sees this with the last one
	}
}
