package chaos

import (
	"testing"
	"time"

	"github.com/fnlb/fnlb/test/e2e"
	"github.com/fnlb/fnlb/test/load"
)

// happen provokes a fault, on a balancer of its own where it needs one.
func (w *world) happen(f *fault) (cost step) {
	w.t.Helper()
	if f.world == nil {
		w.provoke(f)
		return w.cost
	}
	w.t.Run(f.name, func(t *testing.T) {
		own := f.world(t, w.h, w.r)
		own.provoke(f)
		if f.stop != nil {
			f.stop(own)
		} else {
			own.stop()
		}
		cost = own.cost
	})
	return cost
}

// provoke lets a fault happen under load and waits until all is well again.
func (w *world) provoke(f *fault) {
	w.t.Helper()
	if f.kills {
		w.until(calm)
	}
	clients := e2e.Clients(300 * time.Millisecond)
	if f.gets {
		clients = clients[:len(clients)-1]
	}
	stop := e2e.Load(w.t, w.b.Traffic, clients)
	w.cost, w.struck, w.mark = step{}, time.Now(), len(w.b.Log())
	f.cause(w)
	if f.kills {
		w.served()
	}
	over := time.Now()
	w.settle()
	w.cost.converged = time.Since(over)
	result := stop()
	w.note(result)
	if result.Failed > 0 && !f.kills {
		w.t.Errorf("%s: %s", f.name, result)
	}
}

// note adds what the clients saw.
func (w *world) note(r load.Result) {
	w.cost.requests += r.Requests
	w.cost.failed += r.Failed
	for _, failure := range r.Failures {
		w.cost.outage = max(w.cost.outage, failure.At.Add(failure.Took).Sub(w.struck))
	}
}
