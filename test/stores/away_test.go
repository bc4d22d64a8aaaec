package stores

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	_ "modernc.org/sqlite" // another process's lock on a file

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/store/storetest"
	"github.com/fnlb/fnlb/test/e2e"
)

// degraded waits until readyz answers 200 and names the source of nodes, or does not.
func degraded(b *e2e.Balancer, says string) {
	b.T.Helper()
	b.Eventually(func() string {
		var ready struct{ Degraded []string }
		if err := b.Get("/1/lb/readyz", &ready); err != nil {
			return err.Error()
		}
		all := strings.Join(ready.Degraded, "; ")
		found := strings.Contains(all, "source nodes: ")
		if found != (says != "") || !strings.Contains(all, says) {
			return fmt.Sprintf("readyz says %q, want %q", all, says)
		}
		return ""
	})
}

// refused is a PUT that the database does not take: it says so, and what is listed stays.
func refused(t *testing.T, b *e2e.Balancer, node string) {
	t.Helper()
	before, err := listed(b)
	if err != nil {
		t.Fatal(err)
	}
	got := put(t, b, fmt.Sprintf(`{"node":%q}`, node))
	var m struct{ Msg string }
	if err := json.Unmarshal([]byte(got.body), &m); err != nil || got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" ||
		!strings.Contains(m.Msg, "cannot be written") {
		t.Errorf("a PUT without the database: %d %v %s", got.status, got.header, got.body)
	}
	if after, err := listed(b); err != nil || after != before {
		t.Errorf("listed %q (%v) after it, %q before", after, err, before)
	}
}

// accepted waits until a PUT is taken again.
func accepted(b *e2e.Balancer, node string) {
	b.T.Helper()
	b.Eventually(func() string {
		got := put(b.T, b, fmt.Sprintf(`{"node":%q}`, node))
		if got.status != http.StatusOK {
			return got.body
		}
		return ""
	})
}

// TestAway: the database goes, silently or not, while requests run, is away at a start, and comes back.
func TestAway(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy, db database) {
		if db.proxy == nil {
			return // its faults are those of disks
		}
		const password = "se'cret-p@ss"
		if db.kind == "mariadb" {
			const user = `CREATE USER IF NOT EXISTS 'fnlb'@'localhost' IDENTIFIED BY 'se''cret-p@ss'; GRANT ALL ON *.* TO 'fnlb'@'localhost'`
			if err := storetest.SharedMariaDB(t).SQL("mysql", user); err != nil {
				t.Fatal(err)
			}
			db.url = strings.Replace(db.url, "root@", "fnlb@", 1)
		}
		db.url = strings.Replace(db.url, "@", ":"+url.PathEscape(password)+"@", 1)
		first, late := e2e.NewNode(t, "first"), e2e.NewNode(t, "late")
		b := db.start(t, h)
		b.Put(first.Addr)
		b.WaitOnline(first)
		done := e2e.Load(t, b.Traffic, e2e.Clients(0))

		db.proxy.Cut() // nobody's business
		accepted(b, first.Addr)
		degraded(b, "")

		db.proxy.Refuse(true)
		db.proxy.Cut()
		degraded(b, "database")
		refused(t, b, late.Addr)
		db.proxy.Refuse(false)
		degraded(b, "")

		db.proxy.Stall()
		b.Eventually(func() string { // silence shows when something is asked
			if got := put(t, b, fmt.Sprintf(`{"node":%q,"weight":2}`, first.Addr)); got.status != http.StatusServiceUnavailable {
				return fmt.Sprint(got)
			}
			return ""
		})
		degraded(b, "database")
		refused(t, b, late.Addr)
		db.proxy.Resume()
		degraded(b, "")

		db.proxy.Refuse(true)
		db.proxy.Cut()
		degraded(b, "database")
		if r := done(); r.Failed > 0 {
			t.Errorf("requests were lost: %v", r)
		}
		stop(b)
		b.Run(h, "--db", db.url, "--nodes", late.Addr) // the last known one serves, and that of the flag
		b.WaitOnline(first, late)
		degraded(b, "database")
		refused(t, b, "127.0.0.1:9")
		db.proxy.Refuse(false)
		accepted(b, first.Addr)
		degraded(b, "")
		other := db.start(t, h)
		other.WaitOnline(first, late)
		for _, x := range []*e2e.Balancer{b, other} {
			if strings.Contains(x.Log(), "cret-p") {
				t.Error("the password stands in the log")
			}
		}
		status, err := ask(t.Context(), b, http.MethodGet, "/1/lb/status", "")
		if err != nil || strings.Contains(status.body, "cret-p") {
			t.Errorf("the password stands in the status: %v", err)
		}
	})
}

// TestDamaged: a file that is no database, or a damaged one, is refused with what to do, and never written; so are a folder and a file that
// cannot be written.
func TestDamaged(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		dir := e2e.TempDir(t)
		damaged := filepath.Join(dir, "damaged.db")
		if err := os.WriteFile(damaged, []byte(strings.Repeat("this is no database\n", 1000)), 0o600); err != nil {
			t.Fatal(err)
		}
		node := e2e.NewNode(t, "a")
		b := e2e.New(t, e2e.TempDir(t))
		b.Run(h, "--db", "sqlite3://"+damaged, "--nodes", node.Addr)
		b.WaitOnline(node) // traffic goes on with what is known
		degraded(b, damaged)
		refused(t, b, "127.0.0.1:9")
		if data, err := os.ReadFile(damaged); err != nil || !strings.HasPrefix(string(data), "this is no database\n") || len(data) != 20000 {
			t.Errorf("the file was written: %d bytes, %v", len(data), err)
		}
		if err := os.Rename(damaged, damaged+".away"); err != nil { // what to do: it is moved away
			t.Fatal(err)
		}
		accepted(b, node.Addr)
		degraded(b, "")
	})
}

// TestLocked: a file that another process holds is waited for.
func TestLocked(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		file := filepath.Join(e2e.TempDir(t), "nodes.db")
		db := database{url: "sqlite3://" + file}
		node := e2e.NewNode(t, "a")
		b := db.start(t, h)
		b.Put(node.Addr)
		b.WaitOnline(node)
		other, err := sql.Open("sqlite", "file:"+file+"?_txlock=immediate&_pragma=busy_timeout(30000)")
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		lock, err := other.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		b.Eventually(func() string {
			if got := put(t, b, `{"node":"127.0.0.1:9"}`); got.status != http.StatusServiceUnavailable {
				return fmt.Sprint(got)
			}
			return ""
		})
		degraded(b, "locked")
		if err := lock.Rollback(); err != nil {
			t.Fatal(err)
		}
		accepted(b, node.Addr)
		degraded(b, "")
	})
}

// TestFullDisk: a disk without room, or one that may only be read, refuses changes; nothing is half-written.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		disk := e2e.NewDisk(t)
		db := database{url: "sqlite3://" + filepath.Join(disk.Dir, "nodes.db")}
		node := e2e.NewNode(t, "a")
		b := db.start(t, h)
		b.Put(node.Addr)
		b.WaitOnline(node)
		clear := disk.Fill()
		b.Eventually(func() string { // what was reserved may be used up first
			got := put(t, b, `{"node":"127.0.0.1:9"}`)
			if got.status == http.StatusOK {
				b.Delete("127.0.0.1:9")
				return "it is still written"
			}
			return ""
		})
		refused(t, b, "127.0.0.1:10")
		degraded(b, "database")
		clear()
		accepted(b, node.Addr)
		degraded(b, "")

		stop(b)
		writable := disk.ReadOnly()
		b.Run(h, "--db", db.url)
		b.WaitOnline(node)
		degraded(b, "database")
		refused(t, b, "127.0.0.1:10")
		writable()
		accepted(b, node.Addr)
		degraded(b, "")
		b.Signal(syscall.SIGKILL)
		b.WaitExit()
		db.run(b, h)
		b.WaitOnline(node)
	})
}

// TestEmptied: a server that comes back with an empty folder gets what the balancers know.
func TestEmptied(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		server := storetest.OwnPostgres(t, false)
		name := server.Database(t)
		db := database{url: server.URL(name, nil)}
		node := e2e.NewNode(t, "a")
		b := db.start(t, h)
		b.Put(node.Addr)
		b.WaitOnline(node)
		server.Stop()
		degraded(b, "database")
		server.Wipe(t)
		mark := len(b.Log())
		server.Start(t)
		if err := server.SQL("postgres", "CREATE DATABASE "+name); err != nil {
			t.Fatal(err)
		}
		b.WaitLog(mark, "the database was emptied")
		accepted(b, node.Addr)
		other := db.start(t, h)
		other.WaitOnline(node)
	})
}
