package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// cost is what a process holds.
type cost struct {
	rss   int // kB
	files int
}

func costOf(t *testing.T, pid int) cost {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	c := cost{files: len(files)}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			if _, err := fmt.Sscan(rest, &c.rss); err != nil {
				t.Fatal(err)
			}
		}
	}
	return c
}

// flood sends one call for each node over kept-alive connections, eight at a time, and gives how long each took.
func flood(t *testing.T, b *Balancer, method string, nodes []string) []time.Duration {
	const clients = 8
	took := make([]time.Duration, len(nodes))
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			tr := &http.Transport{MaxIdleConnsPerHost: 1}
			defer tr.CloseIdleConnections()
			for i := c; i < len(nodes); i += clients {
				body, err := json.Marshal(map[string]string{"node": nodes[i]})
				if err != nil {
					t.Error(err)
					return
				}
				req, err := http.NewRequestWithContext(t.Context(), method, "http://"+b.Mgmt+"/1/lb/nodes", bytes.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				began := time.Now()
				resp, err := tr.RoundTrip(req)
				if err != nil {
					t.Errorf("%s %s: %v", method, nodes[i], err)
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				took[i] = time.Since(began)
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("%s %s: %d %v", method, nodes[i], resp.StatusCode, err)
					return
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took
}

// TestFlood is fault row 24: 10,000 nodes come and go as fast as clients can, and what was served is served on.
func TestFlood(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		if h.Version != "3.0" {
			return // what is flooded is our process, and nothing of it reaches HAProxy: one version is enough
		}
		n := NewNode(t, "a")
		b := Start(t, h, "--nodes", n.Addr, "--hc-interval", "3")
		b.WaitOnline(n)
		b.WaitApplied()
		applies, before := len(b.changes()), costOf(t, b.Cmd.Process.Pid)
		var nodes []string
		for i := range 10_000 {
			nodes = append(nodes, fmt.Sprintf("127.1.%d.%d:9", i/200, i%200+1))
		}
		var gets int
		result := underLoad(t, b.Traffic, func() {
			for _, method := range []string{"PUT", "DELETE"} {
				stop := make(chan struct{})
				var wg sync.WaitGroup
				wg.Go(func() { // somebody looks at the list meanwhile
					tick := time.NewTicker(100 * time.Millisecond)
					defer tick.Stop()
					for ; ; gets++ {
						select {
						case <-stop:
							return
						case <-tick.C:
						}
						if _, err := b.Nodes(); err != nil {
							t.Error(err)
							return
						}
					}
				})
				began := time.Now()
				took := flood(t, b, method, nodes)
				all := time.Since(began)
				close(stop)
				wg.Wait()
				t.Logf("%s: %d calls in %s, p50 %s, p99 %s, longest %s, %+v", method, len(nodes), all, took[len(took)/2], took[len(took)*99/100],
					took[len(took)-1], costOf(t, b.Cmd.Process.Pid))
			}
		})
		t.Logf("%d GETs meanwhile; traffic: %s", gets, result)
		b.WaitOnline(n)
		b.WaitApplied()
		if got := len(b.changes()) - applies; got > 2 {
			t.Errorf("nodes that never pass made %d applies", got)
		}
		var after cost
		b.Eventually(func() string {
			if after = costOf(t, b.Cmd.Process.Pid); after.files > before.files+8 {
				return fmt.Sprintf("%d files are open, before it were %d", after.files, before.files)
			}
			return ""
		})
		t.Logf("before %+v, after %+v", before, after)
	})
}

// TestSlowClients is fault row 25: clients that say nothing, or say it slowly, keep nobody else from being served.
func TestSlowClients(t *testing.T) {
	for name, start := range map[string]func(*testing.T, haproxytest.HAProxy, ...string) *Balancer{"own port": Start, "shared port": StartShared} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, h haproxytest.HAProxy) {
				n, m := NewNode(t, "a"), NewNode(t, "m")
				b := start(t, h, "--nodes", n.Addr)
				b.WaitLog(0, "haproxy started")
				b.WaitOnline(n)
				b.WaitApplied()
				conns := make([]net.Conn, 0, 2000)
				defer func() {
					for _, c := range conns {
						_ = c.Close()
					}
				}()
				for i := range cap(conns) {
					c, err := net.Dial("tcp", b.Mgmt)
					if err != nil {
						t.Fatal(err)
					}
					conns = append(conns, c)
					// Idle, in the middle of the headers, in the middle of a body. Some are closed for others by design.
					_, _ = io.WriteString(c, []string{"", "PUT /1/lb/nodes HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
						"PUT /1/lb/nodes HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30\r\n\r\n{\"node\":"}[i%3])
				}
				underLoad(t, b.Traffic, func() {
					for range 2 {
						b.Put(m.Addr)
						b.WaitOnline(n, m)
						b.WaitApplied()
						b.Delete(m.Addr)
						b.WaitOnline(n)
						b.WaitApplied()
					}
				})
			})
		})
	}
}
