package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fnlb/fnlb/bench/stats"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/test/load"
)

// mixed is the load: new and kept connections, GET and POST, and clients that think for so long that a reload always meets
// their idle connections.
func mixed() []load.Group {
	return []load.Group{
		{Name: "fresh", Workers: 4, Think: 2 * time.Millisecond},
		{Name: "fresh POST", Workers: 2, Think: 5 * time.Millisecond, Method: http.MethodPost, Body: "payload"},
		{Name: "keep-alive", KeepAlive: true, Workers: 8, Think: time.Millisecond},
		{Name: "keep-alive POST", KeepAlive: true, Workers: 2, Think: 2 * time.Millisecond, Method: http.MethodPost, Body: "payload"},
		{Name: "keep-alive, thinks 100 ms", KeepAlive: true, Workers: 8, Think: 100 * time.Millisecond},
		{Name: "keep-alive, thinks 3 s", KeepAlive: true, Workers: 32, Think: 3 * time.Second},
	}
}

type reloadFigures struct {
	Changes, Hangups int // node changes and SIGHUPs
	Reloads          int // workers that were started for them
	Milliseconds     struct{ Median, Max float64 }
	Requests, Failed int
	Reconnects       int // idle connections that HAProxy had closed
	P50, P99, Max    time.Duration
	Seconds          float64
	Failures         []string
}

func (f reloadFigures) String() string {
	var t strings.Builder
	fmt.Fprintf(&t, "%d node changes and %d SIGHUPs (%d reloads, median %.0f ms, at most %.0f ms) in %.0f s\n",
		f.Changes, f.Hangups, f.Reloads, f.Milliseconds.Median, f.Milliseconds.Max, f.Seconds)
	fmt.Fprintf(&t, "%d requests, %d FAILED; %d reconnects; p50 %s, p99 %s, max %s\n", f.Requests, f.Failed, f.Reconnects, f.P50, f.P99, f.Max)
	for _, line := range f.Failures {
		fmt.Fprintf(&t, "  %s\n", line)
	}
	return t.String()
}

// reload takes a node away and gives it back, and changes the template and sends SIGHUP, each time until it is in force.
func (b *bench) reload(ctx context.Context) (any, error) {
	text, err := os.ReadFile(b.template)
	if err != nil {
		return nil, err
	}
	template := filepath.Join(b.dir, "haproxy.tmpl")
	if err := os.WriteFile(template, text, 0o644); err != nil {
		return nil, err
	}
	l, err := b.startFnlb("fnlb", -1, b.nodes(), "--template", template)
	if err != nil {
		return nil, err
	}
	if err := l.settled(ctx, len(b.nodePorts)); err != nil {
		return nil, err
	}

	loaded, end := context.WithCancel(ctx)
	defer end()
	ready := make(chan struct{})
	type outcome struct {
		result load.Result
		err    error
	}
	ended := make(chan outcome, 1)
	go func() {
		r, err := load.Run(loaded, load.Options{
			Address: fmt.Sprintf("127.0.0.1:%d", l.port), Paths: functions(200), Groups: mixed(), Ready: func() { close(ready) },
		})
		ended <- outcome{r, err}
	}()
	select {
	case <-ready: // each worker has an answer
	case o := <-ended:
		return nil, fmt.Errorf("the load ended early: %w", o.err)
	}
	f := reloadFigures{Changes: b.changes, Hangups: b.changes}
	applies, err := b.disturb(ctx, l, string(text), template)
	end()
	o := <-ended
	if err := errors.Join(err, o.err); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, o.result)
	}
	f.fill(o.result, applies)
	if f.Failed > 0 {
		return f, fmt.Errorf("requests were lost\n%s\n%s", f, l.tail())
	}
	return f, nil
}

func (f *reloadFigures) fill(r load.Result, applies []model.Apply) {
	f.Requests, f.Failed, f.Reconnects, f.Seconds = r.Requests, r.Failed, r.Reconnects, r.Elapsed.Seconds()
	f.P50, f.P99, f.Max = r.Latency(.5), r.Latency(.99), r.Latency(1)
	for _, failure := range r.Failures[:min(20, len(r.Failures))] {
		f.Failures = append(f.Failures, failure.String())
	}
	var took []float64
	for _, a := range applies {
		if a.Method == model.Reload {
			took = append(took, a.Millis)
		}
	}
	f.Reloads = len(took)
	if len(took) > 0 {
		f.Milliseconds.Median = stats.Median(took)
		_, f.Milliseconds.Max, _ = stats.Interval(took, 1)
	}
}

// disturb makes all the changes under the load, and gives what fnlb applied for them.
func (b *bench) disturb(ctx context.Context, l *balancer, text, template string) ([]model.Apply, error) {
	var applies []model.Apply
	node := fmt.Sprintf(`{"node":"127.0.0.1:%d"}`, b.nodePorts[2])
	serving := len(b.nodePorts)
	for i := range b.changes {
		method := http.MethodDelete
		serving--
		if i%2 == 1 {
			method = http.MethodPut
			serving += 2
		}
		a, err := l.after(ctx, serving, func() error { return l.call(ctx, method, "/1/lb/nodes", node, nil) })
		if err != nil {
			return nil, fmt.Errorf("change %d: %w", i+1, err)
		}
		applies = append(applies, a)
	}
	const line = "  timeout http-request 10s\n"
	if !strings.Contains(text, line) {
		return nil, fmt.Errorf("%s has no line %q to change", b.template, line)
	}
	for i := range b.changes {
		// A directive without effect, another each time: a text that stays the same would be no reload.
		changed := strings.Replace(text, line, fmt.Sprintf("%s  timeout tarpit %ds\n", line, i+10), 1)
		if err := os.WriteFile(template, []byte(changed), 0o644); err != nil {
			return nil, err
		}
		a, err := l.after(ctx, serving, func() error { return l.cmd.Process.Signal(syscall.SIGHUP) })
		if err != nil {
			return nil, fmt.Errorf("SIGHUP %d: %w", i+1, err)
		}
		applies = append(applies, a)
	}
	return applies, nil
}

// after does something and waits until fnlb has applied something newer and the given number of nodes serves.
func (l *balancer) after(ctx context.Context, nodes int, do func() error) (model.Apply, error) {
	before, err := l.status(ctx)
	if err != nil {
		return model.Apply{}, err
	}
	if before.LastApply == nil {
		return model.Apply{}, errors.New("status names no last apply")
	}
	if err := do(); err != nil {
		return model.Apply{}, err
	}
	var now model.Status
	err = l.until(ctx, 60*time.Second, 5*time.Millisecond, func() bool {
		now, err = l.status(ctx)
		return err == nil && now.LastApply.At.After(before.LastApply.At)
	})
	if err != nil {
		return model.Apply{}, fmt.Errorf("no apply: %w", err)
	}
	if now.LastApply.Error != "" {
		return model.Apply{}, fmt.Errorf("refused: %s", now.LastApply.Error)
	}
	return *now.LastApply, l.settled(ctx, nodes)
}

// functions are paths as function nodes have them; paths.lua makes the same.
func functions(n int) []string {
	paths := make([]string, n)
	for i := range paths {
		paths[i] = fmt.Sprintf("/r/app/function-%d", i+1)
	}
	return paths
}
