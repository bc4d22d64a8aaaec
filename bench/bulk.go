package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fnlb/fnlb/model"
)

type bulkFigures []bulkFigure

// bulkFigure is so many servers that came in one State.
type bulkFigure struct {
	Servers     int
	Method      model.Method
	Applied     float64 // ms, the apply of all of them
	InForce     float64 // ms from the answer to the call to the end of that apply
	CPU         float64 // ms of fnlb from the call until all are seen to be healthy
	RSS, Peak   float64 // MB of fnlb
	HAProxyRSS  float64 // MB of its worker
	One, OneEnd quantiles
}

func (f bulkFigures) String() string {
	var t strings.Builder
	for _, r := range f {
		fmt.Fprintf(&t, "%5d servers in one State, by %s: applied in %.0f ms, in force %.0f ms after the call; fnlb used %.0f ms of a core, RSS %.0f MB, at most %.0f MB; HAProxy %.0f MB\n",
			r.Servers, r.Method, r.Applied, r.InForce, r.CPU, r.RSS, r.Peak, r.HAProxyRSS)
		fmt.Fprintf(&t, "      one change among them: applied in %s\n      in force after its call: %s\n", r.One, r.OneEnd)
	}
	return t.String()
}

// bulk adds many servers in one State, and then single ones.
func (b *bench) bulk(ctx context.Context) (any, error) {
	var f bulkFigures
	for _, servers := range []int{b.many, b.servers} {
		r, err := b.oneState(ctx, servers)
		if err != nil {
			return nil, fmt.Errorf("%d servers: %w", servers, err)
		}
		f = append(f, r)
	}
	return f, nil
}

// address is one of many of the first nginx port, which answers on every loopback address.
func (b *bench) address(i int) string {
	return fmt.Sprintf("127.%d.%d.%d:%d", 1+i/62500, i/250%250, i%250+1, b.nodePorts[0])
}

// oneState freezes fnlb, lists all the nodes, waits for their first checks, and thaws: all of them are one change.
func (b *bench) oneState(ctx context.Context, servers int) (f bulkFigure, err error) {
	f.Servers = servers
	l, err := b.startFnlb(fmt.Sprintf("bulk%d", servers), -1, b.nodes(), "--hc-interval", "60s") // HAProxy's checks of all are not what is measured
	if err != nil {
		return f, err
	}
	if err := errors.Join(l.settled(ctx, len(b.nodePorts)), l.call(ctx, http.MethodPut, "/1/lb/freeze", `{"reason":"bench"}`, nil)); err != nil {
		return f, err
	}
	if err := l.list(ctx, servers); err != nil {
		return f, err
	}
	l.interval = time.Duration(20+servers/20) * time.Millisecond // the apply's own times are what is reported
	checked := func() bool {                                     // each was asked, and only the freeze keeps it out
		s, err := l.status(ctx)
		if err != nil || len(s.Servers) != servers+len(b.nodePorts) {
			return false
		}
		for _, server := range s.Servers {
			if server.LastCheck == "" || strings.Contains(server.LastCheck, "not checked") {
				return false
			}
		}
		return true
	}
	if err := l.until(ctx, 3*time.Minute, l.interval, checked); err != nil {
		return f, err
	}
	used, err := cpuTime(l.pid())
	if err != nil {
		return f, err
	}
	if err := l.call(ctx, http.MethodDelete, "/1/lb/freeze", "", nil); err != nil {
		return f, err
	}
	answered := time.Now()
	if err := l.settled(ctx, servers+len(b.nodePorts)); err != nil {
		return f, err
	}
	now, err := cpuTime(l.pid())
	if err != nil {
		return f, err
	}
	f.CPU = float64((now - used).Milliseconds())
	s, err := l.status(ctx)
	if err != nil {
		return f, err
	}
	f.Method, f.Applied = s.LastApply.Method, s.LastApply.Millis
	f.InForce = float64(s.LastApply.At.Sub(answered).Microseconds())/1000 + f.Applied
	if err := f.weigh(l); err != nil {
		return f, err
	}
	if f.One, f.OneEnd, err = l.single(ctx, servers+len(b.nodePorts)); err != nil {
		return f, err
	}
	return f, l.stop(syscall.SIGTERM, 60*time.Second)
}

func (f *bulkFigure) weigh(l *balancer) error {
	for _, m := range []struct {
		pid   int
		field string
		to    *float64
	}{{l.pid(), "VmRSS", &f.RSS}, {l.pid(), "VmHWM", &f.Peak}, {l.worker, "VmRSS", &f.HAProxyRSS}} {
		kb, err := memory(m.pid, m.field)
		if err != nil {
			return err
		}
		*m.to = float64(kb) / 1024
	}
	return nil
}

// list puts nodes as fast as eight clients can.
func (l *balancer) list(ctx context.Context, n int) error {
	const clients = 8
	errs := make([]error, clients)
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := c; i < n && errs[c] == nil; i += clients {
				errs[c] = l.call(ctx, http.MethodPut, "/1/lb/nodes", fmt.Sprintf(`{"node":%q}`, l.bench.address(i)), nil)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// single takes one of many away and gives it back some times.
func (l *balancer) single(ctx context.Context, nodes int) (applied, inForce quantiles, err error) {
	var took, all []time.Duration
	body := fmt.Sprintf(`{"node":%q}`, l.bench.address(0))
	for i := range 20 {
		method, want := http.MethodDelete, nodes-1
		if i%2 == 1 {
			method, want = http.MethodPut, nodes
		}
		before, err := l.status(ctx)
		if err != nil {
			return applied, inForce, err
		}
		if err := l.call(ctx, method, "/1/lb/nodes", body, nil); err != nil {
			return applied, inForce, err
		}
		answered := time.Now()
		var now model.Status
		if err := errors.Join(l.until(ctx, 60*time.Second, l.interval, func() bool {
			now, err = l.status(ctx)
			return err == nil && now.LastApply.At.After(before.LastApply.At)
		}), l.settled(ctx, want)); err != nil {
			return applied, inForce, err
		}
		apply := time.Duration(now.LastApply.Millis * float64(time.Millisecond))
		took, all = append(took, apply), append(all, now.LastApply.At.Sub(answered)+apply)
	}
	return quantilesOf(took), quantilesOf(all), nil
}
