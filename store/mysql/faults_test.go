package mysql_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/store/mysql"
	"github.com/fnlb/fnlb/store/storetest"
)

func TestFaults(t *testing.T) { storetest.Faults(t, storetest.SharedMariaDB(t), mysql.Open) }

func TestKill(t *testing.T) { storetest.Kill(t, storetest.NewMariaDB(t), mysql.Open) }

func TestSecrets(t *testing.T) {
	storetest.Secrets(t, storetest.SharedMariaDB(t), mysql.Open, func(user, password, database string) string {
		quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(password)
		return fmt.Sprintf("CREATE USER %s@localhost IDENTIFIED BY '%s'; GRANT ALL ON %s.* TO %s@localhost", user, quoted, database, user)
	})
}

func TestFigures(t *testing.T) {
	s := storetest.OwnMariaDB(t, true)
	storetest.Figures(t, s.URL(s.Database(t), nil), mysql.Open)
}
