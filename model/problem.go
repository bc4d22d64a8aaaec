package model

import (
	"fmt"
	"strings"
	"unicode"
)

// Kind says what sort of Problem it is; HTTP and gRPC map it to a code.
type Kind uint8

// The kinds of problems.
const (
	Invalid     Kind = iota // the input itself is wrong
	Conflict                // another owner has it
	NotFound                // it names what is not there
	Refused                 // it is well formed, and not allowed
	Unavailable             // it may work later
)

var kinds = [...]string{"invalid", "conflict", "not-found", "refused", "unavailable"}

func (k Kind) String() string { return name(kinds[:], k) }

// MarshalText gives the kind's name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the kind's name.
func (k *Kind) UnmarshalText(b []byte) error { return unname(kinds[:], k, b) }

// Problem is the one error an outsider sees: a node, a template, a flag, a certificate. Reason says what is wrong, Mend what
// to do about it.
type Problem struct {
	Kind   Kind   `json:"kind"`
	Owner  Owner  `json:"owner"`
	Reason string `json:"reason"`
	Mend   string `json:"mend,omitempty"`

	Place Place `json:"place,omitzero"` // the first line that Reason is about
}

// Place is a line of the configuration, and the line of the template that made it. Texts are as they may be shown: without
// passwords, at most 200 bytes.
type Place struct {
	ConfigLine   int    `json:"config_line,omitempty"` // from 1; 0: the template itself is at fault
	ConfigText   string `json:"config_text,omitempty"`
	Template     string `json:"template,omitempty"`      // its file
	TemplateLine int    `json:"template_line,omitempty"` // from 1; 0: not known
	TemplateText string `json:"template_text,omitempty"`
}

func (p Problem) Error() string {
	if p.Mend == "" {
		return p.Reason
	}
	return p.Reason + "; " + p.Mend
}

func name[T ~uint8](names []string, v T) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("unknown(%d)", uint8(v))
}

func unname[T ~uint8](names []string, v *T, text []byte) error {
	for i, n := range names {
		if n == string(text) {
			*v = T(i)
			return nil
		}
	}
	return fmt.Errorf("unknown name %q", text)
}

// Printable cuts what came from outside to what a line of log bears: 200 bytes of printable text.
func Printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:197], "") + "…"
	}
	return s
}
