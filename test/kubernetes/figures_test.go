package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/test/e2e"
	"github.com/fnlb/fnlb/test/kubetest"
)

// full reports whether the figures are asked for; else a few rounds prove that they can be measured.
func full() bool { return os.Getenv("FNLB_E2E_FULL") != "" }

// figure prints a line that the bench collects.
func figure(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Logf("figure: "+format, args...)
}

func quantiles(took []time.Duration) string {
	slices.Sort(took)
	at := func(q int) time.Duration { return took[len(took)*q/100].Round(100 * time.Microsecond) }
	return fmt.Sprintf("median %s, p99 %s (%d rounds)", at(50), at(99), len(took))
}

// TestFigures measures how fast a change of a pod is one of the traffic. It fails for what does not work, never for a figure.
func TestFigures(t *testing.T) {
	c := kubetest.Shared(t)
	rounds := 3
	if full() {
		rounds = 50
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := in(t, c)
		base := n.pod("base")
		p := n.starting("p")
		b := n.start(h, "--hc-interval", "3")
		b.WaitOnline(base.Node)
		b.WaitApplied()
		before := reloads(b)
		var up, down []time.Duration
		for range rounds {
			up = append(up, n.untilServed(b, p))
			b.WaitApplied()
			down = append(down, n.untilLeft(b, p))
			b.WaitOnline(base.Node)
			b.WaitApplied()
		}
		figure(t, "HAProxy %s: pod Ready until its first request: %s; pod deleted until its last request: %s; %d reloads",
			h.Version, quantiles(up), quantiles(down), reloads(b)-before)
	})
}

// untilServed makes the pod ready and asks, with other paths each time, until it has answered.
func (n *namespace) untilServed(b *e2e.Balancer, p *pod) time.Duration {
	n.t.Helper()
	begin := time.Now()
	p.ready(true)
	for i := 0; ; i++ {
		if answeredBy(n.t, b, i) == p.name {
			return time.Since(begin)
		}
		if time.Since(begin) > e2e.Patience {
			n.t.Fatal("the pod does not serve")
		}
	}
}

// untilLeft deletes the pod, while requests are sent, and gives when the last one of them arrived there. Then the pod is there again, not ready.
func (n *namespace) untilLeft(b *e2e.Balancer, p *pod) time.Duration {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.t.Context())
	var last time.Time
	var asking sync.WaitGroup
	asking.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			sent := time.Now()
			if answeredBy(n.t, b, i) == p.name {
				last = sent
			}
		}
	})
	begin := time.Now()
	p.terminate()
	b.Eventually(func() string {
		if list, err := b.Nodes(); err != nil || list[p.Addr] != "" {
			return fmt.Sprintf("%v, %v", list, err)
		}
		return ""
	})
	b.WaitApplied()
	cancel()
	asking.Wait()
	p.remove()
	n.must(n.object(n.t.Context(), p.name, p.ip, nil))
	return max(last.Sub(begin), 0)
}

// answeredBy asks for a path of its own over a connection of its own; "" where there is no good answer.
func answeredBy(t *testing.T, b *e2e.Balancer, i int) string {
	ctx, cancel := context.WithTimeout(context.Background(), e2e.Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/f%d", b.Traffic, i), http.NoBody)
	if err != nil {
		t.Error(err)
		return ""
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err)
		return ""
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	return resp.Header.Get("X-Node")
}

// TestLarge measures a namespace of many pods: the time to the first configuration, our memory, the time of one change.
func TestLarge(t *testing.T) {
	many, rounds := 120, 3
	if full() {
		many, rounds = 5000, 30
	}
	c := kubetest.Shared(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		if h.Version != "3.0" { // our part is measured, not HAProxy's
			return
		}
		n := in(t, c)
		n.everywhere()
		g, ctx := errgroup.WithContext(t.Context())
		g.SetLimit(16)
		ip := func(i int) string { return fmt.Sprintf("127.200.%d.%d", i/250, i%250+1) }
		for i := range many {
			g.Go(func() error {
				if err := n.object(ctx, fmt.Sprintf("p-%d", i), ip(i), nil); err != nil {
					return err
				}
				return n.status(ctx, fmt.Sprintf("p-%d", i), ip(i), true)
			})
		}
		n.must(g.Wait())
		b := e2e.New(t, e2e.TempDir(t))
		begin := time.Now()
		n.run(b, h, "--hc-interval", "10")
		var known, serving time.Duration
		b.Eventually(func() string {
			list, err := b.Nodes()
			if len(list) == many && known == 0 {
				known = time.Since(begin)
			}
			online := 0
			for _, state := range list {
				if state == "online" {
					online++
				}
			}
			if online != many {
				return fmt.Sprintf("%d of %d are online (%v)", online, many, err)
			}
			serving = time.Since(begin)
			return ""
		})
		b.WaitApplied()
		var took, applying []time.Duration
		for i := range rounds {
			for _, ready := range []bool{false, true} {
				began := time.Now()
				n.must(n.status(t.Context(), fmt.Sprintf("p-%d", i), ip(i), ready))
				b.Eventually(func() string {
					st, err := quickStatus(b)
					if err != nil || st.LastApply == nil || st.LastApply.At.Before(began) || st.Wanted != st.Applied {
						return fmt.Sprintf("not applied, %v", err)
					}
					applying = append(applying, time.Duration(st.LastApply.Millis*float64(time.Millisecond)))
					took = append(took, st.LastApply.At.Add(time.Duration(st.LastApply.Millis*float64(time.Millisecond))).Sub(began))
					return ""
				})
			}
		}
		figure(t, "HAProxy %s: %d pods: listed after %s, all serving after %s, memory of fnlb %d MiB (peak %d MiB), from one change of a pod's status until it was applied: %s, of which the apply took %s",
			h.Version, many, known.Round(time.Millisecond), serving.Round(time.Millisecond), memory(t, b, "VmRSS"), memory(t, b, "VmHWM"), quantiles(took), quantiles(applying))
	})
}

func quickStatus(b *e2e.Balancer) (st model.Status, err error) {
	err = b.Get("/1/lb/status", &st)
	return st, err
}

// memory is what /proc says of fnlb's, in MiB.
func memory(t *testing.T, b *e2e.Balancer, field string) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kib >> 10
		}
	}
	t.Fatalf("/proc says nothing of %s", field)
	return 0
}

// everywhere is one server that is all pods of the namespace.
func (n *namespace) everywhere() {
	n.t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("0.0.0.0:%d", n.port))
	n.must(err)
	version, err := json.Marshal(map[string]string{"version": "0.0.300"})
	n.must(err)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(version) }), ReadHeaderTimeout: e2e.Patience}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			n.t.Error(err)
		}
	})
	n.t.Cleanup(func() {
		_ = s.Close() // its connections are cut
		serving.Wait()
	})
}
