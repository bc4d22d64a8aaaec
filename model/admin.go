package model

import (
	"fmt"
	"strconv"
)

// MaxWeight is the largest weight of a server (HAProxy's configuration manual, section 5.2, "weight").
const MaxWeight = 256

// Weight is a server's share of its service's requests, in proportion to the weights of the others; 0 gives it none. The zero value is
// what HAProxy takes where nobody says more, 1, so that a row without a weight and one with the default are equal.
type Weight uint16

// defaultWeight is HAProxy's. A Weight is kept as its difference in bits from that.
const defaultWeight = 1

// NewWeight gives the weight n, which must be from 0 to MaxWeight.
func NewWeight(n int) (Weight, error) {
	if n < 0 || n > MaxWeight {
		return 0, fmt.Errorf("the weight %d is not from 0 to %d", n, MaxWeight)
	}
	return Weight(n ^ defaultWeight), nil
}

// Int is the weight as HAProxy has it.
func (w Weight) Int() int { return int(w ^ defaultWeight) }

// String gives the number.
func (w Weight) String() string { return strconv.Itoa(w.Int()) }

// MarshalJSON gives the number.
func (w Weight) MarshalJSON() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalJSON reads the number.
func (w *Weight) UnmarshalJSON(b []byte) error {
	n, err := strconv.Atoi(string(b))
	if err != nil {
		return fmt.Errorf("weight: %w", err)
	}
	*w, err = NewWeight(n)
	return err
}

// Admin is what somebody asked for about a server, never what a check found.
type Admin uint8

// What may be asked for.
const (
	Ready Admin = iota // it takes requests while its checks pass
	Drain              // no new requests, but those that a session binds to it; its checks go on
	Maint              // it is left out of the text; requests that run finish
)

var admins = [...]string{"ready", "drain", "maint"}

func (a Admin) String() string { return name(admins[:], a) }

// MarshalText gives the name.
func (a Admin) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads the name.
func (a *Admin) UnmarshalText(b []byte) error { return unname(admins[:], a, b) }

// NodeWish is what somebody asks for about a node beside its existence; nil leaves what is.
type NodeWish struct {
	Weight *Weight
	Admin  *Admin
}

// Empty reports whether nothing is asked for.
func (w NodeWish) Empty() bool { return w == NodeWish{} }

// NodeRow is a node as its source lists it.
type NodeRow struct {
	Node   string // canonical HOST:PORT (Node.String)
	Server string // Name of its Server
	Weight Weight
	Admin  Admin
}
