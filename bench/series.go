package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/test/load"
)

type seriesFigures struct {
	Changes          int
	Seconds          float64
	Applied          int            // applies that were made for them
	Reloads          map[string]int // by their first reason
	Requests, Failed int
	P50, P99, Max    time.Duration
	Begin, Mid, End  weight
	Failures         []string
}

// weight is memory in MB.
type weight struct{ Fnlb, HAProxy float64 }

func (f seriesFigures) String() string {
	var t strings.Builder
	fmt.Fprintf(&t, "%d changes in a row in %.0f s: %d applies, reloads %v\n", f.Changes, f.Seconds, f.Applied, f.Reloads)
	fmt.Fprintf(&t, "%d requests, %d FAILED; p50 %s, p99 %s, max %s\n", f.Requests, f.Failed, f.P50, f.P99, f.Max)
	fmt.Fprintf(&t, "RSS of fnlb and of HAProxy's worker: %.1f and %.1f MB, in the middle %.1f and %.1f MB, at the end %.1f and %.1f MB\n",
		f.Begin.Fnlb, f.Begin.HAProxy, f.Mid.Fnlb, f.Mid.HAProxy, f.End.Fnlb, f.End.HAProxy)
	for _, line := range f.Failures {
		fmt.Fprintf(&t, "  %s\n", line)
	}
	return t.String()
}

// constant is the load of a client that never retries: new and kept connections, and some that idle.
func constant() []load.Group {
	return []load.Group{
		{Name: "fresh", Workers: 4, Think: 10 * time.Millisecond},
		{Name: "keep-alive", KeepAlive: true, Workers: 8, Think: 5 * time.Millisecond},
		{Name: "keep-alive POST", KeepAlive: true, Workers: 2, Think: 10 * time.Millisecond, Method: http.MethodPost, Body: "payload"},
		{Name: "keep-alive, thinks 1 s", KeepAlive: true, Workers: 16, Think: time.Second},
	}
}

// changing is how many nodes come and go in turn, so that each is deleted from HAProxy before it is back.
const changing = 50

// row makes thousands of single changes, each when the one before is in force.
func (b *bench) row(ctx context.Context) (any, error) {
	l, err := b.startFnlb("fnlb", -1, b.nodes())
	if err != nil {
		return nil, err
	}
	if err := l.settled(ctx, len(b.nodePorts)); err != nil {
		return nil, err
	}
	load, err := b.startLoad(ctx, l.port, functions(200), constant()...)
	if err != nil {
		return nil, err
	}
	f := seriesFigures{Changes: b.series, Reloads: map[string]int{}}
	// The first changes fill caches and pools of both; memory is weighed from then on.
	if err := l.rotate(ctx, &f, 2*changing); err != nil {
		return nil, err
	}
	f.Applied, f.Reloads = 0, map[string]int{}
	begun := time.Now()
	for i, at := range []*weight{&f.Begin, &f.Mid, &f.End} {
		if i > 0 {
			if err := l.rotate(ctx, &f, b.series/2); err != nil {
				return nil, err
			}
		}
		if *at, err = l.weight(); err != nil {
			return nil, err
		}
	}
	f.Seconds = time.Since(begun).Seconds()
	r, err := load.end()
	if err != nil {
		return nil, err
	}
	f.Requests, f.Failed, f.P50, f.P99, f.Max = r.Requests, r.Failed, r.Latency(.5), r.Latency(.99), r.Latency(1)
	for _, failure := range r.Failures[:min(20, len(r.Failures))] {
		f.Failures = append(f.Failures, failure.String())
	}
	return f, nil
}

// rotate adds nodes until so many are there, and then takes them away again, one after the other.
func (l *balancer) rotate(ctx context.Context, f *seriesFigures, changes int) error {
	for i := range changes {
		method := http.MethodPut
		if i%(2*changing) >= changing {
			method = http.MethodDelete
		}
		before, err := l.status(ctx)
		if err != nil {
			return err
		}
		if err := l.call(ctx, method, "/1/lb/nodes", fmt.Sprintf(`{"node":%q}`, l.bench.address(i%changing)), nil); err != nil {
			return err
		}
		var now model.Status
		if err := l.until(ctx, 60*time.Second, 2*time.Millisecond, func() bool {
			now, err = l.status(ctx)
			return err == nil && now.LastApply.At.After(before.LastApply.At) && now.Wanted == now.Applied
		}); err != nil {
			return fmt.Errorf("change %d: %w", i+1, err)
		}
		f.Applied++
		if a := now.LastApply; a.Method == model.Reload || a.Error != "" {
			reason, _, _ := strings.Cut(strings.Join(a.Reasons[min(1, len(a.Reasons)):], " ")+" "+a.Error+" ", " ")
			f.Reloads[reason]++
			l.worker = now.HAProxy.Worker
		}
	}
	return nil
}

func (l *balancer) weight() (w weight, err error) {
	for _, m := range []struct {
		pid int
		to  *float64
	}{{l.pid(), &w.Fnlb}, {l.worker, &w.HAProxy}} {
		kb, err := memory(m.pid, "VmRSS")
		if err != nil {
			return w, err
		}
		*m.to = float64(kb) / 1024
	}
	return w, nil
}
