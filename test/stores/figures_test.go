package stores

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/store/open"
	"github.com/fnlb/fnlb/store/storetest"
	"github.com/fnlb/fnlb/test/e2e"
)

// How much is measured: few of it proves that the measurement works.
func sizes() (puts, rounds, many int) {
	if full() {
		return 3000, 200, 10_000
	}
	return 100, 3, 200
}

// TestFigures measures each database on its own, the servers with all that makes a write durable. It fails for what does not work, never
// for a figure.
func TestFigures(t *testing.T) {
	makers := map[string]func() database{
		"sqlite":   func() database { return database{url: "sqlite3://" + filepath.Join(e2e.TempDir(t), "nodes.db")} },
		"postgres": func() database { return owned(t, storetest.OwnPostgres(t, true)) },
		"mariadb":  func() database { return owned(t, storetest.OwnMariaDB(t, true)) },
	}
	for _, name := range []string{"sqlite", "postgres", "mariadb"} {
		t.Run(name, func(t *testing.T) {
			haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
				if h.Version != "3.0" { // the database is measured, not HAProxy
					return
				}
				db := makers[name]()
				puts, rounds, many := sizes()
				figure(t, "%s: %s", name, db.durable(t, h, puts))
				figure(t, "%s: %s", name, db.shared(t, h, rounds))
				figure(t, "%s: %s", name, db.large(t, h, many))
			})
		})
	}
}

// figure prints a line that the bench collects.
func figure(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Logf("figure: "+format, args...)
}

func owned(t *testing.T, s *storetest.Server) database {
	t.Helper()
	return database{url: s.URL(s.Database(t), nil)}
}

// durable measures PUTs that are answered when they are durable: those of one client, and of many at once.
func (db database) durable(t *testing.T, h haproxytest.HAProxy, puts int) string {
	b := db.start(t, h, "--hc-interval", "3") // the default: that of other tests would measure probes
	defer stop(b)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	call := func(ctx context.Context, method, node string) error {
		req, err := http.NewRequestWithContext(ctx, method, "http://"+b.Mgmt+"/1/lb/nodes", strings.NewReader(fmt.Sprintf(`{"node":%q}`, node)))
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s %s: status %d, %w", method, node, resp.StatusCode, err)
		}
		return nil
	}
	const clients = 32
	// The nodes are not at the address at which the balancer itself has ports: those it refuses.
	rate := func(workers int) float64 {
		begin := time.Now()
		g, ctx := errgroup.WithContext(t.Context())
		for w := range workers {
			g.Go(func() error {
				for i := range puts / workers {
					if err := call(ctx, http.MethodPut, fmt.Sprintf("127.0.0.2:%d", 10_000+w*(puts/workers)+i)); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		took := time.Since(begin)
		g, ctx = errgroup.WithContext(t.Context())
		g.SetLimit(clients)
		for i := range puts {
			g.Go(func() error { return call(ctx, http.MethodDelete, fmt.Sprintf("127.0.0.2:%d", 10_000+i)) })
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		return float64(puts/workers*workers) / took.Seconds()
	}
	return fmt.Sprintf("%.0f durable PUTs a second of one client, %.0f of %d", rate(1), rate(clients), clients)
}

// shared measures the time from the answer of a PUT at one balancer until another one sends the node its first request.
func (db database) shared(t *testing.T, h haproxytest.HAProxy, rounds int) string {
	a, b := db.start(t, h), db.start(t, h)
	defer stop(a)
	defer stop(b)
	node := e2e.NewNode(t, "a")
	var took []time.Duration
	for range rounds {
		a.Put(node.Addr)
		begin := time.Now()
		for {
			if status := get(t, b.Traffic); status == http.StatusOK {
				break
			}
			if time.Since(begin) > e2e.Patience {
				t.Fatal("the other balancer does not serve it")
			}
		}
		took = append(took, time.Since(begin))
		a.Delete(node.Addr)
		waitListed(b)
		b.WaitApplied()
	}
	slices.Sort(took)
	at := func(q int) time.Duration { return took[len(took)*q/100].Round(time.Millisecond) }
	return fmt.Sprintf("PUT at one balancer, served at another: median %s, p99 %s (%d rounds)", at(50), at(99), rounds)
}

// get asks for a page over a connection of its own; 0 when there is no answer.
func get(t *testing.T, addr string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	return resp.StatusCode
}

// large measures a start with many stored nodes, all of which answer.
func (db database) large(t *testing.T, h haproxytest.HAProxy, many int) string {
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	node := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"version":"0.0.235"}`))
	}), ReadHeaderTimeout: e2e.Patience}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := node.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	defer serving.Wait()
	defer node.Close() //nolint:errcheck // its connections are cut
	db.fill(t, many, l.Addr().(*net.TCPAddr).Port)
	b := e2e.New(t, e2e.TempDir(t))
	begin := time.Now()
	db.run(b, h, "--hc-interval", "3")
	defer stop(b)
	b.Eventually(func() string {
		list, err := b.Nodes()
		online := 0
		for _, state := range list {
			if state == "online" {
				online++
			}
		}
		if online != many {
			return fmt.Sprintf("%d of %d are online (%v)", online, many, err)
		}
		return ""
	})
	return fmt.Sprintf("start with %d kept nodes, all checked and serving after %s", many, time.Since(begin).Round(10*time.Millisecond))
}

// fill writes nodes to the database, each with a loopback address of its own.
func (db database) fill(t *testing.T, many, port int) {
	t.Helper()
	address, err := store.Parse(db.url)
	if err != nil {
		t.Fatal(err)
	}
	opener, err := open.Bind(address)
	if err != nil {
		t.Fatal(err)
	}
	d, err := opener(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var edits []store.Edit
	for i := range many {
		node := fmt.Sprintf("127.1.%d.%d:%d", i/250, i%250+1, port)
		edits = append(edits, store.Edit{Key: "nodes/" + node, Change: func([]byte) ([]byte, error) { return []byte("{}"), nil }})
	}
	for part := range slices.Chunk(edits, 200) {
		errs, err := d.Apply(t.Context(), part)
		if err := errors.Join(append(errs, err)...); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
