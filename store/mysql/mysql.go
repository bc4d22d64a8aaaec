package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/store/sqldb"
)

var dialect = &sqldb.Dialect{
	ForUpdate: " FOR UPDATE",
	Upsert:    " ON DUPLICATE KEY UPDATE value = VALUES(value), revision = VALUES(revision)",
	// VARBINARY: keys are bytes; text would fold upper and lower case, and blanks at the end.
	Tables: []string{
		"CREATE TABLE IF NOT EXISTS fnlb_meta (name VARBINARY(300) PRIMARY KEY, value LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL) ENGINE = InnoDB",
		"CREATE TABLE IF NOT EXISTS fnlb_records (name VARBINARY(300) PRIMARY KEY, value LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin," +
			" revision BIGINT NOT NULL, KEY fnlb_records_revision (revision)) ENGINE = InnoDB",
	},
	HasTable: "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?",
	Alone:    alone,
	Value: func(err error) bool {
		if errors.Is(err, mysql.ErrPktTooLarge) {
			return true
		}
		e, ok := errors.AsType[*mysql.MySQLError](err)
		if !ok {
			return false
		}
		switch e.Number {
		case 1153, // packet larger than max_allowed_packet
			1264, 1265, 1366, 1406: // out of range, truncated, incorrect string, too long
			return true
		case 1105: // of no kind: a value that had to be sent in pieces, which the driver does with what is larger than a packet
			return strings.Contains(e.Message, "max_allowed_packet")
		}
		return false
	},
}

// lockWait is in seconds.
const lockWait = 4

// alone holds a lock of the server that is named for the database. What defines tables commits by itself here, so that the lock is no
// transaction's.
func alone(ctx context.Context, db *sql.DB, do func(context.Context, sqldb.Execer) error) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	var locked sql.NullInt64
	if err := conn.QueryRowContext(ctx, "SELECT GET_LOCK(CONCAT('fnlb.', SHA1(DATABASE())), "+strconv.Itoa(lockWait)+")").Scan(&locked); err != nil {
		return err
	}
	if locked.Int64 != 1 {
		return errors.New("another balancer is making the tables")
	}
	err = do(ctx, conn)
	_, unlock := conn.ExecContext(ctx, "DO RELEASE_LOCK(CONCAT('fnlb.', SHA1(DATABASE())))")
	return errors.Join(err, unlock)
}

// Pool sizes where the address says nothing: one connection writes, one reads.
const connections = 2

// pool are the parameters that size the pool, with the names that they have for PostgreSQL.
type pool struct {
	most           int
	life, idleTime time.Duration
}

func poolOf(q url.Values) (p pool, err error) {
	p = pool{most: connections, life: time.Hour, idleTime: idle}
	for name, to := range map[string]func(string) error{
		"pool_max_conns":          func(v string) (err error) { p.most, err = strconv.Atoi(v); return err },
		"pool_max_conn_lifetime":  func(v string) (err error) { p.life, err = time.ParseDuration(v); return err },
		"pool_max_conn_idle_time": func(v string) (err error) { p.idleTime, err = time.ParseDuration(v); return err },
	} {
		if !q.Has(name) {
			continue
		}
		if err := to(q.Get(name)); err != nil {
			return p, fmt.Errorf("mysql: parameter %s is %q: write a number of connections, or a time such as 30m", name, q.Get(name))
		}
		q.Del(name)
	}
	if p.most < 1 {
		return p, errors.New("mysql: parameter pool_max_conns is less than 1: write 2 or more")
	}
	return p, nil
}

// serverIdle is after how many seconds the server ends a connection that says nothing, and with it a transaction whose owner is gone, and its
// lock. Ours ends before that by itself.
const (
	serverIdle = 10
	idle       = 5 * time.Second
)

// configure reads what the address says of the server.
func configure(a store.Address) (*mysql.Config, pool, error) {
	q := a.Query()
	p, err := poolOf(q)
	if err != nil {
		return nil, p, a.Mask(err)
	}
	dsn := a.Network() + "(" + a.Host() + ")/" + url.PathEscape(a.Database())
	if len(q) > 0 {
		dsn += "?" + q.Encode()
	}
	c, err := mysql.ParseDSN(dsn) // without user and password, which so cannot be in its error
	if err != nil {
		return nil, p, a.Mask(fmt.Errorf("mysql: %w", err))
	}
	c.User, c.Passwd = a.User(), a.Password()
	c.Logger = &mysql.NopLogger{} // it would write to standard error what is returned anyway
	c.MultiStatements = false
	if !q.Has("interpolateParams") {
		c.InterpolateParams = true // else each statement is prepared first, one more way there and back
	}
	if !q.Has("maxAllowedPacket") {
		c.MaxAllowedPacket = 0 // asks the server, which would cut the connection otherwise
	}
	if !q.Has("timeout") {
		c.Timeout = connectLimit
	}
	if c.Params == nil {
		c.Params = map[string]string{}
	}
	if c.Params["wait_timeout"] == "" {
		c.Params["wait_timeout"] = strconv.Itoa(serverIdle)
	}
	return c, p, nil
}

const connectLimit = 4 * time.Second

// Check says whether the parameters of the address can be read.
func Check(a store.Address) error {
	_, _, err := configure(a)
	return err
}

// Open connects.
func Open(ctx context.Context, a store.Address) (store.DB, error) {
	c, p, err := configure(a)
	if err != nil {
		return nil, err
	}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, a.Mask(fmt.Errorf("mysql: %w", err))
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(p.most)
	db.SetMaxIdleConns(p.most)
	db.SetConnMaxLifetime(p.life)
	db.SetConnMaxIdleTime(p.idleTime)
	opened, err := sqldb.Open(ctx, sqldb.Options{Dialect: dialect, Write: db, Read: db, Mask: a.Mask, Explain: explain})
	if err != nil {
		return nil, err
	}
	return opened, nil
}

// explain adds what to do.
func explain(err error) error {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		return err
	}
	mend := ""
	switch e.Number {
	case 1044, 1045, 1698:
		mend = "look at user and password, and at what the user may do from this host"
	case 1049:
		mend = "make it with CREATE DATABASE"
	case 1142:
		mend = "the user needs the rights CREATE, SELECT, INSERT, UPDATE and DELETE on the database"
	case 1290, 1792, 1836:
		mend = "this server only reads: name the one that writes"
	case 1021, 1114:
		mend = "no space left on the server's disk: make room"
	}
	if mend == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, mend)
}
