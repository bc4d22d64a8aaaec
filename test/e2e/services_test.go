package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// twoServices serves nodes of weight 100 and more below /second, and the others below /first.
const twoServices = `global
  httpclient.ssl.verify none
{{- with .Process.User}}
  user {{quote .}}
{{- end}}
{{- with .Process.Group}}
  group {{quote .}}
{{- end}}
defaults
  mode http
  timeout connect 5s
  timeout client 1m
  timeout server 1m
  timeout http-keep-alive 5s
  option idle-close-on-response
  option redispatch 1
  retries 3
  option httpchk GET /version
frontend f
{{- range .Listeners}}{{range .Binds}}
  bind {{.}}
{{- end}}{{end}}
  use_backend second if { path_beg /second/ }
  default_backend first
{{- range .Pools}}
backend first
  balance leastconn
{{- range .Servers}}{{if lt .Weight 100}}
  server {{.Name}} {{.Address}} check inter 200ms
{{- end}}{{end}}
backend second
  balance leastconn
{{- range .Servers}}{{if ge .Weight 100}}
  server {{.Name}} {{.Address}} check inter 200ms
{{- end}}{{end}}
{{- end}}
`

// tenant is a node whose address belongs to one service and then to the other.
type tenant struct {
	owner  atomic.Int64 // counts the services that had it: even is the first, odd the second
	opened atomic.Int64 // up to which the test has ordered
	served [2]atomic.Int64
	wrong  atomic.Pointer[string]
}

const since = "X-Since" // what owner was when the client sent the request

func (n *tenant) answer(w http.ResponseWriter, r *http.Request) {
	which := int64(0)
	if strings.HasPrefix(r.URL.Path, "/second/") {
		which = 1
	}
	owner := n.owner.Load()
	if next := owner + 1; next%2 == which && next <= n.opened.Load() { // the first request since the move was ordered
		n.owner.CompareAndSwap(owner, next)
		owner = next
	}
	sent, err := strconv.ParseInt(r.Header.Get(since), 10, 64)
	if err != nil || owner%2 != which && sent >= owner {
		wrong := fmt.Sprintf("%s arrived, sent after the other service had the address for the %dth time, %v", r.URL.Path, owner, err)
		n.wrong.Store(&wrong)
	}
	n.served[which].Add(1)
	_, _ = io.WriteString(w, "hello")
}

// TestAddressGoesToAnotherService is fault row 21: an address that one service gives up is another's at once, again and again under load. What
// is sent when the new owner has had its first request never arrives there for the old one, no request is lost, and nothing is reloaded. A
// request that was on its way before may still come: what runs is finished.
func TestAddressGoesToAnotherService(t *testing.T) {
	moves := 20
	if os.Getenv("FNLB_E2E_FULL") != "" {
		moves = 200
	}
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		first, second, moving := n[0], n[1], n[2]
		only := func(prefix string) *http.HandlerFunc {
			f := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if !strings.HasPrefix(r.URL.Path, prefix) {
					t.Errorf("%s arrived at the other service", r.URL.Path)
				}
			})
			return &f
		}
		first.Handler.Store(only("/first/"))
		second.Handler.Store(only("/second/"))
		var shared tenant
		answer := http.HandlerFunc(shared.answer)
		moving.Handler.Store(&answer)
		tmpl := filepath.Join(TempDir(t), "haproxy.tmpl")
		if err := os.WriteFile(tmpl, []byte(twoServices), 0o644); err != nil {
			t.Fatal(err)
		}
		b := Start(t, h, "--nodes", list(n...), "--template", tmpl)
		b.WaitOnline(n...)
		b.wish(second, `"weight":100`)
		b.waitServes(second, "second")
		stop, count := clientsOfTwo(t, b.Traffic, &shared)
		for i := range moves {
			to := []string{"second", "first"}[i%2]
			before := shared.served[(i+1)%2].Load()
			shared.opened.Add(1)
			b.wish(moving, fmt.Sprintf(`"weight":%d`, []int{200, 20}[i%2]))
			b.Eventually(func() string {
				if shared.owner.Load() != shared.opened.Load() || shared.served[(i+1)%2].Load() < before+20 {
					return "no request of the new service arrives"
				}
				return ""
			})
			b.waitServes(moving, to)
			if wrong := shared.wrong.Load(); wrong != nil {
				t.Fatalf("move %d: %s", i+1, *wrong)
			}
		}
		stop()
		t.Logf("%d moves, %d requests, at the address that moved %d and %d", moves, count(), shared.served[0].Load(), shared.served[1].Load())
		for _, c := range b.changes() {
			if c.Method == model.Reload {
				t.Errorf("a reload: %+v", c)
			}
		}
	})
}

// waitServes waits until the worker has a node in one backend, and in no other.
func (b *Balancer) waitServes(n *Node, backend string) {
	b.T.Helper()
	b.WaitApplied()
	b.Eventually(func() string {
		_, rows, err := rowsAt(b.T, filepath.Join(b.Dir, "private", "master.sock"))
		if err != nil {
			return err.Error()
		}
		var in []string
		for _, r := range rows {
			if r.Addr.String() == n.Addr {
				in = append(in, fmt.Sprintf("%s up %v maint %v", r.Backend, r.Up, r.Maint))
			}
		}
		if fmt.Sprint(in) != fmt.Sprintf("[%s up true maint false]", backend) {
			return fmt.Sprintf("%s is in %q", n.Addr, in)
		}
		return ""
	})
}

// clientsOfTwo ask both services, over fresh and kept connections, and never again for the same. They say when they send.
func clientsOfTwo(t *testing.T, addr string, shared *tenant) (stop func(), count func() int64) {
	t.Helper()
	ended := make(chan struct{})
	var all sync.WaitGroup
	var requests atomic.Int64
	for i := range 8 {
		all.Go(func() {
			tr := &http.Transport{DisableKeepAlives: i%4 < 2}
			defer tr.CloseIdleConnections()
			for k := 0; ; k++ {
				select {
				case <-ended:
					return
				default:
				}
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("http://%s/%s/%d", addr, []string{"first", "second"}[i%2], k), strings.NewReader("x"))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set(since, strconv.FormatInt(shared.owner.Load(), 10))
				requests.Add(1)
				resp, err := tr.RoundTrip(req) // it sends a POST once
				if err != nil {
					t.Error(err)
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("%s: %d %v", req.URL.Path, resp.StatusCode, err)
				}
			}
		})
	}
	once := sync.OnceFunc(func() {
		close(ended)
		all.Wait()
	})
	t.Cleanup(once)
	return once, requests.Load
}
