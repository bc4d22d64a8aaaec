package storetest

import (
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

var mariadb = &kind{
	name: "maria",
	make: func(s *Server) error {
		return s.run("/usr/bin/mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve",
			"--datadir="+filepath.Join(s.dir, "data"), "--tmpdir="+filepath.Join(s.dir, "tmp"), "--innodb-flush-log-at-trx-commit=2")
	},
	start: func(s *Server) *exec.Cmd {
		s.Socket = filepath.Join(s.dir, "socket")
		// A tmpdir of its own: servers that share one delete each other's temporary tables.
		args := []string{"--no-defaults", "--datadir=" + filepath.Join(s.dir, "data"), "--tmpdir=" + filepath.Join(s.dir, "tmp"), "--socket=" + s.Socket,
			"--pid-file=" + filepath.Join(s.dir, "pid"), "--skip-networking", "--skip-name-resolve", "--skip-log-bin", "--innodb-buffer-pool-size=32M", "--max-connections=60"}
		if !s.fsync {
			args = append(args, "--innodb-flush-log-at-trx-commit=2")
		}
		return s.command("/usr/sbin/mariadbd", args...)
	},
	ready:  func(s *Server) error { return s.SQL("mysql", "SELECT 1") },
	stop:   syscall.SIGTERM,
	admin:  "mysql",
	commit: "commit",
	ask: func(s *Server, database string) *exec.Cmd {
		return s.command("/usr/bin/mariadb", "--no-defaults", "--batch", "--skip-column-names", "--socket="+s.Socket, "--user=root", "--database="+database)
	},
	url: func(s *Server, database string, proxy *Proxy) string {
		if proxy != nil {
			return "mysql://root@" + proxy.Addr + "/" + database
		}
		return "mysql://root@unix(" + s.Socket + ")/" + database
	},
}

// NewMariaDB gives the address of an empty MariaDB database on the server that the tests of a package share.
func NewMariaDB(t testing.TB) string { return newDatabase(t, mariadb) }

// OwnMariaDB gives a server that ends with the test. Without fsync it does not wait for the disk.
func OwnMariaDB(t testing.TB, fsync bool) *Server { return mariadb.own(t, fsync) }

// SharedMariaDB is the server of NewMariaDB.
func SharedMariaDB(t testing.TB) *Server { return mariadb.share(t) }
