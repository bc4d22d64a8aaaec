package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// step is what one fault cost.
type step struct {
	version          string
	seed             uint64
	requests, failed int
	outage           time.Duration // from the kill until the last request had failed
	converged        time.Duration // from the end of the fault until nothing drifted
}

func (s step) String() string {
	return fmt.Sprintf("%d of %d requests failed, converged after %s", s.failed, s.requests, s.converged.Round(time.Millisecond))
}

// report collects steps by fault. Faults have to be of the table.
type report struct {
	first uint64        // seed
	long  time.Duration // that was asked for

	mu       sync.Mutex
	steps    map[*fault][]step
	versions map[string]bool
	requests int
}

func (r *report) add(version string, seed uint64, f *fault, s step) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.steps == nil {
		r.steps, r.versions = map[*fault][]step{}, map[string]bool{}
	}
	s.version, s.seed = version, seed
	r.steps[f] = append(r.steps[f], s)
	r.versions[version] = true
	r.requests += s.requests
}

// table has a row for each fault, as Markdown.
func (r *report) table() string {
	var b strings.Builder
	b.WriteString("| row | fault | HAProxy | seeds | requests | failed | converged, p50 | p99 | serving again, p50 | p99 |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|\n")
	for i := range faults {
		f := &faults[i]
		steps := r.steps[f]
		if len(steps) == 0 {
			continue
		}
		requests, failed := 0, 0
		var converged, outage []time.Duration
		versions, seeds := map[string]bool{}, map[uint64]bool{}
		for _, s := range steps {
			requests, failed = requests+s.requests, failed+s.failed
			converged = append(converged, s.converged)
			outage = append(outage, s.outage)
			versions[s.version], seeds[s.seed] = true, true
		}
		row, again := "", []string{"", ""}
		if f.row > 0 {
			row = fmt.Sprint(f.row)
		}
		if f.kills {
			again = []string{millis(outage, .5), millis(outage, .99)}
		}
		on := "all"
		if len(versions) < len(r.versions) {
			on = strings.Join(slices.Sorted(maps.Keys(versions)), ", ")
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %d | %d | %s | %s | %s | %s |\n", row, f.name, on, ranges(slices.Sorted(maps.Keys(seeds))),
			requests, failed, millis(converged, .5), millis(converged, .99), again[0], again[1])
	}
	return b.String()
}

// ranges writes sorted numbers as 1-3, 5.
func ranges(of []uint64) string {
	var parts []string
	for i := 0; i < len(of); {
		j := i
		for j+1 < len(of) && of[j+1] == of[j]+1 {
			j++
		}
		part := fmt.Sprint(of[i])
		if j > i {
			part += fmt.Sprintf("-%d", of[j])
		}
		parts = append(parts, part)
		i = j + 1
	}
	return strings.Join(parts, ", ")
}

// page is docs/faults.md.
func (r *report) page() string {
	lost, happened := 0, 0
	for f, steps := range r.steps {
		happened += len(steps)
		for _, s := range steps {
			if !f.kills {
				lost += s.failed
			}
		}
	}
	return fmt.Sprintf(`# Faults, and what they cost

Written by `+"`make chaos TIME=%s SEED=%d`"+` on HAProxy %s: %d faults, provoked for real under the load of clients that never
retry. A row's number is the one in [ARCHITECTURE.md](../ARCHITECTURE.md#faults); rows without one are a day's work.

- **Seeds**: a seed deals the faults out over the versions of HAProxy, so that each happens on one of them, and shuffles each share; as many
  seeds in a row as there are versions let each happen on every one. Each seed begins with a new balancer. Run one again
  with `+"`SEED=number`"+`.
- **Failed** are requests without a good answer from the fault's begin until all was well again. Outside the kills of HAProxy itself:
  **%d of %d**.
- **Converged** is the time from the end of the fault until what is wanted, what HAProxy's worker serves, its file and what
  `+"`fnlb`"+` tells were the same, with nothing degraded; looked at every 20 ms. Faults that `+"`fnlb`"+` has mended before they end show
  the time of that look alone.
- **Serving again** is the time from the kill of HAProxy until the last request had failed.

Two faults are not here. Row 31, a source that suddenly lists less: the sources of today are flags and the API, where what goes was asked for, and
a name with fewer addresses is no listing of servers, so nothing from outside can provoke it; tests of [discovery](../discovery/doubt_test.go) hold
it. A clock that is set: there is no clock for one process alone. Rows with tests of their own and no line here are in ARCHITECTURE.md.

%s`, r.long, r.first, strings.Join(slices.Sorted(maps.Keys(r.versions)), ", "), happened, lost, r.requests, r.table())
}

// millis is a quantile in milliseconds.
func millis(of []time.Duration, q float64) string {
	sorted := slices.Sorted(slices.Values(of))
	i := int(q*float64(len(sorted)-1) + .5)
	return fmt.Sprintf("%d ms", sorted[i].Milliseconds())
}
