package nodes

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
)

// Kind is the first part of the keys of our records: KIND/HOST:PORT.
const Kind = "nodes"

func keyOf(name string) string { return Kind + "/" + name }

// record is what the store keeps of a node, as JSON. A table of the original gives empty ones. Fields may be added; of what a newer
// fnlb wrote we keep what we know.
type record struct {
	Weight model.Weight `json:"weight,omitzero"`
	Admin  model.Admin  `json:"state,omitzero"`
	Since  time.Time    `json:"since,omitzero"` // when it was added
	By     string       `json:"by,omitempty"`   // who asked for what it is now
}

// wish changes what is wished for, and says whether that is a change.
func (r *record) wish(w model.NodeWish, by string) bool {
	was := *r
	if w.Weight != nil {
		r.Weight = *w.Weight
	}
	if w.Admin != nil {
		r.Admin = *w.Admin
	}
	if *r == was {
		return false
	}
	r.By = by
	return true
}

// node is a record as it was read. It is never changed, but for what says that an initial one was withdrawn.
type node struct {
	key     string // of the record
	value   []byte
	name    string         // model.Node.String; empty: the record's key cannot be read
	rename  bool           // the record has another key than the canonical one
	record  record         // of an initial one
	out     *atomic.Bool   // of an initial one: somebody has deleted it, it is not to be written any more
	offer   model.Offer    // of one server; none where there is a problem
	problem *model.Problem // why it is not offered
}

// read makes a node of a record.
func (s *Source) read(r store.Record) *node {
	n := &node{key: r.Key, value: r.Value}
	written := r.Key[len(Kind)+1:]
	bad := func(k model.Kind, reason, mend string) *node {
		n.problem = &model.Problem{Kind: k, Owner: model.Owner{Source: name, Name: model.Printable(written)}, Reason: reason, Mend: mend}
		return n
	}
	parsed, err := model.ParseNode(written)
	if err != nil {
		return bad(model.Invalid, "in the store stands a node that cannot be read: "+err.Error(), "delete its record")
	}
	n.name = parsed.String()
	n.rename = n.name != written
	var kept record
	if err := json.Unmarshal(r.Value, &kept); err != nil {
		return bad(model.Invalid, "what the store has of it cannot be read: "+model.Printable(err.Error()), "PUT it again")
	}
	if err := s.allowed(parsed); err != nil {
		return bad(model.Refused, "node "+err.Error(), "")
	}
	n.offer = s.offer(parsed, kept)
	return n
}

// allowed judges an address; a name is judged after it was resolved, each time again (the supervisor does).
func (s *Source) allowed(n model.Node) error {
	if !n.IP.IsValid() {
		return nil
	}
	return s.o.Policy.Check(netip.AddrPortFrom(n.IP, n.Port))
}

func (s *Source) offer(n model.Node, r record) model.Offer {
	o := model.Offer{Owner: model.Owner{Source: name, Name: n.String()}, Since: r.Since, By: r.By}
	o.Servers = []model.Server{{
		Service: s.o.Service, Name: n.ServerName(), IP: n.IP, Host: n.Host, Many: n.Many, Port: n.Port, Weight: r.Weight, Admin: r.Admin,
	}}
	return o
}

func parse(n string) (model.Node, *model.Problem) {
	parsed, err := model.ParseNode(n)
	if err != nil {
		return model.Node{}, &model.Problem{Kind: model.Invalid, Owner: model.Owner{Source: name}, Reason: err.Error()}
	}
	return parsed, nil
}

// changed gives the store's change for a wish: a record that is not there, or cannot be read, is made of the fresh one.
func changed(fresh record, w model.NodeWish, by string) store.Change {
	return func(old []byte) ([]byte, error) {
		r := fresh
		if old != nil {
			kept := record{}
			if err := json.Unmarshal(old, &kept); err == nil {
				if !kept.wish(w, by) {
					return old, nil
				}
				return encode(kept)
			}
		}
		r.wish(w, by)
		return encode(r)
	}
}

func encode(r record) ([]byte, error) {
	value, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode a node: %w", err)
	}
	return value, nil
}
