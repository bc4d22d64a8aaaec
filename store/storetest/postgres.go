package storetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

var postgres = &kind{
	name: "pg",
	make: func(s *Server) error {
		bin, err := postgresBin()
		if err != nil {
			return err
		}
		data := filepath.Join(s.dir, "data")
		if err := s.run(bin+"/initdb", "--no-sync", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--pgdata="+data); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte("local all postgres trust\nlocal all all scram-sha-256\n"), 0o600)
	},
	start: func(s *Server) *exec.Cmd {
		bin, _ := postgresBin()
		s.Socket = filepath.Join(s.dir, ".s.PGSQL.5432")
		args := []string{"-D", filepath.Join(s.dir, "data"), "-k", s.dir, "-h", "", "-c", "shared_buffers=16MB", "-c", "max_connections=60"}
		if !s.fsync {
			args = append(args, "-F")
		}
		return s.command(bin+"/postgres", args...)
	},
	ready:  func(s *Server) error { return s.SQL("postgres", "SELECT 1") },
	stop:   syscall.SIGINT,
	admin:  "postgres",
	commit: "commit\x00", // not "read committed"
	ask: func(s *Server, database string) *exec.Cmd {
		return s.command("/usr/bin/psql", "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-h", s.dir, "-U", "postgres", "-d", database)
	},
	url: func(s *Server, database string, proxy *Proxy) string {
		if proxy != nil {
			return "postgres://postgres@" + proxy.Addr + "/" + database + "?sslmode=disable"
		}
		return "postgres://postgres@/" + database + "?host=" + s.dir
	},
}

// postgresBin is where Debian has the programs of the newest version that is installed.
func postgresBin() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("no PostgreSQL server below /usr/lib/postgresql")
	}
	slices.Sort(found)
	return filepath.Dir(found[len(found)-1]), nil
}

// SQL runs statements as the owner of the server.
func (s *Server) SQL(database, statements string) error {
	_, err := s.Ask(database, statements)
	return err
}

// Ask is SQL, and gives what comes out, one row a line.
func (s *Server) Ask(database, statements string) (string, error) {
	cmd := s.kind.ask(s, database)
	cmd.Stdin = strings.NewReader(statements)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// Database makes an empty one and gives its name.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	s.kind.mu.Lock()
	s.kind.made++
	name := fmt.Sprintf("test%d", s.kind.made)
	s.kind.mu.Unlock()
	if err := s.SQL(s.kind.admin, "CREATE DATABASE "+name); err != nil {
		t.Fatalf("make a database: %v", err)
	}
	return name
}

// URL is the address of a database: on the socket, or through a proxy.
func (s *Server) URL(database string, proxy *Proxy) string { return s.kind.url(s, database, proxy) }

// NewPostgres gives the address of an empty PostgreSQL database on the server that the tests of a package share.
func NewPostgres(t testing.TB) string { return newDatabase(t, postgres) }

// OwnPostgres gives a server that ends with the test. Without fsync it does not wait for the disk.
func OwnPostgres(t testing.TB, fsync bool) *Server { return postgres.own(t, fsync) }

// SharedPostgres is the server of NewPostgres.
func SharedPostgres(t testing.TB) *Server { return postgres.share(t) }

func newDatabase(t testing.TB, k *kind) string {
	t.Helper()
	s := k.share(t)
	return s.URL(s.Database(t), nil)
}
