package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/store/sqldb"
)

var dialect = &sqldb.Dialect{
	Upsert: " ON CONFLICT (name) DO UPDATE SET value = excluded.value, revision = excluded.revision",
	Tables: []string{
		"CREATE TABLE IF NOT EXISTS fnlb_meta (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)",
		"CREATE TABLE IF NOT EXISTS fnlb_records (name TEXT PRIMARY KEY NOT NULL, value TEXT, revision INTEGER NOT NULL)",
		"CREATE INDEX IF NOT EXISTS fnlb_records_revision ON fnlb_records (revision)",
	},
	HasTable: "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = ?",
	Alone:    alone,
	Value: func(err error) bool {
		code := code(err)
		return code == lib.SQLITE_TOOBIG || code == lib.SQLITE_CONSTRAINT || code == lib.SQLITE_MISMATCH
	},
}

// alone: the transaction begins with the lock on writing.
func alone(ctx context.Context, db *sql.DB, do func(context.Context, sqldb.Execer) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := do(ctx, tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// code is SQLite's, without what extends it; 0 for other errors.
func code(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

// busyWait is for another program to end its transaction, in milliseconds; less than what a call may take.
const busyWait = "1500"

// Open makes the file and its folder where there is none, readable for us alone.
func Open(ctx context.Context, a store.Address) (store.DB, error) {
	f, err := prepare(a.File())
	if err != nil {
		return nil, a.Mask(fmt.Errorf("open %s: %w%s", a.File(), err, mendRights(err)))
	}
	own := url.Values{"_txlock": {"immediate"}, "_pragma": {"busy_timeout(" + busyWait + ")", "journal_mode(WAL)", "synchronous(FULL)"}}
	write, err := f.connections(own, a.Query())
	if err != nil {
		return nil, a.Mask(fmt.Errorf("open %s: %w", f.path, f.explain(err)))
	}
	read, err := f.connections(url.Values{"_pragma": {"busy_timeout(" + busyWait + ")", "query_only(1)"}}, a.Query())
	if err != nil {
		return nil, errors.Join(a.Mask(fmt.Errorf("open %s: %w", f.path, f.explain(err))), write.Close())
	}
	if err := f.check(ctx, write); err != nil {
		return nil, errors.Join(a.Mask(fmt.Errorf("open %s: %w", f.path, f.explain(err))), read.Close(), write.Close())
	}
	var seen version
	return opened(sqldb.Open(ctx, sqldb.Options{
		Dialect: dialect, Write: write, Read: read, Mask: a.Mask, Explain: f.explain, Still: f.still,
		Poll: func(ctx context.Context) (bool, error) { return seen.moved(ctx, read) },
	}))
}

func opened(db *sqldb.DB, err error) (store.DB, error) {
	if err != nil {
		return nil, err
	}
	return db, nil
}

// file is the one that is open.
type file struct {
	path string
	is   os.FileInfo
}

// prepare looks at the file before SQLite does, which would tell less of what is wrong.
func prepare(name string) (*file, error) {
	path, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("%w: name a file in a folder that can be made", err)
	}
	made, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	switch {
	case err == nil:
		if err := made.Close(); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrExist):
		return nil, bare(err)
	}
	is, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, bare(err)
	case is.IsDir():
		return nil, errors.New("it is a folder: name a file in it")
	case !is.Mode().IsRegular():
		return nil, errors.New("it is no regular file: name one")
	}
	if err := judge(path, is.Size()); err != nil {
		return nil, err
	}
	return &file{path, is}, nil
}

// header is what every SQLite file begins with.
const header = "SQLite format 3\x00"

// judge looks at the beginning: SQLite takes a file of some bytes for an empty one, and writes over it.
func judge(path string, size int64) error {
	if size == 0 {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return bare(err)
	}
	defer f.Close()
	is := make([]byte, len(header))
	if _, err := io.ReadFull(f, is); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return bare(err)
	}
	if string(is) != header {
		return errors.New(noDatabase)
	}
	return nil
}

// mendRights is what to do about rights that are missing.
func mendRights(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Sprintf(": make the file and its folder readable and writable for user %d", os.Getuid())
	}
	return ""
}

// bare is an error without the path, which stands before it already.
func bare(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// connections gives one connection, which is opened when it is used first. Parameters of the address come last and win.
func (f *file) connections(own, asked url.Values) (*sql.DB, error) {
	q := own
	for name, values := range asked {
		if name == "_pragma" {
			values = append(q[name], values...)
		}
		q[name] = values
	}
	connector, err := sqlite.NewConnector("file://" + (&url.URL{Path: f.path}).EscapedPath() + "?" + q.Encode())
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	return db, nil
}

// check has SQLite look at every page: records are few, and a damaged file must not be written to.
func (f *file) check(ctx context.Context, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, "PRAGMA quick_check(1)")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var said string
		if err := rows.Scan(&said); err != nil {
			return err
		}
		if said != "ok" {
			return fmt.Errorf("%w (%s)", errDamaged, strings.Join(strings.Fields(said), " "))
		}
	}
	return rows.Err()
}

var errDamaged = errors.New("the file is damaged")

// explain adds what to do.
func (f *file) explain(err error) error {
	mend := ""
	switch code(err) {
	case lib.SQLITE_NOTADB:
		mend = noDatabase
	case lib.SQLITE_CORRUPT:
		mend = damaged
	case lib.SQLITE_FULL:
		mend = "no space left on its disk: make room"
	case lib.SQLITE_READONLY, lib.SQLITE_PERM, lib.SQLITE_CANTOPEN:
		mend = fmt.Sprintf("make the file and its folder readable and writable for user %d, on a disk that is not read-only", os.Getuid())
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED:
		mend = "another program has it locked: end that one"
	case lib.SQLITE_IOERR:
		mend = f.full()
	}
	if errors.Is(err, errDamaged) {
		mend = damaged
	}
	if mend == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, mend)
}

const noDatabase = "it is no SQLite database and was left as it is: name another file"

const damaged = "it was left as it is: put a backup in its place, or move it away to begin with what the balancers know, or try `sqlite3 FILE .recover`"

// full tells why writing goes wrong when SQLite does not know: a full disk has more than one face.
func (f *file) full() string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(f.path, &s); err == nil && s.Bavail == 0 {
		return "no space left on its disk: make room"
	}
	return "its disk does not work"
}

// still says whether the path leads to what is open.
func (f *file) still() error {
	is, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s was deleted", f.path)
	case err != nil:
		return err
	case !os.SameFile(is, f.is):
		return fmt.Errorf("%s was replaced by another file", f.path)
	case is.Size() == 0:
		return fmt.Errorf("%s was emptied", f.path)
	}
	return nil
}

// version is what SQLite counts when another connection changes the file.
type version struct {
	known bool
	is    int64
}

// moved is much cheaper than a query: it looks at shared memory.
func (v *version) moved(ctx context.Context, db *sql.DB) (bool, error) {
	was := *v
	if err := db.QueryRowContext(ctx, "PRAGMA data_version").Scan(&v.is); err != nil {
		return false, err
	}
	v.known = true
	return *v != was, nil
}
