package model

// Verdict is what a source made of something that it looked at.
type Verdict uint8

// The verdicts.
const (
	Offered Verdict = iota // it is offered; whether it serves is the supervisor's to find
	Waiting                // it will be offered by itself, once what Reason says has come
	LeftOut                // it asks for something that cannot be
	Ignored                // it does not want to be offered
)

var verdicts = [...]string{"offered", "waiting", "left-out", "ignored"}

func (v Verdict) String() string { return name(verdicts[:], v) }

// MarshalText gives the verdict's name.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads the verdict's name.
func (v *Verdict) UnmarshalText(b []byte) error { return unname(verdicts[:], v, b) }

// Found is what a source made of one thing in its world and why, for those who ask why something is there or is not. It decides
// nothing.
type Found struct {
	Owner   Owner    `json:"owner"`
	ID      string   `json:"id,omitempty"` // what the source's world calls it
	Verdict Verdict  `json:"verdict"`
	Listen  string   `json:"listen,omitempty"`  // HOST:PORT that it is offered at
	Server  string   `json:"server,omitempty"`  // "SERVICE/NAME" that it became
	Address string   `json:"address,omitempty"` // IP:PORT of that server
	Reason  string   `json:"reason,omitempty"`
	Mend    string   `json:"mend,omitempty"`
	Notes   []string `json:"notes,omitempty"` // what was decided for it, and what of it means nothing
}
