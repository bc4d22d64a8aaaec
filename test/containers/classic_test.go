package containers

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/dockertest"
	"github.com/fnlb/fnlb/test/e2e"
)

// TestClassic is docker-loadbalancer's day with its own template as it stands: environment, statistics page, log lines, and a container
// that is replaced.
func TestClassic(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		for _, template := range []string{"", filepath.Join("..", "..", "templates", "testdata", "docker-loadbalancer.tmpl")} {
			b := prepare(t, 3)
			stats := b.ports[1]
			b.Env = append(b.Env, "LB_STATS_PORT="+strconv.Itoa(stats), "CHECK_TIME=1", "HAPROXY_PID_FILE="+filepath.Join(b.Dir, "h.pid"), "HAPROXY_SOCK_FILE="+filepath.Join(b.Dir, "h.sock"))
			var args []string
			if template != "" {
				text, err := os.ReadFile(template)
				if err != nil {
					t.Fatal(err)
				}
				copied := filepath.Join(e2e.TempDir(t), "haproxy.tmpl")
				if err := os.WriteFile(copied, text, 0o644); err != nil {
					t.Fatal(err)
				}
				args = []string{"--template", copied}
			}
			b.Run(h, args...)
			v := strings.ReplaceAll(h.Version, ".", "") + strconv.Itoa(len(args))
			web1 := b.engine.Run(t, dockertest.Options{Name: "web1-" + v, Labels: b.labels()})
			b.waitServers(web1.Name)
			b.WaitLog(0, "Backends changed")
			b.WaitLog(0, fmt.Sprintf("Publish port %d HTTP", b.port))
			b.WaitLog(0, fmt.Sprintf("Backend %s at %s port 8080", web1.Name, web1.IP(t, "")))
			b.WaitLog(0, "Wrote ", " bytes to "+b.Config)
			b.WaitLog(0, fmt.Sprintf("HAProxy statistics port is %d", stats))
			if page := page(t, stats); !strings.Contains(page, fmt.Sprintf("port__%d_backends", b.port)) || !strings.Contains(page, web1.Name) {
				t.Errorf("the statistics page has neither port__%d_backends nor %s", b.port, web1.Name)
			}
			if template == "" {
				b.WaitTables()
			}
			web2 := b.engine.Run(t, dockertest.Options{Name: "web2-" + v, Labels: b.labels()})
			b.waitServers(web1.Name, web2.Name)
			first, status, err := get("127.0.0.9", b.port, "/a")
			if err != nil || status != http.StatusOK {
				t.Fatalf("status %d, %v", status, err)
			}
			if template == "" { // theirs loses its tables
				reloads := b.reloads()
				b.engine.Run(t, dockertest.Options{Name: "other-" + v, Labels: b.labels("lb.publish", strconv.Itoa(b.ports[2]))})
				b.Eventually(func() string {
					if b.reloads() == reloads {
						return "the port of another service is not there"
					}
					return ""
				})
				b.Eventually(func() string { // a client that comes within these milliseconds is placed by the hash
					if table := b.AskWorker(fmt.Sprintf("show table port__%d_backends", b.port)); !strings.Contains(table, "key=::ffff:127.0.0.9 ") {
						return "the client is not in the new worker's table: " + table
					}
					return ""
				})
			}
			for i := range 10 {
				if again, status, err := get("127.0.0.9", b.port, fmt.Sprintf("/%d", i)); err != nil || status != http.StatusOK || again != first {
					t.Errorf("the client was at %q, and is at %q (%d, %v)", first, again, status, err)
				}
			}
			gone, stays := web1, web2
			if strings.HasPrefix(web2.ID, first) {
				gone, stays = web2, web1
			}
			gone.Stop(t)
			b.waitServers(stays.Name)
			if now, status, err := get("127.0.0.9", b.port, "/a"); err != nil || status != http.StatusOK || now == first {
				t.Errorf("the client of a stopped container gets %q, %d, %v", now, status, err)
			}
			b.Signal(syscall.SIGTERM)
			if code := b.WaitExit(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		}
	})
}

func page(t *testing.T, port int) string {
	t.Helper()
	c := http.Client{Timeout: 5 * time.Second}
	resp, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
