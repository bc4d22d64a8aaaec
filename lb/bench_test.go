package lb

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func BenchmarkChoose(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			table := tableOf(b, nil, numbered(n)...)
			var paths []string
			for i := range 1024 {
				paths = append(paths, pathNo(i))
			}
			b.ReportAllocs()
			i, before := 0, cpuTime(b) // on a machine that others use too, the wall clock says less
			for b.Loop() {
				table.owner(paths[i&1023])
				i++
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(i), "cpu-ns/op")
		})
	}
}

func BenchmarkTake(b *testing.B) {
	rt := newRoundTripper(b.Context(), defaults())
	rt.factor = 125
	rt.table.Store(tableOf(b, nil, numbered(100)...))
	b.ReportAllocs()
	for b.Loop() {
		rt.release(rt.take("/r/app/function"))
	}
}

// BenchmarkUpdate: one node comes, or leaves, in a set of that many.
func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			all := mustParse(b, numbered(n)...)
			table, err := newTable(all, nil)
			if err != nil {
				b.Fatal(err)
			}
			i := 0
			for b.Loop() {
				nodes := all
				if i%2 == 0 {
					nodes = all[1:]
				}
				i++
				if table, err = newTable(nodes, table); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkProxy compares the CPU time of a request through this package with that through httputil alone, one after the other
// in blocks, all in this process: client and node are the same for both, and their time counts too. Both have the same settings of their
// transports; httputil makes a buffer for each response unless it is given a pool, which "bare-with-buffers" does. "ratio" is the
// median of bare / ours over the pairs of blocks, "low" and "high" its 95 % interval.
func BenchmarkProxy(b *testing.B) {
	for _, size := range []int{0, 16 << 10} {
		b.Run(fmt.Sprintf("body=%d", size), func(b *testing.B) { compare(b, size, nil) })
		b.Run(fmt.Sprintf("body=%d,bare-with-buffers", size), func(b *testing.B) { compare(b, size, buffers{}) })
	}
}

func compare(b *testing.B, size int, pool httputil.BufferPool) {
	body := []byte(strings.Repeat("x", size))
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(body) })) //nolint:errcheck // the client notices
	defer node.Close()
	target, err := url.Parse(node.URL)
	if err != nil {
		b.Fatal(err)
	}
	transport := newTransport()
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ours := ConsistentHashReverseProxy(ctx, []string{node.URL})
	defer ours.Transport.(*FallbackRoundTripper).CloseIdleConnections()
	bare := &httputil.ReverseProxy{Transport: transport, BufferPool: pool, Rewrite: func(pr *httputil.ProxyRequest) {
		pr.SetURL(target)
		pr.Out.Host = pr.In.Host
		pr.Out.Header["X-Forwarded-For"] = pr.In.Header["X-Forwarded-For"]
		pr.SetXForwarded()
	}}
	block := func(h http.Handler) float64 {
		const requests = 400
		before := cpuTime(b)
		for range requests {
			w := httptest.NewRecorder()
			r := httptest.NewRequest(http.MethodGet, "/r/app/function?q=1", http.NoBody)
			h.ServeHTTP(w, r)
			if n, err := io.Copy(io.Discard, w.Body); w.Code != http.StatusOK || n != int64(size) || err != nil {
				b.Fatal(w.Code, n, err)
			}
		}
		return (cpuTime(b) - before).Seconds() / requests
	}
	block(ours)
	block(bare)
	var ratios, micros []float64
	for b.Loop() {
		var a, o float64
		if len(ratios)%2 == 0 { // neither always comes first
			a, o = block(bare), block(ours)
		} else {
			o, a = block(ours), block(bare)
		}
		ratios, micros = append(ratios, a/o), append(micros, o*1e6)
	}
	slices.Sort(ratios)
	slices.Sort(micros)
	low, high := interval(len(ratios))
	b.ReportMetric(ratios[len(ratios)/2], "ratio")
	b.ReportMetric(ratios[low], "low")
	b.ReportMetric(ratios[high], "high")
	b.ReportMetric(micros[len(micros)/2], "cpu-µs/req")
}

// interval gives the ranks of the 95 % interval of the median of n sorted values (normal approximation of the binomial).
func interval(n int) (low, high int) {
	half := 0
	for half*half*100*100 < 98*98*n { // 1.96 * sqrt(n) / 2
		half++
	}
	return max(n/2-half, 0), min(n/2+half, n-1)
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
