package postgres_test

import (
	"context"
	"testing"

	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/store/postgres"
	"github.com/fnlb/fnlb/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m, postgres.Open) }

func opener(t testing.TB, url string) func(context.Context) (store.DB, error) {
	t.Helper()
	a, err := store.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context) (store.DB, error) { return postgres.Open(ctx, a) }
}

func TestSuite(t *testing.T) {
	s := storetest.SharedPostgres(t)
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		name := s.Database(t)
		return storetest.Fixture{Open: opener(t, s.URL(name, nil)), SQL: func(statements string) error { return s.SQL(name, statements) }}
	})
}
