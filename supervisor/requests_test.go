package supervisor

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/model"
)

// TestRequests: counters are found by name and by address, and however many ask, HAProxy is asked once a second.
func TestRequests(t *testing.T) {
	inBubble(t, func(w *world) {
		w.names["name"] = []string{"192.0.2.5", "192.0.2.6"}
		at := netip.MustParseAddrPort
		w.stats = []runtime.Stat{
			{Backend: "s", Server: "a", Sessions: 3, Addr: at("192.0.2.1:80")}, {Backend: "s", Server: "n_192.0.2.5", Sessions: 5, Addr: at("192.0.2.5:80")},
			{Backend: "s", Server: "n_192.0.2.6", Sessions: 6, Addr: at("192.0.2.6:80")}, {Backend: "theirs", Server: "x", Sessions: 7, Addr: at("192.0.2.2:80")},
			{Backend: "other", Server: "y", Sessions: 8, Addr: at("192.0.2.2:80")},
		}
		w.run()
		if got := w.s.Requests(t.Context()); got != nil {
			t.Errorf("before there is a worker %v", got)
		}
		w.put("a=192.0.2.1:80", "b=192.0.2.2:80", "*n=name:80", "c=192.0.2.3:80")
		w.after(6 * time.Second)
		before := 0
		w.set(func() { before = w.counts })
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				got := fmt.Sprint(w.s.Requests(t.Context()))
				if want := fmt.Sprint(map[model.ServedAt]uint64{{Service: "s", Name: "*n", Address: "192.0.2.5:80"}: 5, {Service: "s", Name: "*n", Address: "192.0.2.6:80"}: 6,
					{Service: "s", Name: "a", Address: "192.0.2.1:80"}: 3, {Service: "s", Name: "b", Address: "192.0.2.2:80"}: 15}); got != want {
					t.Errorf("%s, want %s", got, want)
				}
			})
		}
		wg.Wait()
		w.set(func() {
			if w.counts != before+1 {
				t.Errorf("HAProxy was asked %d times", w.counts-before)
			}
			w.silent = true
		})
		w.after(5 * time.Second) // an observation finds it silent
		w.set(func() { before = w.counts })
		if got := w.s.Requests(t.Context()); got != nil {
			t.Errorf("of a silent worker %v", got)
		}
		w.set(func() {
			if w.counts != before {
				t.Error("a silent worker was asked")
			}
			w.silent = false
		})
		w.after(10 * time.Second)
		if got := w.s.Requests(t.Context()); len(got) != 4 {
			t.Errorf("when it answers again %v", got)
		}
	})
}
