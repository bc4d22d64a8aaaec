package e2e

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// TestFlapping is fault row 30: a node that is checked ten times a second, fails twice and passes once. The log stays short, nothing is
// applied, and no request is lost: the node itself serves.
func TestFlapping(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		inner, err := url.Parse("http://" + n[2].Addr)
		if err != nil {
			t.Fatal(err)
		}
		var turns atomic.Int64 // checks so far
		var flaps atomic.Bool
		proxy := httputil.NewSingleHostReverseProxy(inner)
		odd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/version" && flaps.Load() && turns.Add(1)%3 != 0 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			proxy.ServeHTTP(w, r)
		}))
		t.Cleanup(odd.Close)
		at := strings.TrimPrefix(odd.URL, "http://")
		b := Start(t, h, "--nodes", n[0].Addr+","+n[1].Addr+","+at, "--hc-interval", "100ms", "--hc-unhealthy", "2") // one late check of a busy host fails nobody
		online := func() {
			b.Eventually(func() string {
				list, err := b.Nodes()
				if err != nil {
					return err.Error()
				}
				for _, node := range []string{n[0].Addr, n[1].Addr, at} {
					if list[node] != "online" {
						return node + " is " + list[node]
					}
				}
				return ""
			})
		}
		online()
		b.WaitApplied()
		applies, mark := len(b.changes()), len(b.Log())
		underLoad(t, b.Traffic, func() {
			flaps.Store(true)
			b.WaitLog(mark, "is flapping", at)
			ctx, cancel := context.WithTimeout(t.Context(), Patience)
			defer cancel()
			for turns.Load() < 60 && ctx.Err() == nil { // some more, which are not told
				time.Sleep(10 * time.Millisecond) // the checks tell no events
			}
			flaps.Store(false)
			online()
		})
		lines := 0
		for line := range strings.Lines(b.Log()[mark:]) {
			if strings.Contains(line, at) {
				lines++
			}
		}
		if lines > 7 {
			t.Errorf("%d lines about %d checks", lines, turns.Load())
		}
		if got := len(b.changes()); got != applies {
			t.Errorf("%d applies", got-applies)
		}
	})
}
