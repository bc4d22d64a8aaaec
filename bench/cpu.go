package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fnlb/fnlb/bench/stats"
)

// connections of the load; the paths stand in paths.lua.
const connections = 32

// round is one round of load on one side.
type round struct {
	Requests  int
	Seconds   float64
	PerSecond float64
	CPU       float64 // microseconds of HAProxy's worker for each request
	Busy      float64 // share of its core
	Others    float64 // share of a core that processes used which are not the bench's
}

// versus is one side against another: ratios above 1 mean that the first is better.
type versus struct {
	Name          string
	Ours, Theirs  []round
	CPU           ratio // theirs/ours: CPU per request
	PerSecond     ratio // ours/theirs
	OursCPU       float64
	TheirsCPU     float64
	OursPerSecond float64
}

type ratio struct{ Median, Low, High, Coverage float64 }

func (r ratio) String() string {
	return fmt.Sprintf("%.3f [%.3f, %.3f]", r.Median, r.Low, r.High)
}

func compare(name string, ours, theirs []round) versus {
	v := versus{Name: name, Ours: ours, Theirs: theirs}
	var cpu, perSecond []float64
	for i := range ours {
		cpu = append(cpu, theirs[i].CPU/ours[i].CPU)
		perSecond = append(perSecond, ours[i].PerSecond/theirs[i].PerSecond)
	}
	v.CPU, v.PerSecond = between(cpu), between(perSecond)
	v.OursCPU = stats.Median(each(ours, func(r round) float64 { return r.CPU }))
	v.TheirsCPU = stats.Median(each(theirs, func(r round) float64 { return r.CPU }))
	v.OursPerSecond = stats.Median(each(ours, func(r round) float64 { return r.PerSecond }))
	return v
}

func between(values []float64) ratio {
	r := ratio{Median: stats.Median(values)}
	r.Low, r.High, r.Coverage = stats.Interval(values, .95)
	return r
}

func each(rounds []round, value func(round) float64) []float64 {
	values := make([]float64, len(rounds))
	for i, r := range rounds {
		values[i] = value(r)
	}
	return values
}

// load sends requests to a balancer for a time, and measures its worker meanwhile.
func (b *bench) load(ctx context.Context, l *balancer, length time.Duration) (round, error) {
	script, err := filepath.Abs("bench/paths.lua")
	if err != nil {
		return round{}, err
	}
	used, err := b.used(l)
	if err != nil {
		return round{}, err
	}
	cmd := exec.CommandContext(ctx, "taskset", "-c", strconv.Itoa(loadCore), "wrk", "-t1", "-c"+strconv.Itoa(connections), "--timeout", "10s",
		"-d"+strconv.Itoa(int(length.Seconds()))+"s", "-s", script, fmt.Sprintf("http://127.0.0.1:%d/", l.port))
	begun := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return round{}, fmt.Errorf("wrk on %s: %w\n%s", l.name, err, out)
	}
	took := time.Since(begun)
	now, err := b.used(l)
	if err != nil {
		return round{}, err
	}
	r, err := result(string(out), now.worker-used.worker)
	ours := now.worker - used.worker + now.nodes - used.nodes + cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	r.Others = (now.host - used.host - ours).Seconds() / took.Seconds()
	return r, err
}

// usage is CPU time since the start of each.
type usage struct{ worker, nodes, host time.Duration }

func (b *bench) used(l *balancer) (u usage, err error) {
	if u.worker, err = cpuTime(l.worker); err != nil {
		return u, fmt.Errorf("%s: %w", l.name, err)
	}
	if u.nodes, err = cpuTime(b.nginx.pid()); err != nil {
		return u, fmt.Errorf("nodes: %w", err)
	}
	u.host, err = hostTime()
	return u, err
}

// result reads what paths.lua prints. A request that failed spoils the round.
func result(out string, used time.Duration) (round, error) {
	for line := range strings.SplitSeq(out, "\n") {
		var requests, micros, failed int
		if n, err := fmt.Sscanf(line, "RESULT %d %d %d", &requests, &micros, &failed); n != 3 || err != nil {
			continue
		}
		if failed > 0 || micros == 0 {
			return round{}, fmt.Errorf("wrk: %d of %d requests failed\n%s", failed, requests, out)
		}
		if requests == 0 {
			return round{Seconds: float64(micros) / 1e6}, nil // starved by other processes
		}
		r := round{Requests: requests, Seconds: float64(micros) / 1e6, PerSecond: float64(requests) / float64(micros) * 1e6}
		r.CPU = float64(used.Microseconds()) / float64(requests)
		r.Busy = r.CPU * r.PerSecond / 1e6
		return r, nil
	}
	return round{}, fmt.Errorf("wrk: no result in its output\n%s", out)
}

// hand starts the hand-written configuration.
func (b *bench) hand(ctx context.Context) (*balancer, error) {
	p, err := ports(1)
	if err != nil {
		return nil, err
	}
	file, err := filepath.Abs("bench/hand.cfg")
	if err != nil {
		return nil, err
	}
	env := []string{fmt.Sprintf("BENCH_PORT=%d", p[0])}
	for i, port := range b.nodePorts {
		env = append(env, fmt.Sprintf("BENCH_NODE%d=%d", i+1, port))
	}
	return b.startHAProxy(ctx, "hand", file, p[0], env...)
}

type cpuFigures struct {
	versus
	FnlbBusy float64 // share of a core that fnlb itself used during all rounds
}

func (f cpuFigures) String() string {
	var t strings.Builder
	fmt.Fprintf(&t, "CPU per request of HAProxy: fnlb %.2f µs, by hand %.2f µs\n", f.OursCPU, f.TheirsCPU)
	fmt.Fprintf(&t, "by hand / fnlb, CPU per request:  %s, covers %.1f %%, %d rounds\n", f.CPU, 100*f.CPU.Coverage, len(f.Ours))
	fmt.Fprintf(&t, "fnlb / by hand, requests/s:       %s, fnlb %.0f/s on one core\n", f.PerSecond, f.OursPerSecond)
	fmt.Fprintf(&t, "HAProxy's core was %.0f %% busy; fnlb itself used %.2f %%\n",
		100*stats.Median(each(f.Ours, func(r round) float64 { return r.Busy })), 100*f.FnlbBusy)
	return t.String()
}

// cpu compares fnlb as it is with the hand-written configuration.
func (b *bench) cpu(ctx context.Context) (any, error) {
	theirs, err := b.hand(ctx)
	if err != nil {
		return nil, err
	}
	ours, err := b.startFnlb("fnlb", balancerCore, b.nodes())
	if err != nil {
		return nil, err
	}
	if err := ours.settled(ctx, len(b.nodePorts)); err != nil {
		return nil, err
	}
	before, err := cpuTime(ours.pid())
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	rounds, err := b.turns(ctx, ours, theirs)
	if err != nil {
		return nil, err
	}
	after, err := cpuTime(ours.pid())
	if err != nil {
		return nil, err
	}
	worker := ours.worker
	if err := ours.settled(ctx, len(b.nodePorts)); err != nil {
		return nil, err
	}
	if worker != ours.worker {
		return nil, errors.New("fnlb reloaded during the rounds")
	}
	return cpuFigures{compare("hand", rounds[0], rounds[1]), (after - before).Seconds() / time.Since(begun).Seconds()}, nil
}

// repeats bounds how often a round that other processes disturbed is made again.
const repeats = 20

// turns loads the sides in turns, forwards and backwards, after a short round each to warm up.
func (b *bench) turns(ctx context.Context, sides ...*balancer) ([][]round, error) {
	for _, l := range sides {
		if _, err := b.load(ctx, l, time.Second); err != nil {
			return nil, err
		}
	}
	rounds := make([][]round, len(sides))
	for n := range b.rounds {
		turn, err := b.turn(ctx, n, sides)
		if err != nil {
			return nil, err
		}
		for i, r := range turn {
			rounds[i] = append(rounds[i], r)
		}
	}
	return rounds, nil
}

// turn is one round of each side, made of slices of a second in turns: the speed of a shared host changes within seconds, and what
// both sides meet alike does not change their ratio. All is repeated when it was disturbed.
func (b *bench) turn(ctx context.Context, n int, sides []*balancer) ([]round, error) {
	for try := 0; ; try++ {
		turn := make([]round, len(sides))
		others := 0.0
		for s := range max(1, int(b.length/time.Second)) {
			for i := range sides {
				if (n+s)%2 == 1 {
					i = len(sides) - 1 - i
				}
				r, err := b.load(ctx, sides[i], time.Second)
				if err != nil {
					return nil, err
				}
				turn[i] = turn[i].and(r)
				others = max(others, turn[i].Others)
			}
		}
		for i, r := range turn {
			if r.Requests == 0 {
				return nil, fmt.Errorf("%s answered nothing for %.0f s", sides[i].name, r.Seconds)
			}
			fmt.Printf("%3d/%d %-28s %8.0f/s %6.2f µs %3.0f %% busy, others %3.0f %%\n",
				n+1, b.rounds, sides[i].name, r.PerSecond, r.CPU, 100*r.Busy, 100*r.Others)
		}
		if others <= b.quiet || try == repeats {
			return turn, nil
		}
		fmt.Println("        disturbed by other processes: once more")
	}
}

// and is the round that two slices make together.
func (r round) and(s round) round {
	n, m := float64(r.Requests), float64(s.Requests)
	sum := round{Requests: r.Requests + s.Requests, CPU: (r.CPU*n + s.CPU*m) / max(n+m, 1), Seconds: r.Seconds + s.Seconds}
	sum.PerSecond = (n + m) / sum.Seconds
	sum.Busy = sum.CPU * sum.PerSecond / 1e6
	sum.Others = (r.Others*r.Seconds + s.Others*s.Seconds) / sum.Seconds
	return sum
}
