package pools

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
)

// Kind is the first part of the keys of our records: KIND/PATTERN.
const Kind = "pools"

func keyOf(p model.Pattern) string { return Kind + "/" + p.String() }

// record is what the store keeps of a pool, as JSON. Fields may be added.
type record struct {
	Check    model.Check `json:"check"`
	BasePath string      `json:"base_path,omitempty"` // of all members
	Service  string      `json:"service,omitempty"`   // the slot that it has; empty: a service of its own
	Members  []member    `json:"members,omitempty"`   // sorted
	Since    time.Time   `json:"since"`               // when the pool was added
	By       string      `json:"by,omitempty"`        // who asked for what it is now
}

type member struct {
	IP   netip.Addr `json:"ip"`
	Port uint16     `json:"port"`
}

func compare(a, b member) int {
	return netip.AddrPortFrom(a.IP, a.Port).Compare(netip.AddrPortFrom(b.IP, b.Port))
}

// find gives the place of a member.
func (r *record) find(m member) (int, bool) { return slices.BinarySearchFunc(r.Members, m, compare) }

// decode reads a record strictly enough to be offered.
func decode(value []byte) (record, error) {
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return r, errors.New(model.Printable(err.Error()))
	}
	if err := check.Validate(r.Check); err != nil {
		return r, err
	}
	if r.BasePath != "" {
		if err := model.ValidBasePath(r.BasePath); err != nil {
			return r, err
		}
	}
	if _, ok := slotOf(r.Service, ruleID(r.Check)); !ok || r.BasePath != "" {
		r.Service = "" // of a version that numbered rules otherwise
	}
	for i, m := range r.Members {
		if !m.IP.IsValid() || m.IP.Zone() != "" || m.Port == 0 || i > 0 && compare(r.Members[i-1], m) >= 0 {
			return r, fmt.Errorf("its member %d is none, or not in order", i+1)
		}
	}
	return r, nil
}

func encode(r record) ([]byte, error) {
	value, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode a pool: %w", err)
	}
	return value, nil
}

// pool is a record as it was read. It is never changed.
type pool struct {
	key     string
	value   []byte
	pattern model.Pattern
	record  record
	rule    string         // of its check; empty where it cannot be read
	slot    string         // that the record has
	service string         // that it has
	offer   model.Offer    // none where there is a problem
	problem *model.Problem // why it is not offered
}

func (s *Source) read(r store.Record) *pool {
	p := &pool{key: r.Key, value: r.Value}
	written := r.Key[len(Kind)+1:]
	bad := func(k model.Kind, reason, mend string) *pool {
		p.problem = &model.Problem{Kind: k, Owner: model.Owner{Source: name, Name: model.Printable(written)}, Reason: reason, Mend: mend}
		return p
	}
	var err error
	if p.pattern, err = model.ParsePattern(written); err != nil {
		return bad(model.Invalid, "in the store stands a pool that cannot be read: "+err.Error(), "delete its record")
	}
	if p.record, err = decode(r.Value); err != nil {
		return bad(model.Invalid, "what the store has of it cannot be read: "+err.Error(), "remove the pool and add it again")
	}
	p.rule, p.slot = ruleID(p.record.Check), p.record.Service
	for _, m := range p.record.Members {
		if err := s.o.Policy.Check(netip.AddrPortFrom(m.IP, m.Port)); err != nil {
			return bad(model.Refused, "backend "+err.Error(), "remove that backend")
		}
	}
	p.service = cmp.Or(p.slot, serviceOf(p.pattern))
	p.offer = s.offer(p.pattern, p.record, p.service)
	return p
}

// serve gives the same pool with another service.
func (s *Source) serve(p *pool, service string) *pool {
	other := *p
	other.service = service
	other.offer = s.offer(p.pattern, p.record, service)
	return &other
}

// offer is what a pool asks for.
func (s *Source) offer(p model.Pattern, r record, service string) model.Offer {
	o := model.Offer{Owner: model.Owner{Source: name, Name: p.String()}, Since: r.Since, By: r.By}
	o.Routes = []model.Route{s.route(p, service)}
	o.Services = []model.Service{s.service(service, r.BasePath, r.Check)}
	for _, m := range r.Members {
		o.Servers = append(o.Servers, model.Server{Service: service, Name: nameOf(m), IP: m.IP, Port: m.Port})
	}
	return o
}

func (s *Source) route(p model.Pattern, service string) model.Route {
	return model.Route{Bind: s.o.Bind, Pattern: p, Service: service}
}

func (s *Source) service(name, basePath string, c model.Check) model.Service {
	return serviceRow(name, basePath, c, s.o.Timeouts)
}

func serviceRow(name, basePath string, c model.Check, t model.Timeouts) model.Service {
	return model.Service{Name: name, Algorithm: model.TwoRandom, BasePath: basePath, Check: c, Timeouts: t}
}

func nameOf(m member) string { return model.Member{IP: m.IP, Port: m.Port}.Name() }

// serviceOf names the service of a pool without a slot: readable, and another one for each pattern.
func serviceOf(p model.Pattern) string {
	text := p.String()
	sum := sha256.Sum256([]byte(text))
	readable := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		}
		return '_'
	}, text), "_")
	if readable == "" {
		readable = "root"
	}
	if len(readable) > 30 {
		readable = readable[:30]
	}
	return "pool:" + readable + ":" + hex.EncodeToString(sum[:5])
}
