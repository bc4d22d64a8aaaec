package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fnlb/fnlb/bench/stats"
)

// calm is how long a fnlb whose nodes all serve is left alone before its memory is read: some rounds of checks.
const calm = 10 * time.Second

type startFigures struct {
	Milliseconds struct{ Median, Min, Max float64 } // from the command to the first balanced request
	Memory       []memoryFigures
}

type memoryFigures struct {
	Nodes     int
	RSS, Peak float64 // MB of fnlb, without HAProxy
	Seconds   float64 // until all nodes served
}

func (f startFigures) String() string {
	var t strings.Builder
	fmt.Fprintf(&t, "first balanced request after %.0f ms (%.0f to %.0f)\n", f.Milliseconds.Median, f.Milliseconds.Min, f.Milliseconds.Max)
	for _, m := range f.Memory {
		fmt.Fprintf(&t, "%5d nodes: RSS of fnlb %.1f MB, at most %.1f MB; all served after %.1f s\n", m.Nodes, m.RSS, m.Peak, m.Seconds)
	}
	return t.String()
}

// start times fnlb from its command to the first answer of a node, and reads its memory with few and with many nodes.
func (b *bench) start(ctx context.Context) (any, error) {
	var f startFigures
	var took []float64
	for n := range b.starts {
		ms, err := b.first(ctx, fmt.Sprintf("start%d", n))
		if err != nil {
			return nil, fmt.Errorf("start %d: %w", n+1, err)
		}
		took = append(took, ms)
	}
	f.Milliseconds.Median, f.Milliseconds.Min, f.Milliseconds.Max = stats.Median(took), slices.Min(took), slices.Max(took)
	for _, nodes := range []int{3, b.many} {
		m, err := b.memory(ctx, nodes)
		if err != nil {
			return nil, fmt.Errorf("memory with %d nodes: %w", nodes, err)
		}
		f.Memory = append(f.Memory, m)
	}
	return f, nil
}

func (b *bench) first(ctx context.Context, name string) (float64, error) {
	begun := time.Now()
	l, err := b.startFnlb(name, -1, b.nodes())
	if err != nil {
		return 0, err
	}
	if err := l.until(ctx, 30*time.Second, time.Millisecond, func() bool { return b.answers(ctx, l.port) }); err != nil {
		return 0, err
	}
	took := time.Since(begun)
	return float64(took.Microseconds()) / 1000, l.stop(syscall.SIGTERM, 60*time.Second)
}

func (b *bench) memory(ctx context.Context, nodes int) (memoryFigures, error) {
	m := memoryFigures{Nodes: nodes}
	list := make([]string, nodes)
	for i := range list {
		// The first nginx port answers on every loopback address.
		list[i] = fmt.Sprintf("127.1.%d.%d:%d", i/250, i%250+1, b.nodePorts[0])
	}
	begun := time.Now()
	l, err := b.startFnlb(fmt.Sprintf("memory%d", nodes), -1, strings.Join(list, ","))
	if err != nil {
		return m, err
	}
	if err := l.settled(ctx, nodes); err != nil {
		return m, err
	}
	m.Seconds = time.Since(begun).Seconds()
	select {
	case <-time.After(calm):
	case <-ctx.Done():
		return m, ctx.Err()
	}
	rss, err := memory(l.pid(), "VmRSS")
	if err != nil {
		return m, err
	}
	peak, err := memory(l.pid(), "VmHWM")
	if err != nil {
		return m, err
	}
	m.RSS, m.Peak = float64(rss)/1024, float64(peak)/1024
	return m, l.stop(syscall.SIGTERM, 60*time.Second)
}
