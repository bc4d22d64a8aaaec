package sqldb

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"

	"github.com/fnlb/fnlb/store"
)

// migrations lead from each version of the schema to the next, the first one from nothing. One that does not run to its end is begun again,
// so that each must bear its own traces: not every database undoes what was made.
var migrations = []func(context.Context, *DB, Execer) error{first}

// migrate makes the tables what this version expects, alone.
func (d *DB) migrate(ctx context.Context) error {
	version, err := d.version(ctx, d.o.Write)
	if err == nil && version == int64(len(migrations)) {
		return nil // without waiting for anybody
	}
	if err != nil {
		return err
	}
	return d.o.Dialect.Alone(ctx, d.o.Write, func(ctx context.Context, q Execer) error {
		version, err := d.version(ctx, q) // somebody may have been faster
		if err != nil {
			return err
		}
		for ; version < int64(len(migrations)); version++ {
			if err := migrations[version](ctx, d, q); err != nil {
				return fmt.Errorf("make schema %d: %w", version+1, err)
			}
			if err := d.putMeta(ctx, q, "schema", strconv.FormatInt(version+1, 10)); err != nil {
				return fmt.Errorf("make schema %d: %w", version+1, err)
			}
		}
		return nil
	})
}

// version is that of the schema, 0 when there is none. One that is newer than ours is an error.
func (d *DB) version(ctx context.Context, q Execer) (int64, error) {
	found, err := d.hasTable(ctx, q, "fnlb_meta")
	if err != nil || !found {
		return 0, err
	}
	rows, err := q.QueryContext(ctx, "SELECT value FROM fnlb_meta WHERE name = 'schema'")
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var m meta
	for rows.Next() {
		var value string
		if err := rows.Scan(&value); err != nil {
			return 0, err
		}
		if err := m.set("schema", value); err != nil {
			return 0, err
		}
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	if m.schema > int64(len(migrations)) {
		return 0, m.check()
	}
	return m.schema, nil
}

func (d *DB) hasTable(ctx context.Context, q Execer, name string) (bool, error) {
	rows, err := q.QueryContext(ctx, d.o.Dialect.HasTable, name)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		if err := rows.Scan(&n); err != nil {
			return false, err
		}
	}
	return n > 0, rows.Err()
}

// putMeta writes a row of fnlb_meta, there or not.
func (d *DB) putMeta(ctx context.Context, q Execer, name, value string) error {
	holder := d.o.Dialect.holders
	if _, err := q.ExecContext(ctx, "DELETE FROM fnlb_meta WHERE name = "+holder(0, 1), name); err != nil {
		return err
	}
	_, err := q.ExecContext(ctx, "INSERT INTO fnlb_meta (name, value) VALUES ("+holder(0, 2)+")", name, value)
	return err
}

// first makes the tables and takes over the nodes of docker-loadbalancer.
func first(ctx context.Context, d *DB, q Execer) error {
	for _, statement := range d.o.Dialect.Tables {
		if _, err := q.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	note, err := d.takeOver(ctx, q)
	if err != nil {
		return fmt.Errorf("take over table lb_nodes: %w", err)
	}
	for _, m := range [][2]string{{"id", rand.Text()}, {"revision", "1"}, {"pruned", "0"}, {"touched", ""}, {"lb_nodes", note}} {
		if err := d.putMeta(ctx, q, m[0], m[1]); err != nil {
			return err
		}
	}
	return nil
}

// takeOver makes a record of each address in lb_nodes, a table that is left as it is. It happens with the first schema and so once: who
// deletes a node does not find it again.
func (d *DB) takeOver(ctx context.Context, q Execer) (note string, err error) {
	found, err := d.hasTable(ctx, q, "lb_nodes")
	if err != nil || !found {
		return "none", err
	}
	addresses, err := d.addresses(ctx, q)
	if err != nil {
		return "", err
	}
	taken := 0
	for _, address := range addresses {
		key := "nodes/" + strings.TrimSpace(address)
		if store.CheckKey(key) != nil {
			continue // no node has such a name
		}
		if _, err := q.ExecContext(ctx, "INSERT INTO fnlb_records (name, value, revision) VALUES ("+d.o.Dialect.holders(0, 3)+")"+d.o.Dialect.Upsert, key, "{}", 1); err != nil {
			return "", err
		}
		taken++
	}
	return fmt.Sprintf("%d of %d taken over", taken, len(addresses)), nil
}

func (d *DB) addresses(ctx context.Context, q Execer) (list []string, err error) {
	rows, err := q.QueryContext(ctx, "SELECT address FROM lb_nodes ORDER BY address")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var address string
		if err := rows.Scan(&address); err != nil {
			return nil, err
		}
		list = append(list, address)
	}
	return list, rows.Err()
}
