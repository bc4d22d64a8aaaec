package templates

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// crew is nodes that say in the request's own words how long it waited.
type crew struct {
	addrs  []netip.AddrPort
	client http.Client
	port   int
}

// startCrew starts nodes that answer with their number. They say what stands behind say= in the query, or where who= is given as well only
// that node does.
func startCrew(t *testing.T, n int) *crew {
	t.Helper()
	c := &crew{client: http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableCompression: true}}}
	for i := range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		name := strconv.Itoa(i)
		srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/version" {
				_, _ = io.WriteString(w, `{"version":"9.9.9"}`)
				return
			}
			if q := r.URL.Query(); q.Has("say") && (!q.Has("who") || q.Get("who") == name) {
				w.Header().Set("XXX-FXLB-WAIT", q.Get("say"))
			}
			w.Header().Set("X-Node", name)
		})}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = srv.Serve(l)
		}()
		t.Cleanup(func() {
			if err := srv.Close(); err != nil {
				t.Error(err)
			}
			<-done
		})
		c.addrs = append(c.addrs, netip.MustParseAddrPort(l.Addr().String()))
	}
	return c
}

// get gives the number of the node that answers.
func (c *crew) get(t *testing.T, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", c.port, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("XXX-FXLB-WAIT") != "" {
		t.Fatalf("%s: %s, %v", path, resp.Status, resp.Header)
	}
	return resp.Header.Get("X-Node")
}

// behind runs HAProxy in front of the crew.
func (c *crew) behind(t *testing.T, h haproxytest.HAProxy, feedback bool) *haproxytest.Instance {
	t.Helper()
	c.port = holdPorts(t, 1)[0]
	s := sample(c.port, c.addrs...)
	s.Services[0].Feedback = feedback
	i := start(t, h, s, sampleGlobals())
	t.Cleanup(c.client.CloseIdleConnections) // HAProxy waits for them when it ends
	return i
}

// means reads the averages, in tenths of a millisecond.
func means(t *testing.T, i *haproxytest.Instance) map[string]int {
	t.Helper()
	table, err := i.Ask("@1 show table nodes")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for line := range strings.Lines(table) {
		_, row, ok := strings.Cut(line, " key=")
		if !ok {
			continue
		}
		key, _, _ := strings.Cut(row, " ")
		_, value, _ := strings.Cut(row, " gpt0=")
		if out[key], err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
			t.Fatalf("row %q: %v", line, err)
		}
	}
	return out
}

// TestWaits: what nodes say becomes an average, and clients never see it.
func TestWaits(t *testing.T) {
	t.Parallel()
	cases := map[string]int{ // words: milliseconds, -1 no average
		"350µs": -1, "500ns": -1, "0s": -1, "0": -1, "": -1, "garbage": -1, "-5s": -1, "-1h0m0s": -1, "-1.5s": -1, "5": -1, "s": -1, "ms": -1, "hms": -1,
		"1ms": 1, "350.5ms": 350, "999ms": 999, "1.5s": 1500, "1.05s": 1050, "0.25s": 250, "1.234567891s": 1234, "59.999s": 59999, "+3s": 3000,
		"2m3s": 123_000, "2m3.25s": 123_250, "1h0m0s": 3_600_000, "1h0m3.25s": 3_600_000, "10h5m1.5s": 3_600_000, "2562047h47m16.854775807s": 3_600_000,
		"99999999999999h": 3_600_000, strings.Repeat("9", 1000) + "s": 3_600_000, strings.Repeat("x", 6000): -1, "1s, 2s": 1000, "5h": 3_600_000, "5m": 300_000, "1m30s": 90_000,
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		c := startCrew(t, 1)
		i := c.behind(t, h, true)
		paths := map[string]string{}
		for words := range cases {
			path := fmt.Sprintf("/case%d", len(paths))
			paths[words] = path
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", c.port, path), nil)
			if err != nil {
				t.Fatal(err)
			}
			q := req.URL.Query()
			q.Set("say", words)
			req.URL.RawQuery = q.Encode()
			resp, err := c.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK || resp.Header.Get("XXX-FXLB-WAIT") != "" {
				t.Errorf("%.40q: %s, %v", words, resp.Status, resp.Header)
			}
		}
		got := means(t, i)
		for words, want := range cases {
			mean, there := got[paths[words]]
			if !there {
				mean = -10
			}
			if mean != want*10 {
				t.Errorf("%.40q gives %d tenths of a millisecond, want %d", words, mean, want*10)
			}
		}
		for _, step := range []struct {
			say  string
			want int
		}{{"?say=100ms", 1000}, {"?say=200ms", 1100}, {"", 990}, {"?say=garbage", 891}, {"?say=0s", 801}, {"?say=10ms", 730}} {
			c.get(t, "/mean"+step.say)
			if mean := means(t, i)["/mean"]; mean != step.want {
				t.Errorf("after %q the average is %d, want %d", step.say, mean, step.want)
			}
		}
	})
}

// TestShares: a node keeps the share of a path that its wait leaves it, and all of it again when the path has cooled; other paths stay.
func TestShares(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		c := startCrew(t, 5)
		i := c.behind(t, h, true)
		const paths, requests = 12, 200
		for words, want := range map[string]float64{"499ms": 1, "600ms": .38, "1.25s": .25, "3s": .1} {
			var shares []float64
			for n := range paths {
				path, kept := fmt.Sprintf("/%s/%d", words, n), 0
				owner := c.get(t, path)
				path += "?say=" + words + "&who=" + owner
				c.get(t, path) // the first value counts as a whole
				for range requests {
					if c.get(t, path) == owner {
						kept++
					}
				}
				shares = append(shares, float64(kept)/requests)
			}
			slices.Sort(shares) // of some paths the second key leads to the same node
			if median := shares[paths/2]; median < want-.08 || median > want+.08 {
				t.Errorf("with a wait of %s a node keeps %.2f of its path, want %.2f: %v", words, median, want, shares)
			}
		}
		cold := c.get(t, "/cold")
		owner := c.get(t, "/hot")
		seen := map[string]bool{}
		for range 300 {
			seen[c.get(t, "/hot?say=3s")] = true
			if now := c.get(t, "/cold"); now != cold {
				t.Fatalf("a cold path was at node %s and is at %s", cold, now)
			}
		}
		if len(seen) < 2 {
			t.Errorf("a hot path is at %d nodes", len(seen))
		}
		home := 0
		for n := 0; home < 50; n++ {
			if n > 5000 {
				t.Fatalf("a path that has cooled does not come home; averages: %v", means(t, i))
			}
			if home++; c.get(t, "/hot") != owner {
				home = 0
			}
		}
	})
}

// TestFeedbackSameRing: a path that is not hot is where it is without feedback.
func TestFeedbackSameRing(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		c := startCrew(t, 7)
		var owners [2][]string
		for i, feedback := range []bool{false, true} {
			c.behind(t, h, feedback)
			for n := range 300 {
				owners[i] = append(owners[i], c.get(t, fmt.Sprintf("/r/app%d/f%%2F%d?q=%d", n%7, n, n)))
			}
		}
		if !slices.Equal(owners[0], owners[1]) {
			t.Errorf("without feedback %v, with it %v", owners[0], owners[1])
		}
	})
}
