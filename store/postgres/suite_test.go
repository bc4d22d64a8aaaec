package postgres_test

import (
	"context"
	"fmt"
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

// TestSuite has a schema for each test: databases take much longer to make.
func TestSuite(t *testing.T) {
	s := storetest.SharedPostgres(t)
	database := s.Database(t)
	schemas := 0
	fixture := func(t *testing.T) storetest.Fixture {
		schemas++
		schema := fmt.Sprintf("schema%d", schemas)
		if err := s.SQL(database, "CREATE SCHEMA "+schema); err != nil {
			t.Fatal(err)
		}
		return storetest.Fixture{
			Open: opener(t, s.URL(database, nil)+"&search_path="+schema),
			SQL:  func(statements string) error { return s.SQL(database, "SET search_path = "+schema+"; "+statements) },
		}
	}
	storetest.Run(t, fixture)
	storetest.RunSQL(t, fixture)
}
