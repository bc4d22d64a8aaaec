package model

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// State is what Merge gives: every key once, sorted. It is never changed after it was made.
type State struct {
	Revision uint64
	Rows
	Offers []Offer // accepted, oldest first
	Asked  []Asked // owners that went lately because somebody asked for it
}

// Equal compares the rows only: who offered them and when makes no difference to HAProxy.
func (s State) Equal(t State) bool {
	return slices.Equal(s.Routes, t.Routes) && slices.EqualFunc(s.Services, t.Services, Service.Equal) && slices.Equal(s.Servers, t.Servers) &&
		slices.EqualFunc(s.Listeners, t.Listeners, equalListener)
}

// Merge settles what the offers ask for. An offer is accepted whole or left out whole, with a Problem that names its owner:
//   - older offers win over younger ones, and what somebody asked for over a default that nobody did; ties go by owner;
//   - offers may share a key when they agree on its row; the oldest owns it;
//   - listeners of different addresses that overlap are a conflict, because HAProxy would share their clients out at random;
//   - an offer that names a service or listener which no accepted offer has is left out.
//
// The result does not depend on the order of the offers.
func Merge(offers []Offer) (State, []Problem) {
	order := slices.Clone(offers)
	slices.SortStableFunc(order, byPrecedence)
	var problems []Problem
	for {
		t := newTable(order)
		accepted := make([]Offer, 0, len(order))
		var refused []Problem
		for i := range order {
			if p, ok := t.accept(&order[i]); !ok {
				refused = append(refused, p)
				continue
			}
			accepted = append(accepted, order[i])
		}
		dangling := t.dangling(accepted)
		if len(dangling) == 0 {
			problems = append(problems, refused...)
			slices.SortStableFunc(problems, func(a, b Problem) int { return compareOwner(a.Owner, b.Owner) })
			return State{Rows: t.rows(), Offers: accepted}, problems
		}
		// What is left out may have stood in the way of others: settle the rest again.
		problems = append(problems, dangling...)
		out := make(map[Owner]bool, len(dangling))
		for _, p := range dangling {
			out[p.Owner] = true
		}
		order = slices.DeleteFunc(order, func(o Offer) bool { return out[o.Owner] })
	}
}

func byPrecedence(a, b Offer) int {
	if a.Yields != b.Yields {
		if a.Yields {
			return 1
		}
		return -1
	}
	return cmp.Or(a.Since.Compare(b.Since), compareOwner(a.Owner, b.Owner))
}

func compareOwner(a, b Owner) int {
	return cmp.Or(strings.Compare(a.Source, b.Source), strings.Compare(a.Name, b.Name))
}

// table holds what has been accepted so far.
type table struct {
	owners    map[Owner]bool
	listeners map[Bind]owned[Listener]
	byPort    map[uint16][]Bind
	routes    map[RouteKey]owned[Route]
	certs     map[Bind]owned[Route] // the first route of each listener that names a certificate
	services  map[string]owned[Service]
	servers   map[ServerKey]owned[Server]
}

type owned[T any] struct {
	row   T
	owner Owner
}

func newTable(offers []Offer) *table {
	return &table{
		owners:    make(map[Owner]bool, len(offers)),
		listeners: map[Bind]owned[Listener]{},
		byPort:    map[uint16][]Bind{},
		routes:    map[RouteKey]owned[Route]{},
		certs:     map[Bind]owned[Route]{},
		services:  map[string]owned[Service]{},
		servers:   make(map[ServerKey]owned[Server], len(offers)),
	}
}

// accept takes the offer into the table, or says why it cannot be.
func (t *table) accept(o *Offer) (Problem, bool) {
	if reason, kind := t.refuse(o); reason != "" {
		return Problem{Kind: kind, Owner: o.Owner, Reason: reason, Mend: mends[kind]}, false
	}
	t.owners[o.Owner] = true
	for _, l := range o.Listeners {
		if _, ok := t.listeners[l.Bind]; !ok {
			t.listeners[l.Bind] = owned[Listener]{l, o.Owner}
			t.byPort[l.Bind.Port] = append(t.byPort[l.Bind.Port], l.Bind)
		}
	}
	for _, r := range o.Routes {
		put(t.routes, r.Key(), r, o.Owner)
		if r.Cert != "" {
			put(t.certs, r.Bind, r, o.Owner)
		}
	}
	for _, s := range o.Services {
		put(t.services, s.Name, s, o.Owner)
	}
	for _, s := range o.Servers {
		s.Owner = o.Owner
		put(t.servers, s.Key(), s, o.Owner)
	}
	return Problem{}, true
}

var mends = map[Kind]string{
	Conflict: "change one of the two, or remove the older one",
	Invalid:  "correct it at its source",
}

func put[K comparable, T any](m map[K]owned[T], key K, row T, owner Owner) {
	if _, ok := m[key]; !ok {
		m[key] = owned[T]{row, owner}
	}
}

// refuse says why the offer cannot stand beside what is accepted; an empty reason means that it can.
func (t *table) refuse(o *Offer) (string, Kind) {
	if t.owners[o.Owner] {
		return "its source offered it twice", Invalid
	}
	for _, l := range o.Listeners {
		for _, b := range t.byPort[l.Bind.Port] {
			have := t.listeners[b]
			if b != l.Bind && b.Overlaps(l.Bind) {
				return fmt.Sprintf("listener %s overlaps %s of %s", l.Bind, b, have.owner), Conflict
			}
			if b == l.Bind && !equalListener(have.row, l) {
				return fmt.Sprintf("listener %s is another one at %s", l.Bind, have.owner), Conflict
			}
		}
	}
	for _, r := range o.Routes {
		if reason, kind := t.refuseRoute(r); reason != "" {
			return reason, kind
		}
	}
	for _, s := range o.Services {
		if !ValidName(s.Name) {
			return fmt.Sprintf("service name %s has characters other than A-Z a-z 0-9 _ . : -", shorten(s.Name)), Invalid
		}
		if s.BasePath != "" {
			if err := ValidBasePath(s.BasePath); err != nil {
				return fmt.Sprintf("base path %s of service %s: %v", shorten(s.BasePath), s.Name, err), Invalid
			}
		}
		if have, ok := t.services[s.Name]; ok && !have.row.Equal(s) {
			return fmt.Sprintf("service %s is another one at %s", s.Name, have.owner), Conflict
		}
	}
	for _, s := range o.Servers {
		if !s.validName() {
			return fmt.Sprintf("server name %s has characters other than A-Z a-z 0-9 _ . : -", shorten(s.Name)), Invalid
		}
		if have, ok := t.servers[s.Key()]; ok && !sameServer(have.row, s) {
			return fmt.Sprintf("server %s of service %s is another one at %s", s.Name, s.Service, have.owner), Conflict
		}
	}
	return "", Invalid
}

func (t *table) refuseRoute(r Route) (string, Kind) {
	if err := r.Validate(); err != nil {
		return fmt.Sprintf("route %s of listener %s: %v", shorten(r.String()), r.Bind, err), Invalid
	}
	switch have, ok := t.routes[r.Key()]; {
	case !ok || have.row == r:
	case r.Match == Rest:
		return fmt.Sprintf("listener %s leads to service %s by %s", r.Bind, have.row.Service, have.owner), Conflict
	default:
		return fmt.Sprintf("%s of listener %s leads to service %s by %s", r.Pattern, r.Bind, have.row.Service, have.owner), Conflict
	}
	if have, ok := t.certs[r.Bind]; ok && r.Cert != "" && have.row.Cert != r.Cert {
		return fmt.Sprintf("listener %s has another certificate by %s", r.Bind, have.owner), Conflict
	}
	return "", Invalid
}

// dangling lists the owners whose rows name what is not there.
func (t *table) dangling(accepted []Offer) []Problem {
	var out []Problem
	for i := range accepted {
		o := &accepted[i]
		why := ""
		for _, r := range o.Routes {
			if _, ok := t.listeners[r.Bind]; !ok {
				why = fmt.Sprintf("listener %s does not exist", r.Bind)
			}
			if _, ok := t.services[r.Service]; !ok {
				why = fmt.Sprintf("service %s does not exist", r.Service)
			}
		}
		for _, s := range o.Servers {
			if _, ok := t.services[s.Service]; !ok {
				why = fmt.Sprintf("service %s does not exist", s.Service)
			}
		}
		if why != "" {
			out = append(out, Problem{Kind: NotFound, Owner: o.Owner, Reason: why, Mend: "add what it names"})
		}
	}
	return out
}

func (t *table) rows() Rows {
	return Rows{
		Listeners: sorted(t.listeners, func(a, b Listener) int { return a.Bind.compare(b.Bind) }),
		Routes:    sorted(t.routes, Route.compare),
		Services:  sorted(t.services, func(a, b Service) int { return strings.Compare(a.Name, b.Name) }),
		Servers: sorted(t.servers, func(a, b Server) int {
			return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.Name, b.Name))
		}),
	}
}

func sorted[K comparable, T any](m map[K]owned[T], compare func(a, b T) int) []T {
	rows := make([]T, 0, len(m))
	for _, o := range m {
		rows = append(rows, o.row)
	}
	slices.SortFunc(rows, compare)
	return rows
}

func equalListener(a, b Listener) bool { return reflect.DeepEqual(a, b) }

func sameServer(a, b Server) bool {
	a.Owner, b.Owner = Owner{}, Owner{}
	return a == b
}
