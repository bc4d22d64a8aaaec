package open_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/store/open"
	"github.com/fnlb/fnlb/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m, nil) }

// TestBind: each kind has its database, and what cannot be right is said before anything is connected to.
func TestBind(t *testing.T) {
	bound := func(address string) error {
		t.Helper()
		a, err := store.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		to, err := open.Bind(a)
		if (to == nil) != (a.Kind() == store.Memory) {
			t.Errorf("%s: bound is %v", a, to != nil)
		}
		return err
	}
	for _, address := range []string{"sqlite3://:memory:", "sqlite3://x.db", "postgres://u:p@h/d?sslmode=require&pool_max_conns=3", "pgx://a:1,b:2/d?target_session_attrs=read-write",
		"mysql://u:p@h/d?tls=true&pool_max_conns=3&pool_max_conn_lifetime=1m", "mariadb://u:p@unix(/x)/d?collation=utf8mb4_bin"} {
		if err := bound(address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"postgres://u:s3cret@h/d?sslmode=maybe", "postgres://u:s3cret@h/d?pool_max_conns=x", "postgres://u:s3cret@h/d?sslmode=require&sslrootcert=/none",
		"mysql://u:s3cret@h/d?tls=none", "mysql://u:s3cret@h/d?pool_max_conns=0", "mysql://u:s3cret@h/d?pool_max_conns=x", "mysql://u:s3cret@h/d?timeout=x"} {
		if err := bound(address); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %v", address, err)
		}
	}
	a, err := store.Parse("sqlite3://" + filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	to, err := open.Bind(a)
	if err != nil {
		t.Fatal(err)
	}
	db, err := to(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}
