package store

import (
	"context"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// Limits of a Record, in bytes.
const (
	MaxKey   = 300
	MaxValue = 1 << 20
)

// Record is one thing that is kept. Neither it nor its Value is ever changed.
type Record struct {
	Key   string // KIND/NAME, such as "nodes/10.0.0.1:80"; at most MaxKey bytes
	Value []byte // JSON, at most MaxValue bytes
}

// Change says what a record becomes. It gets the value as it is in the database, nil when there is none, and gives the new one, nil to delete
// it; one that is equal to old writes nothing. Its error refuses the change and is returned as it is. It may be called more than once, also on
// another goroutine; it must not keep or change old, nor call the Mirror.
type Change func(old []byte) (now []byte, err error)

// Edit is a Change of one record.
type Edit struct {
	Key    string
	Change Change
	// Lost has a record that the database knows to be deleted stay so. With it what was known is written back to a database that was emptied,
	// when others may have written and deleted there already.
	Lost bool
}

// Contents are all records of a database in one moment.
type Contents struct {
	ID      string   // of the database; another one means that it was made anew
	Records []Record // sorted by key; never changed
}

// DB is an open database. Its methods may be called at the same time. Every call ends when its context does.
type DB interface {
	// Load gives the whole in one moment.
	Load(ctx context.Context) (Contents, error)
	// Apply makes the edits in one transaction, in their order, and returns once it is durable. errs[i] is why edit i was refused, while the
	// others went on. With err nothing was done, or, when it is ErrUnknown, nobody knows. Without edits it writes something that is no record:
	// whether writing works.
	Apply(ctx context.Context, edits []Edit) (errs []error, err error)
	// Watch calls changed at the beginning and after changes by anybody, and blocks until it cannot; it returns why.
	Watch(ctx context.Context, changed func()) error
	Close() error
}

// ErrUnknown is that the answer to a commit was lost: the transaction was done or not, in whole.
var ErrUnknown = errors.New("it is not known whether the change was stored")

// Away is that the database cannot be reached, or cannot write. Nothing was changed, or, when it wraps ErrUnknown, nobody can tell yet.
type Away struct {
	Err error // without secrets
}

func (a *Away) Error() string { return "database: " + a.Err.Error() }

// Unwrap gives the reason.
func (a *Away) Unwrap() error { return a.Err }

// Refused is that a record cannot be kept, whatever the state of the database.
type Refused struct {
	Key    string
	Reason string
}

func (r *Refused) Error() string { return fmt.Sprintf("record %q: %s", clip(r.Key, 80), r.Reason) }

func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

// Kind gives the part of a key before the slash.
func Kind(key string) string {
	for i := range len(key) {
		if key[i] == '/' {
			return key[:i]
		}
	}
	return ""
}

// CheckKey says whether key may be a record's; the error is a *Refused.
func CheckKey(key string) error {
	kind := Kind(key)
	switch {
	case len(key) > MaxKey:
		return &Refused{key, fmt.Sprintf("a key has at most %d bytes, this one has %d", MaxKey, len(key))}
	case kind == "" || len(kind)+1 == len(key):
		return &Refused{key, "a key is KIND/NAME"}
	case !utf8.ValidString(key):
		return &Refused{key, "a key is UTF-8"}
	}
	for i := range len(kind) {
		if kind[i] < 'a' || kind[i] > 'z' {
			return &Refused{key, "a kind has the letters a to z"}
		}
	}
	for _, r := range key {
		if unicode.IsControl(r) {
			return &Refused{key, "a key has no control characters"}
		}
	}
	return nil
}
