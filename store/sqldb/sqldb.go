package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fnlb/fnlb/store"
)

// Dialect is where databases differ.
type Dialect struct {
	Numbered  bool     // placeholders are $1, $2, …; else ?
	ForUpdate string   // ends a SELECT that locks its rows
	Upsert    string   // ends an INSERT into fnlb_records that replaces a row
	Tables    []string // make the tables where they are not there
	HasTable  string   // counts the tables of the name that is its one parameter
	Notify    string   // tells others of a change when the transaction commits; "" where nothing can
	Isolation sql.IsolationLevel

	// Alone calls do with a connection or transaction, while nobody else is in Alone with the same database.
	Alone func(ctx context.Context, db *sql.DB, do func(context.Context, Execer) error) error
	// Value tells whether a statement was refused because of the values in it, so that another one may go on.
	Value func(error) bool
}

// Execer is *sql.Conn or *sql.Tx.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Options are what an open database is made of.
type Options struct {
	Dialect *Dialect
	Write   *sql.DB                                         // closed with the database
	Read    *sql.DB                                         // may be the same
	Mask    func(error) error                               // takes secrets out of what drivers say
	Explain func(error) error                               // says how to mend; may be nil
	Still   func() error                                    // says whether what was opened is still what the address leads to; may be nil
	Moved   func(ctx context.Context, changed func()) error // blocks like store.DB.Watch; nil: the revision is polled
	Poll    func(context.Context) (moved bool, err error)   // before the revision is polled: whether there may be anything; may be nil
}

// DB is an open database.
type DB struct {
	o Options

	mu   sync.Mutex
	last contents // what Load read last
}

// contents are records and the revision that they are of.
type contents struct {
	store.Contents
	revision int64
}

var _ store.DB = (*DB)(nil)

// Open migrates the tables and gives the database. It closes o's on an error.
func Open(ctx context.Context, o Options) (*DB, error) {
	d := &DB{o: o}
	if err := d.migrate(ctx); err != nil {
		return nil, errors.Join(d.say("open", err), d.Close())
	}
	return d, nil
}

// say makes an error that may be shown.
func (d *DB) say(what string, err error) error {
	if err == nil {
		return nil
	}
	if d.o.Explain != nil {
		err = d.o.Explain(err)
	}
	return d.o.Mask(fmt.Errorf("%s: %w", what, err))
}

// Close ends all connections.
func (d *DB) Close() error {
	err := d.o.Write.Close()
	if d.o.Read != d.o.Write {
		err = errors.Join(d.o.Read.Close(), err)
	}
	return d.say("close", err)
}

// row is one of fnlb_meta (revision 0) or fnlb_records; a deleted record has no value.
type row struct {
	name     string
	value    sql.NullString
	revision int64
}

const selectMeta = "SELECT name, value, 0 FROM fnlb_meta"

// meta are the rows of fnlb_meta.
type meta struct {
	schema, revision, pruned int64
	id                       string
}

func (m *meta) set(name, value string) (err error) {
	number := func(to *int64) {
		if *to, err = strconv.ParseInt(value, 10, 64); err != nil {
			err = fmt.Errorf("row %q of table fnlb_meta is %q, which is no number: mend it or use another database", name, value)
		}
	}
	switch name {
	case "schema":
		number(&m.schema)
	case "revision":
		number(&m.revision)
	case "pruned":
		number(&m.pruned)
	case "id":
		m.id = value
	}
	return err
}

// read runs a query of rows and takes those of fnlb_meta apart.
func read(ctx context.Context, q Execer, query string, args ...any) (m meta, rows []row, err error) {
	result, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return m, nil, err
	}
	defer result.Close()
	for result.Next() {
		var r row
		if err := result.Scan(&r.name, &r.value, &r.revision); err != nil {
			return m, nil, err
		}
		if r.revision == 0 {
			if err := m.set(r.name, r.value.String); err != nil {
				return m, nil, err
			}
			continue
		}
		rows = append(rows, r)
	}
	if err := result.Err(); err != nil {
		return m, nil, err
	}
	return m, rows, m.check()
}

// check says whether this version understands the tables.
func (m *meta) check() error {
	switch {
	case m.schema > int64(len(migrations)):
		return fmt.Errorf("made by a newer fnlb (schema %d, this one knows %d): run that version or another database", m.schema, len(migrations))
	case m.schema < int64(len(migrations)) || m.id == "":
		return fmt.Errorf("table fnlb_meta is incomplete (schema %d, id %q)", m.schema, m.id)
	}
	return nil
}

// holders gives n placeholders, those after the first so many.
func (d *Dialect) holders(after, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		if d.Numbered {
			b.WriteString("$" + strconv.Itoa(after+i+1))
		} else {
			b.WriteByte('?')
		}
	}
	return b.String()
}

// Load reads what has changed since the last time, in one statement, which sees one moment.
func (d *DB) Load(ctx context.Context) (store.Contents, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.still(); err != nil {
		return store.Contents{}, d.say("read", err)
	}
	since := d.last.revision
	m, rows, err := d.since(ctx, since)
	if err == nil && since > 0 && (m.id != d.last.ID || m.revision < since || m.pruned > since) {
		// Emptied, put back from a backup, or changed more often than deletions are remembered.
		d.last = contents{}
		m, rows, err = d.since(ctx, 0)
	}
	if err != nil {
		return store.Contents{}, d.say("read", err)
	}
	changes := make([]store.Record, len(rows))
	for i, r := range rows {
		changes[i].Key = r.name
		if r.value.Valid {
			changes[i].Value = []byte(r.value.String)
		}
	}
	if len(changes) > 0 {
		d.last.Records = store.Merge(d.last.Records, changes)
	}
	d.last.ID, d.last.revision = m.id, m.revision
	return d.last.Contents, nil
}

func (d *DB) since(ctx context.Context, revision int64) (meta, []row, error) {
	return read(ctx, d.o.Read, selectMeta+" UNION ALL SELECT name, value, revision FROM fnlb_records WHERE revision > "+d.o.Dialect.holders(0, 1), revision)
}

func (d *DB) still() error {
	if d.o.Still == nil {
		return nil
	}
	return d.o.Still()
}

// Pauses of polling, and how long a poll may take.
const (
	pollPause = 250 * time.Millisecond
	PollLimit = 2 * time.Second
)

// Watch waits for what tells of changes, or polls the revision.
func (d *DB) Watch(ctx context.Context, changed func()) error {
	if d.o.Moved != nil {
		return d.say("watch", d.o.Moved(ctx, changed))
	}
	var was meta
	pause := time.NewTicker(pollPause)
	defer pause.Stop()
	for {
		now, err := d.poll(ctx, was)
		if err != nil {
			return d.say("watch", err)
		}
		if now != was {
			was = now
			changed()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-pause.C:
		}
	}
}

func (d *DB) poll(ctx context.Context, was meta) (meta, error) {
	ctx, cancel := context.WithTimeout(ctx, PollLimit)
	defer cancel()
	if err := d.still(); err != nil {
		return meta{}, err
	}
	if d.o.Poll != nil {
		if moved, err := d.o.Poll(ctx); err != nil || (!moved && was.id != "") {
			return was, err
		}
	}
	m, _, err := read(ctx, d.o.Read, selectMeta)
	return m, err
}
