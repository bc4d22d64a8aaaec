package containers

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/test/dockertest"
	"github.com/fnlb/fnlb/test/e2e"
)

func TestMain(m *testing.M) {
	code := dockertest.Main(m)
	if err := e2e.RemoveBinary(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// bench is a balancer that follows the engine, and a port of it.
type bench struct {
	*e2e.Balancer
	engine *dockertest.Engine
	ports  []int // that labels may publish
	port   int   // the first
}

func start(t *testing.T, h haproxytest.HAProxy, args ...string) *bench {
	t.Helper()
	b := prepare(t, 1)
	b.Run(h, args...)
	return b
}

// prepare gives a balancer that Run starts, with so many ports that labels may publish.
func prepare(t *testing.T, ports int) *bench {
	t.Helper()
	b := &bench{engine: dockertest.Shared(t), ports: haproxytest.FreePorts(t, ports)}
	b.port = b.ports[0]
	b.Balancer = e2e.New(t, e2e.TempDir(t))
	var allow []string
	for _, p := range b.ports {
		allow = append(allow, strconv.Itoa(p))
	}
	b.Env = []string{"FNLB_DOCKER=" + b.engine.Host, "FNLB_PUBLISH_ALLOW=" + strings.Join(allow, ",")}
	return b
}

// labels are those of a container behind the bench's port, and more as pairs.
func (b *bench) labels(more ...string) map[string]string {
	l := map[string]string{"lb.enable": "Y", "lb.publish": strconv.Itoa(b.port), "lb.target": "8080"}
	for i := 0; i+1 < len(more); i += 2 {
		l[more[i]] = more[i+1]
	}
	return l
}

// get asks as the client of that address, each time by a connection of its own.
func get(client string, port int, path string) (body string, status int, err error) {
	return getAt(client, "127.0.0.1", port, path)
}

// getAt asks any host; an empty client is any.
func getAt(client, host string, port int, path string) (body string, status int, err error) {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialer.DialContext}}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, fmt.Sprintf("http://%s%s", net.JoinHostPort(host, strconv.Itoa(port)), path), nil)
	if err != nil {
		return "", 0, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(data)), resp.StatusCode, err
}

// waitServers waits until exactly these servers of the port serve.
func (b *bench) waitServers(names ...string) {
	b.T.Helper()
	b.Eventually(func() string {
		up := map[string]bool{}
		for _, s := range b.Status().Servers {
			if strings.HasPrefix(s.Service, "port_") && strings.Contains(s.Service, strconv.Itoa(b.port)) && s.Health == model.Up {
				up[s.Name] = true
			}
		}
		want := map[string]bool{}
		for _, n := range names {
			want[n] = true
		}
		if fmt.Sprint(up) != fmt.Sprint(want) {
			return fmt.Sprintf("servers up %v, want %v", up, want)
		}
		return ""
	})
	b.WaitApplied()
}

// TestLabels: containers come, serve by the hash, and go without a reload after the port exists.
func TestLabels(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := start(t, h)
		v := strings.ReplaceAll(h.Version, ".", "")
		b.engine.Run(t, dockertest.Options{Name: "a" + v, Labels: b.labels()})
		b.waitServers("a" + v)
		if body, status, err := get("127.0.0.1", b.port, "/"); err != nil || status != 200 || body == "" {
			t.Fatalf("status %d, body %q, %v", status, body, err)
		}
		c := b.engine.Run(t, dockertest.Options{Name: "b" + v, Labels: b.labels()})
		b.waitServers("a"+v, "b"+v)
		seen := map[string]bool{}
		for i := range 40 {
			body, status, err := get(fmt.Sprintf("127.0.0.%d", i+1), b.port, fmt.Sprintf("/%d", i))
			if err != nil || status != 200 {
				t.Fatalf("status %d, %v", status, err)
			}
			seen[body] = true
		}
		if len(seen) != 2 {
			t.Errorf("40 clients saw %v", seen)
		}
		c.Stop(t)
		b.waitServers("a" + v)
	})
}
