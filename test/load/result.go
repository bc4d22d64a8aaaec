package load

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// keep bounds the failures that are kept in full for each worker; all are counted.
const keep = 100

// Failure is a request that was begun and got no good answer.
type Failure struct {
	At     time.Time     // when the request was begun
	Took   time.Duration // until it had failed
	Group  string
	Method string
	Path   string
	Reused bool // on a connection that had carried an answer before
	Err    error
}

func (f Failure) String() string {
	kind := "new"
	if f.Reused {
		kind = "reused"
	}
	return fmt.Sprintf("%s %s %s %s on a %s connection after %s: %v",
		f.At.Format("15:04:05.000"), f.Group, f.Method, f.Path, kind, f.Took.Round(time.Microsecond), f.Err)
}

// Result is what became of the requests: Requests = Failed + answers from 200 to 399.
type Result struct {
	Requests    int
	Failed      int           // no whole answer, or a status that is not 2xx or 3xx
	Failures    []Failure     // by time; at most 100 for each worker
	Status      map[int]int   // answers by status, also those that were cut
	Connections int           // that were made
	Reconnects  int           // made because the server had closed an idle connection: no failure
	Elapsed     time.Duration // of the whole run

	latencies []time.Duration // of good answers, sorted
}

// Latency is the time that the share q (0 to 1) of the good answers stayed within, new connections included; 0 where there are none.
func (r Result) Latency(q float64) time.Duration {
	if len(r.latencies) == 0 {
		return 0
	}
	i := int(math.Ceil(q*float64(len(r.latencies)))) - 1
	return r.latencies[min(max(i, 0), len(r.latencies)-1)]
}

// String is one line of figures and, below it, a line for each of the first ten failures.
func (r Result) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests, %d failed, %d connections, %d reconnects, %s, p50 %s, p99 %s, max %s, status", r.Requests, r.Failed,
		r.Connections, r.Reconnects, r.Elapsed.Round(time.Millisecond), r.Latency(.5), r.Latency(.99), r.Latency(1))
	for _, status := range slices.Sorted(maps.Keys(r.Status)) {
		fmt.Fprintf(&b, " %d:%d", status, r.Status[status])
	}
	for _, f := range r.Failures[:min(10, len(r.Failures))] {
		fmt.Fprintf(&b, "\n  %s", f)
	}
	return b.String()
}

// part is one worker's share of the Result.
type part struct {
	latencies               []time.Duration
	status                  map[int]int
	failures                []Failure
	failed                  int
	connections, reconnects int
}

func (p *part) fail(f Failure) {
	p.failed++
	if len(p.failures) < keep {
		p.failures = append(p.failures, f)
	}
}

func collect(workers []*worker, elapsed time.Duration) Result {
	r := Result{Status: map[int]int{}, Elapsed: elapsed}
	for _, w := range workers {
		r.Requests += len(w.latencies) + w.failed
		r.Failed += w.failed
		r.Connections += w.connections
		r.Reconnects += w.reconnects
		r.Failures = append(r.Failures, w.failures...)
		r.latencies = append(r.latencies, w.latencies...)
		for status, n := range w.status {
			r.Status[status] += n
		}
	}
	slices.Sort(r.latencies)
	slices.SortStableFunc(r.Failures, func(a, b Failure) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Path, b.Path)) })
	return r
}
