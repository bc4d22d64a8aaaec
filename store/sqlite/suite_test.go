package sqlite_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/store/sqlite"
	"github.com/fnlb/fnlb/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m, sqlite.Open) }

func address(t testing.TB, text string) store.Address {
	t.Helper()
	a, err := store.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func opener(t testing.TB, path string) func(context.Context) (store.DB, error) {
	a := address(t, "sqlite3://"+path)
	return func(ctx context.Context) (store.DB, error) { return sqlite.Open(ctx, a) }
}

// byHand runs statements with a connection of its own.
func byHand(path, statements string) error {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(30000)")
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Exec(statements)
	return err
}

func TestSuite(t *testing.T) {
	fixture := func(t *testing.T) storetest.Fixture {
		path := filepath.Join(t.TempDir(), "made", "nodes.db")
		return storetest.Fixture{Open: opener(t, path), SQL: func(statements string) error {
			if err := prepareFolder(path); err != nil {
				return err
			}
			return byHand(path, statements)
		}}
	}
	storetest.Run(t, fixture)
	storetest.RunSQL(t, fixture)
}
