package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/store/postgres"
	"github.com/fnlb/fnlb/store/storetest"
)

func TestFaults(t *testing.T) { storetest.Faults(t, storetest.SharedPostgres(t), postgres.Open) }

func TestKill(t *testing.T) { storetest.Kill(t, storetest.NewPostgres(t), postgres.Open) }

func TestSecrets(t *testing.T) {
	storetest.Secrets(t, storetest.SharedPostgres(t), postgres.Open, func(user, password, _ string) string {
		// A superuser, since the tables are those of whoever came first.
		return fmt.Sprintf("CREATE ROLE %s LOGIN SUPERUSER PASSWORD '%s'", user, strings.ReplaceAll(password, "'", "''"))
	})
}

func TestFigures(t *testing.T) {
	s := storetest.OwnPostgres(t, true)
	storetest.Figures(t, s.URL(s.Database(t), nil), postgres.Open)
}
