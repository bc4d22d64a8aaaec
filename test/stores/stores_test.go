package stores

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/store/storetest"
	"github.com/fnlb/fnlb/test/e2e"
)

func TestMain(m *testing.M) {
	code := e2e.Main(m)
	storetest.StopShared()
	os.Exit(code)
}

// database is an empty one of a test's own.
type database struct {
	kind  string
	url   string
	file  string           // of SQLite
	proxy *storetest.Proxy // in front of a server; nil for SQLite
}

// kinds are what --db can name.
var kinds = []struct {
	name string
	make func(*testing.T) database
}{
	{"sqlite", func(t *testing.T) database {
		file := filepath.Join(e2e.TempDir(t), "nodes.db")
		return database{url: "sqlite3://" + file, file: file}
	}},
	{"postgres", func(t *testing.T) database { return served(t, storetest.SharedPostgres(t)) }},
	{"mariadb", func(t *testing.T) database { return served(t, storetest.SharedMariaDB(t)) }},
}

func served(t *testing.T, s *storetest.Server) database {
	t.Helper()
	proxy := storetest.NewProxy(t, s.Socket)
	return database{url: s.URL(s.Database(t), proxy), proxy: proxy}
}

// each runs a test for each database on each HAProxy, side by side.
func each(t *testing.T, f func(t *testing.T, h haproxytest.HAProxy, db database)) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
				t.Parallel()
				db := k.make(t)
				db.kind = k.name
				f(t, h, db)
			})
		})
	}
}

// start gives a balancer on the database that answers.
func (db database) start(t *testing.T, h haproxytest.HAProxy, args ...string) *e2e.Balancer {
	t.Helper()
	b := e2e.New(t, e2e.TempDir(t))
	db.run(b, h, args...)
	return b
}

func (db database) run(b *e2e.Balancer, h haproxytest.HAProxy, args ...string) {
	b.T.Helper()
	b.Run(h, append([]string{"--db", db.url}, args...)...)
	b.Eventually(func() string { return text(b.Get("/1/lb/nodes", nil)) })
}

func stop(b *e2e.Balancer) {
	b.T.Helper()
	b.Signal(syscall.SIGTERM)
	if code := b.WaitExit(); code != 0 {
		b.T.Fatalf("fnlb ends with %d", code)
	}
}

func text(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

// answer is what the management API answers.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask calls the management API.
func ask(ctx context.Context, b *e2e.Balancer, method, path, body string) (a answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, e2e.Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+b.Mgmt+path, bytes.NewBufferString(body))
	if err != nil {
		return a, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return a, err
	}
	data, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(data)}, errors.Join(err, resp.Body.Close())
}

func put(t *testing.T, b *e2e.Balancer, body string) answer {
	t.Helper()
	a, err := ask(t.Context(), b, http.MethodPut, "/1/lb/nodes", body)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// listed gives the nodes of a balancer with weight and state, sorted.
func listed(b *e2e.Balancer) (string, error) {
	var list struct {
		Nodes []struct {
			Node   string
			Weight int
			State  string
		}
	}
	if err := b.Get("/1/lb/nodes?full=1", &list); err != nil {
		return "", err
	}
	var all []string
	for _, n := range list.Nodes {
		all = append(all, fmt.Sprintf("%s %d %s", n.Node, n.Weight, n.State))
	}
	slices.Sort(all)
	return strings.Join(all, ", "), nil
}

func waitListed(b *e2e.Balancer, want ...string) {
	b.T.Helper()
	slices.Sort(want)
	b.Eventually(func() string {
		if got, err := listed(b); err != nil || got != strings.Join(want, ", ") {
			return fmt.Sprintf("listed %q (%v), want %q", got, err, want)
		}
		return ""
	})
}

// TestShared: what is asked of one balancer serves at the other; the flag's nodes too; a node that was deleted stays so until a start whose
// flag names it.
func TestShared(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy, db database) {
		flagged, added := e2e.NewNode(t, "flagged"), e2e.NewNode(t, "added")
		a := db.start(t, h, "--nodes", flagged.Addr)
		b := db.start(t, h)
		a.WaitOnline(flagged)
		b.WaitOnline(flagged)

		if got := put(t, a, fmt.Sprintf(`{"node":%q,"weight":7}`, added.Addr)); got.status != http.StatusOK {
			t.Fatal(got)
		}
		b.WaitOnline(flagged, added)
		if got := put(t, b, fmt.Sprintf(`{"node":%q,"state":"drain"}`, added.Addr)); got.status != http.StatusOK {
			t.Fatal(got)
		}
		for _, x := range []*e2e.Balancer{a, b} {
			waitListed(x, flagged.Addr+" 1 ready", added.Addr+" 7 drain")
		}

		mark := len(b.Log())
		b.Delete(flagged.Addr)
		a.Delete(added.Addr)
		for _, x := range []*e2e.Balancer{a, b} {
			waitListed(x)
		}
		if strings.Contains(b.Log()[mark:], "brings it back") {
			t.Error("b's flag names no node")
		}
		a.Put(added.Addr)
		stop(a)
		db.run(a, h)
		a.WaitOnline(added)
		stop(a)
		db.run(a, h, "--nodes", flagged.Addr)
		a.WaitOnline(flagged, added)
		b.WaitOnline(flagged, added)
		mark = len(a.Log())
		a.Delete(flagged.Addr)
		a.WaitLog(mark, "a new start with that flag brings it back", flagged.Addr)
		b.WaitOnline(added)
	})
}
