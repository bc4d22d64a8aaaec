package sqldb

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/fnlb/fnlb/store"
)

// Deletions are forgotten each pruneEach revisions when they are older than remembered.
const (
	pruneEach  = 1000
	remembered = 10_000
)

// stepRows is how many rows a statement has at most.
const stepRows = 100

// Apply makes the edits in one transaction.
func (d *DB) Apply(ctx context.Context, edits []store.Edit) ([]error, error) {
	errs := make([]error, len(edits))
	// Rows are written many in a statement. When one of them cannot be, each has its own, which tells which, and all is done again without.
	for single := false; ; single = true {
		bad, err := d.try(ctx, edits, errs, single)
		if err == nil {
			return errs, nil
		}
		switch {
		case bad < 0 && single, bad < 0 && (len(edits) == 0 || !d.o.Dialect.Value(err)):
			return nil, d.say("write", err)
		case bad >= 0:
			errs[bad] = &store.Refused{Key: edits[bad].Key, Reason: d.say("the database refuses it", err).Error()}
		}
	}
}

// try makes one try without those edits that have an error, and fills in the others'. bad is the edit whose row could not be written, when
// they are written one by one, else -1.
func (d *DB) try(ctx context.Context, edits []store.Edit, errs []error, single bool) (bad int, err error) {
	if err := d.still(); err != nil {
		return -1, err
	}
	tx, err := d.o.Write.BeginTx(ctx, &sql.TxOptions{Isolation: d.o.Dialect.Isolation})
	if err != nil {
		return -1, err
	}
	committed := false
	defer func() {
		if !committed {
			tx.Rollback() //nolint:errcheck // that of a transaction that has ended already, or of a lost connection
		}
	}()
	t := &transaction{d: d, tx: tx}
	if err := t.begin(ctx, edits); err != nil {
		return -1, err
	}
	refusals := make([]error, len(edits))
	for i, e := range edits {
		if errs[i] == nil {
			refusals[i] = t.edit(i, e)
		}
	}
	writes := t.writes()
	if len(writes) == 0 && len(edits) > 0 {
		merge(errs, refusals)
		return -1, nil
	}
	if bad, err := t.write(ctx, writes, single); err != nil {
		return bad, err
	}
	committed = true
	err = tx.Commit()
	if err == nil {
		err = d.still() // else it went into a file that is gone
	}
	if err != nil && len(edits) > 0 {
		err = fmt.Errorf("%w: %w", store.ErrUnknown, err)
	}
	if err != nil {
		return -1, err
	}
	merge(errs, refusals)
	return -1, nil
}

func merge(errs, refusals []error) {
	for i, err := range refusals {
		if err != nil {
			errs[i] = err
		}
	}
}

// transaction is one that holds the lock on the revision.
type transaction struct {
	d    *DB
	tx   *sql.Tx
	meta meta
	rows map[string]*held
}

// held is a row as it was and as it becomes.
type held struct {
	was, now sql.NullString
	there    bool // also a deleted one
	by       int  // the last edit that changed it
}

// begin takes the lock and reads the rows of the edits.
func (t *transaction) begin(ctx context.Context, edits []store.Edit) error {
	var locked string
	err := t.tx.QueryRowContext(ctx, "SELECT value FROM fnlb_meta WHERE name = 'revision'"+t.d.o.Dialect.ForUpdate).Scan(&locked)
	if err != nil {
		return fmt.Errorf("lock the revision: %w", err)
	}
	keys := make([]any, 0, len(edits))
	t.rows = make(map[string]*held, len(edits))
	for _, e := range edits {
		if t.rows[e.Key] == nil {
			t.rows[e.Key] = &held{}
			keys = append(keys, e.Key)
		}
	}
	for step := range slices.Chunk(append(keys, ""), stepRows) { // at least one, for meta
		m, rows, err := read(ctx, t.tx, selectMeta+" UNION ALL SELECT name, value, revision FROM fnlb_records WHERE name IN ("+t.d.o.Dialect.holders(0, len(step))+")", step...)
		if err != nil {
			return err
		}
		t.meta = m
		for _, r := range rows {
			if h := t.rows[r.name]; h != nil {
				h.was, h.now, h.there = r.value, r.value, true
			}
		}
	}
	return nil
}

// edit runs one change.
func (t *transaction) edit(i int, e store.Edit) error {
	h := t.rows[e.Key]
	if e.Lost && h.there && !h.now.Valid {
		return nil
	}
	var old []byte
	if h.now.Valid {
		old = []byte(h.now.String)
	}
	now, err := e.Change(old)
	if err != nil {
		return err
	}
	h.now, h.by = sql.NullString{String: string(now), Valid: now != nil}, i
	return nil
}

// write is a row to be written.
type write struct {
	key   string
	value sql.NullString
	by    int
}

// writes are those rows that differ, in the order of their keys: two transactions never wait for each other's rows.
func (t *transaction) writes() []write {
	var list []write
	for key, h := range t.rows {
		if h.now != h.was {
			list = append(list, write{key, h.now, h.by})
		}
	}
	slices.SortFunc(list, func(a, b write) int { return strings.Compare(a.key, b.key) })
	return list
}

func (t *transaction) exec(ctx context.Context, query string, args ...any) error {
	_, err := t.tx.ExecContext(ctx, query, args...)
	return err
}

func (t *transaction) setMeta(ctx context.Context, name, value string) error {
	holder := t.d.o.Dialect.holders
	return t.exec(ctx, "UPDATE fnlb_meta SET value = "+holder(0, 1)+" WHERE name = "+holder(1, 1), value, name)
}

// write writes the rows under the next revision, or, when there are none, a row of meta.
func (t *transaction) write(ctx context.Context, writes []write, single bool) (bad int, err error) {
	if len(writes) == 0 {
		return -1, t.setMeta(ctx, "touched", rand.Text())
	}
	next, rows := t.meta.revision+1, stepRows
	if single {
		rows = 1
	}
	deleted := false
	for step := range slices.Chunk(writes, rows) {
		values, args := make([]string, len(step)), make([]any, 0, 3*len(step))
		for i, w := range step {
			values[i] = "(" + t.d.o.Dialect.holders(len(args), 3) + ")"
			args = append(args, w.key, w.value, next)
			deleted = deleted || !w.value.Valid
		}
		if err := t.exec(ctx, "INSERT INTO fnlb_records (name, value, revision) VALUES "+strings.Join(values, ", ")+t.d.o.Dialect.Upsert, args...); err != nil {
			if single && t.d.o.Dialect.Value(err) {
				return step[0].by, err
			}
			return -1, err
		}
	}
	if err := t.setMeta(ctx, "revision", strconv.FormatInt(next, 10)); err != nil {
		return -1, err
	}
	if next%pruneEach == 0 {
		if err := t.prune(ctx, next-remembered); err != nil {
			return -1, err
		}
	}
	if t.d.o.Dialect.Notify != "" {
		return -1, t.exec(ctx, t.d.o.Dialect.Notify)
	}
	return -1, nil
}

// prune forgets deletions up to a revision.
func (t *transaction) prune(ctx context.Context, upTo int64) error {
	if upTo <= 0 {
		return nil
	}
	if err := t.exec(ctx, "DELETE FROM fnlb_records WHERE value IS NULL AND revision <= "+t.d.o.Dialect.holders(0, 1), upTo); err != nil {
		return err
	}
	return t.setMeta(ctx, "pruned", strconv.FormatInt(upTo, 10))
}
