package supervisor

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/supervisor/plan"
)

// everywhere is one server on all loopback addresses, that answers with the address at which it was reached.
func everywhere(t *testing.T) (port int) {
	t.Helper()
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Context().Value(http.LocalAddrContextKey).(net.Addr).String())
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Close
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr).Port
}

// randomText is a configuration with a random set of servers; settings are the same for one seed of shape.
func randomText(shape, r *rand.Rand, front, port int, hashKey bool) string {
	balance := []string{"balance uri path-only\n  hash-type consistent", "balance leastconn", "", "balance random"}[shape.IntN(4)]
	defaults := []string{"check inter 1s", "check inter 1s rise 1 fall 3 weight 7", "check inter 1s maxconn 50"}[shape.IntN(3)]
	inDefaults := shape.IntN(2) == 0
	var b strings.Builder
	fmt.Fprintf(&b, "defaults d\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n  timeout check 10s\n")
	if inDefaults {
		fmt.Fprintf(&b, "  default-server %s\n", defaults)
	}
	fmt.Fprintf(&b, "frontend f from d\n  bind 127.0.0.1:%d\n  default_backend b0\n", front)
	for i := range 2 {
		fmt.Fprintf(&b, "backend b%d from d\n  %s\n  option httpchk GET /\n", i, balance)
		if !inDefaults {
			fmt.Fprintf(&b, "  default-server %s\n", defaults)
		}
		for _, k := range r.Perm(8)[:r.IntN(7)] {
			fmt.Fprintf(&b, "  server s%d 127.0.7.%d:%d id %d", k, k+1+r.IntN(2)*100, port, 10+k*3)
			if hashKey && strings.Contains(balance, "consistent") {
				b.WriteString(" hash-key addr-port")
			}
			if w := r.IntN(4); w > 0 {
				fmt.Fprintf(&b, " weight %d", (w-1)*20)
			}
			b.WriteString(" # a comment\n")
		}
		if n := r.IntN(4); n > 0 && !strings.Contains(balance, "consistent") {
			fmt.Fprintf(&b, "  server-template t 10-%d 127.0.7.200:%d\n", 9+n, port)
		}
	}
	return b.String()
}

// TestStepsAgainstHAProxy: whatever the plan takes at run time leaves a worker that cannot be told from one that was started on the new
// text: the same servers, addresses, weights, checks, and the same server for each of 500 paths.
//
// FNLB_SEEDS is the number of seeds.
func TestStepsAgainstHAProxy(t *testing.T) {
	seeds := uint64(6)
	if text := os.Getenv("FNLB_SEEDS"); text != "" {
		var err error
		if seeds, err = strconv.ParseUint(text, 10, 32); err != nil {
			t.Fatal(err)
		}
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		port := everywhere(t)
		for seed := range seeds {
			fronts := haproxytest.FreePorts(t, 2)
			shape := func() *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }
			r := rand.New(rand.NewPCG(seed, 2))
			text := randomText(shape(), r, fronts[0], port, h.AtLeast(3, 0))
			live := h.Start(t, text, "first")
			client := runtime.New(live.Socket)
			_, worker, err := client.Loaded(t.Context(), "first")
			if err != nil {
				t.Fatal(err)
			}
			var next string
			for range 4 {
				next = randomText(shape(), r, fronts[0], port, h.AtLeast(3, 0))
				was, err := plan.Read(conf.Bundle{Main: []byte(text)})
				if err != nil {
					t.Fatal(err)
				}
				now, err := plan.Read(conf.Bundle{Main: []byte(next)})
				if err != nil {
					t.Fatal(err)
				}
				p := plan.Make(was, now, nil)
				if len(p.Reload) > 0 {
					t.Fatalf("seed %d: %v\n%s\n%s", seed, p.Reload, text, next)
				}
				if err := take(t.Context(), client, worker, p.Steps); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				for _, s := range p.Steps { // so that its name is free for the next text
					if s.Kind != plan.Remove {
						continue
					}
					if gone, err := client.DelServer(t.Context(), worker, s.Backend, s.Server); err != nil || !gone {
						t.Fatalf("seed %d: %v is not deleted: %v", seed, s, err)
					}
				}
				text = next
			}
			fresh := h.Start(t, strings.ReplaceAll(next, fmt.Sprint(fronts[0]), fmt.Sprint(fronts[1])), "fresh")
			compare(t, seed, client, worker, fresh, fronts, strings.Contains(next, "consistent"))
		}
	})
}

func compare(t *testing.T, seed uint64, live *runtime.Client, worker int, fresh *haproxytest.Instance, fronts []int, hashed bool) {
	t.Helper()
	other := runtime.New(fresh.Socket)
	_, otherWorker, err := other.Loaded(t.Context(), "fresh")
	if err != nil {
		t.Fatal(err)
	}
	// What checks find comes with time, and on a busy host a check may fail: in the end both must find the same.
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		got, want := rowsOf(t, live, worker), rowsOf(t, other, otherWorker)
		if slices.Equal(got, want) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("seed %d: servers differ:\nat run time %v\nfrom the text %v", seed, got, want)
		}
	}
	if a, b := chosen(t, fronts[0], hashed), chosen(t, fronts[1], hashed); a != b {
		t.Errorf("seed %d: paths go to other servers", seed)
	}
}

func rowsOf(t *testing.T, c *runtime.Client, worker int) []string {
	t.Helper()
	_, all, err := c.ServersState(t.Context(), worker)
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, s := range all {
		rows = append(rows, fmt.Sprintf("%s/%s %s up %v maint %v drain %v checked %v pending %v weight %d", s.Backend, s.Server, s.Addr, s.Up, s.Maint, s.Drain, s.Checked, s.CheckPending, s.Weight))
	}
	slices.Sort(rows)
	return rows
}

// chosen is which server takes each of 500 paths, where the path decides; else how many good answers there are.
func chosen(t *testing.T, front int, hashed bool) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	var all []string
	for i := range 500 {
		resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/p/%d", front, i))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if !hashed {
			body = nil
		}
		all = append(all, fmt.Sprint(resp.StatusCode, string(body)))
	}
	return strings.Join(all, "\n")
}
