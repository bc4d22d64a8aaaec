package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/store/sqldb"
)

// channel is what NOTIFY tells on.
const channel = "fnlb_records"

var dialect = &sqldb.Dialect{
	Numbered:  true,
	ForUpdate: " FOR UPDATE",
	Upsert:    " ON CONFLICT (name) DO UPDATE SET value = excluded.value, revision = excluded.revision",
	// Collation C: keys are bytes, and no change of the system's locales touches the index.
	Tables: []string{
		`CREATE TABLE IF NOT EXISTS fnlb_meta (name text COLLATE "C" PRIMARY KEY, value text NOT NULL)`,
		`CREATE TABLE IF NOT EXISTS fnlb_records (name text COLLATE "C" PRIMARY KEY, value text, revision bigint NOT NULL)`,
		`CREATE INDEX IF NOT EXISTS fnlb_records_revision ON fnlb_records (revision)`,
	},
	// Not to_regclass: it remembers for a while what was not there, also while we wait for the lock.
	HasTable:  "SELECT COUNT(*) FROM pg_catalog.pg_class WHERE relname = $1 AND relkind IN ('r', 'p') AND pg_catalog.pg_table_is_visible(oid)",
	Notify:    "SELECT pg_notify('" + channel + "', '')",
	Isolation: sql.LevelReadCommitted,
	Alone:     alone,
	// Data exceptions, constraints and limits of the program.
	Value: func(err error) bool {
		e, ok := errors.AsType[*pgconn.PgError](err)
		return ok && slices.Contains([]string{"22", "23", "54"}, e.Code[:min(2, len(e.Code))])
	},
}

// lockKey is "fnlb" in ASCII. An advisory lock is one of this database alone.
const lockKey = 0x666e6c62

func alone(ctx context.Context, db *sql.DB, do func(context.Context, sqldb.Execer) error) error {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", lockKey)); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := do(ctx, tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// Pool sizes where the address says nothing: one connection writes, one reads.
const connections = 2

// Configure reads what the address says of the server; pgx reads files that it names, and PG… of the environment.
func Configure(a store.Address) (*pgxpool.Config, error) {
	q := a.Query()
	u := url.URL{Scheme: "postgres", Host: a.Host(), Path: "/" + a.Database(), RawQuery: q.Encode()}
	if a.User() != "" {
		u.User = url.User(a.User())
	}
	c, err := pgxpool.ParseConfig(u.String()) // without the password, which so cannot be in its error
	if err != nil {
		return nil, a.Mask(fmt.Errorf("postgres: %w", err))
	}
	if a.Password() != "" {
		c.ConnConfig.Password = a.Password()
	}
	if !q.Has("pool_max_conns") {
		c.MaxConns = connections
	}
	if !q.Has("connect_timeout") {
		c.ConnConfig.ConnectTimeout = connectLimit
	}
	if c.ConnConfig.RuntimeParams["application_name"] == "" {
		c.ConnConfig.RuntimeParams["application_name"] = "fnlb"
	}
	return c, nil
}

const connectLimit = 4 * time.Second

// session is what each connection begins with. Whoever stops in the middle of a transaction, with the lock, must not stop all others; and
// what was answered must be on the disk.
const session = `SELECT set_config('idle_in_transaction_session_timeout', '5s', false), set_config('lock_timeout', '2s', false),
	CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END`

// Open connects.
func Open(ctx context.Context, a store.Address) (store.DB, error) {
	c, err := Configure(a)
	if err != nil {
		return nil, err
	}
	db := stdlib.OpenDB(*c.ConnConfig, stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, session)
		return err
	}))
	db.SetMaxOpenConns(int(c.MaxConns))
	db.SetMaxIdleConns(int(c.MaxConns))
	db.SetConnMaxLifetime(c.MaxConnLifetime)
	db.SetConnMaxIdleTime(c.MaxConnIdleTime)
	opened, err := sqldb.Open(ctx, sqldb.Options{
		Dialect: dialect, Write: db, Read: db, Mask: a.Mask, Explain: explain,
		Moved: func(ctx context.Context, changed func()) error { return listen(ctx, c.ConnConfig, changed) },
	})
	if err != nil {
		return nil, err
	}
	return opened, nil
}

// explain adds what to do.
func explain(err error) error {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	mend := ""
	switch {
	case strings.HasPrefix(e.Code, "28"):
		mend = "look at user and password, and at the server's pg_hba.conf"
	case e.Code == "3D000":
		mend = "make it with CREATE DATABASE"
	case e.Code == "42501":
		mend = "the user needs the right to make tables in the schema, or to use those that are there"
	case e.Code == "25006":
		mend = "this server only reads: name the one that writes, or all with target_session_attrs=read-write"
	case e.Code == "53100":
		mend = "no space left on the server's disk: make room"
	}
	if mend == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, mend)
}

// quiet is how long nothing needs to be told before the revision is looked at.
const quiet = 5 * time.Second

// listen tells of changes until its connection ends.
func listen(ctx context.Context, config *pgx.ConnConfig, changed func()) error {
	conn, err := connect(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), sqldb.PollLimit)
		defer cancel()
		conn.Close(ending) //nolint:errcheck // nothing is lost with it
	}()
	var was string
	for {
		now, err := revision(ctx, conn)
		if err != nil {
			return err
		}
		if now != was {
			was = now
			changed()
		}
		if err := notified(ctx, conn, changed); err != nil {
			return err
		}
	}
}

func connect(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return conn, nil
}

// revision also finds out whether the connection still leads anywhere.
func revision(ctx context.Context, conn *pgx.Conn) (is string, err error) {
	ctx, cancel := context.WithTimeout(ctx, sqldb.PollLimit)
	defer cancel()
	err = conn.QueryRow(ctx, "SELECT string_agg(name || value, ' ' ORDER BY name) FROM fnlb_meta WHERE name IN ('id', 'revision')").Scan(&is)
	return is, err
}

// notified tells of changes until it was quiet for a while.
func notified(ctx context.Context, conn *pgx.Conn, changed func()) error {
	for {
		waiting, cancel := context.WithTimeout(ctx, quiet)
		_, err := conn.WaitForNotification(waiting)
		cancel()
		switch {
		case err == nil:
			changed()
		case ctx.Err() != nil:
			return ctx.Err()
		case waiting.Err() != nil && !conn.IsClosed():
			return nil
		default:
			return err
		}
	}
}
