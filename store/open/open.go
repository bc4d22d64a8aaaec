package open

import (
	"context"

	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/store/mysql"
	"github.com/fnlb/fnlb/store/postgres"
	"github.com/fnlb/fnlb/store/sqlite"
)

// Bind gives what opens the database at the address, for store.Options; nil for one that is only memory. An error is about parameters of
// the address; nothing is connected to yet.
func Bind(a store.Address) (func(context.Context) (store.DB, error), error) {
	bind := func(open func(context.Context, store.Address) (store.DB, error)) func(context.Context) (store.DB, error) {
		return func(ctx context.Context) (store.DB, error) { return open(ctx, a) }
	}
	switch a.Kind() {
	case store.SQLite:
		return bind(sqlite.Open), nil
	case store.Postgres:
		_, err := postgres.Configure(a)
		return bind(postgres.Open), err
	case store.MySQL:
		return bind(mysql.Open), mysql.Check(a)
	default:
		return nil, nil
	}
}
