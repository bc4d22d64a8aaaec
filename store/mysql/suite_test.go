package mysql_test

import (
	"context"
	"testing"

	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/store/mysql"
	"github.com/fnlb/fnlb/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m, mysql.Open) }

func opener(t testing.TB, url string) func(context.Context) (store.DB, error) {
	t.Helper()
	a, err := store.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context) (store.DB, error) { return mysql.Open(ctx, a) }
}

func TestSuite(t *testing.T) {
	s := storetest.SharedMariaDB(t)
	fixture := func(t *testing.T) storetest.Fixture {
		name := s.Database(t)
		return storetest.Fixture{Open: opener(t, s.URL(name, nil)), SQL: func(statements string) error { return s.SQL(name, statements) }}
	}
	storetest.Run(t, fixture)
	storetest.RunSQL(t, fixture)
}
