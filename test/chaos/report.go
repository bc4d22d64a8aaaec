package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// step is what one fault cost.
type step struct {
	requests, failed int
	outage           time.Duration // from the fault's begin until the last request had failed
	converged        time.Duration // from the end of the fault until nothing drifted
	took             time.Duration // both
}

// report collects steps by fault and by HAProxy version. Faults have to be of the table.
type report struct {
	steps    map[*fault][]step
	versions map[string]bool
	requests int
}

func (r *report) add(version string, f *fault, s step) {
	if r.steps == nil {
		r.steps, r.versions = map[*fault][]step{}, map[string]bool{}
	}
	r.steps[f] = append(r.steps[f], s)
	r.versions[version] = true
	r.requests += s.requests
}

// table has a row for each fault, as Markdown.
func (r *report) table() string {
	var b strings.Builder
	b.WriteString("| row | fault | times | requests | failed | converged, p50 | p99 | serving again, p50 | p99 |\n|---|---|---|---|---|---|---|---|---|\n")
	for i := range faults {
		f := &faults[i]
		steps := r.steps[f]
		if len(steps) == 0 {
			continue
		}
		requests, failed := 0, 0
		var converged, outage []time.Duration
		for _, s := range steps {
			requests, failed = requests+s.requests, failed+s.failed
			converged = append(converged, s.converged)
			outage = append(outage, s.outage)
		}
		row, again := "", []string{"", ""}
		if f.row > 0 {
			row = fmt.Sprint(f.row)
		}
		if f.kills {
			again = []string{millis(outage, .5), millis(outage, .99)}
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d | %s | %s | %s | %s |\n", row, f.name, len(steps), requests, failed,
			millis(converged, .5), millis(converged, .99), again[0], again[1])
	}
	return b.String()
}

// page is docs/faults.md.
func (r *report) page(seed uint64, long time.Duration) string {
	lost := 0
	for f, steps := range r.steps {
		for _, s := range steps {
			if !f.kills {
				lost += s.failed
			}
		}
	}
	return fmt.Sprintf(`# Faults, and what they cost

Written by `+"`make chaos`"+`, seed %d, %s on HAProxy %s. Each fault was provoked for real, at first each once and then at random,
under the load of clients that never retry. A row's number is the one in [ARCHITECTURE.md](../ARCHITECTURE.md#faults).

- **Failed** are requests without a good answer from the fault's begin until all was well again. Outside the kills of HAProxy itself:
  **%d of %d**.
- **Converged** is the time from the end of the fault until what is wanted, what HAProxy's worker serves, its file and what
  `+"`fnlb`"+` tells were the same, with nothing degraded; looked at every 20 ms.
- **Serving again** is the time from the kill of HAProxy until the last request had failed.

%s`, seed, long, strings.Join(slices.Sorted(maps.Keys(r.versions)), ", "), lost, r.requests, r.table())
}

// millis is a quantile in milliseconds.
func millis(of []time.Duration, q float64) string {
	sorted := slices.Sorted(slices.Values(of))
	i := int(q*float64(len(sorted)-1) + .5)
	return fmt.Sprintf("%d ms", sorted[i].Milliseconds())
}
