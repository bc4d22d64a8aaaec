package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/test/load"
)

// quantiles are of times in milliseconds.
type quantiles struct {
	N                int
	Median, P99, Max float64
}

func (q quantiles) String() string {
	return fmt.Sprintf("median %.1f ms, p99 %.1f ms, at most %.1f ms of %d", q.Median, q.P99, q.Max, q.N)
}

func quantilesOf(took []time.Duration) quantiles {
	if len(took) == 0 {
		return quantiles{}
	}
	slices.Sort(took)
	at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1)+.5)].Microseconds()) / 1000 }
	return quantiles{len(took), at(.5), at(.99), at(1)}
}

// change is one change of nodes as it is seen from outside.
type change struct {
	effect time.Duration // from the answer to the call to the first request that the new node gets, or the last one at the old node
	begin  time.Duration // from the answer to the begin of the apply: our quiet period, and the first check
	apply  time.Duration // of which HAProxy's commands are a part; the files follow
	method model.Method
}

type latencyFigures struct {
	Put, Delete  changeFigures
	Reloads      int
	HAProxyAlone struct{ Add, Remove quantiles } // the same commands by hand over HAProxy's own socket, to the same first and last request
	Requests     int
	Failed       int
}

type changeFigures struct{ Effect, Begin, Apply quantiles }

func (c *changeFigures) fill(changes []change) {
	pick := func(of func(change) time.Duration) quantiles {
		var out []time.Duration
		for _, c := range changes {
			out = append(out, of(c))
		}
		return quantilesOf(out)
	}
	c.Effect = pick(func(c change) time.Duration { return c.effect })
	c.Begin = pick(func(c change) time.Duration { return c.begin })
	c.Apply = pick(func(c change) time.Duration { return c.apply })
}

func (f latencyFigures) String() string {
	var t strings.Builder
	fmt.Fprintf(&t, "PUT answered to the first request there:     %s\n", f.Put.Effect)
	fmt.Fprintf(&t, "  of that until the apply begins             %s\n  the apply                                  %s\n", f.Put.Begin, f.Put.Apply)
	fmt.Fprintf(&t, "DELETE answered to the last request there:   %s\n", f.Delete.Effect)
	fmt.Fprintf(&t, "  of that until the apply begins             %s\n  the apply                                  %s\n", f.Delete.Begin, f.Delete.Apply)
	fmt.Fprintf(&t, "HAProxy alone, by its socket: add            %s\n", f.HAProxyAlone.Add)
	fmt.Fprintf(&t, "                              remove         %s\n", f.HAProxyAlone.Remove)
	fmt.Fprintf(&t, "%d reloads, %d requests, %d FAILED\n", f.Reloads, f.Requests, f.Failed)
	return t.String()
}

// light is traffic that a change happens in, beside one client that asks for a path of the node that comes and goes.
func light() []load.Group {
	return []load.Group{
		{Name: "keep-alive", KeepAlive: true, Workers: 4, Think: 20 * time.Millisecond},
		{Name: "fresh", Workers: 2, Think: 50 * time.Millisecond},
	}
}

// hot is that client.
func hot() load.Group {
	return load.Group{Name: "hot", KeepAlive: true, Workers: 1, Think: time.Millisecond}
}

// latency adds and removes one node again and again under light traffic.
func (b *bench) latency(ctx context.Context) (any, error) {
	n, err := startNode()
	if err != nil {
		return nil, err
	}
	b.stops = append(b.stops, n.close)
	l, err := b.startFnlb("fnlb", -1, b.nodes())
	if err != nil {
		return nil, err
	}
	if err := l.settled(ctx, len(b.nodePorts)); err != nil {
		return nil, err
	}
	worker := l.worker
	body := fmt.Sprintf(`{"node":%q}`, n.addr)
	if err := errors.Join(l.call(ctx, http.MethodPut, "/1/lb/nodes", body, nil), l.settled(ctx, len(b.nodePorts)+1)); err != nil {
		return nil, err
	}
	path, err := b.pathTo(ctx, l.port, n, 1000)
	if err != nil {
		return nil, err
	}
	text, err := l.text(ctx)
	if err != nil {
		return nil, err
	}
	light, err := b.startLoad(ctx, l.port, functions(200), light()...)
	if err != nil {
		return nil, err
	}
	hot, err := b.startLoad(ctx, l.port, []string{path}, hot())
	if err != nil {
		return nil, err
	}
	var f latencyFigures
	var puts, deletes []change
	for range b.steps {
		gone, err := l.timed(ctx, n, http.MethodDelete, body, len(b.nodePorts))
		if err != nil {
			return nil, err
		}
		came, err := l.timed(ctx, n, http.MethodPut, body, len(b.nodePorts)+1)
		if err != nil {
			return nil, err
		}
		deletes, puts = append(deletes, gone), append(puts, came)
	}
	for _, c := range append(slices.Clone(puts), deletes...) {
		if c.method == model.Reload {
			f.Reloads++
		}
	}
	for _, r := range []*running{light, hot} {
		result, err := r.end()
		if err != nil {
			return nil, err
		}
		f.Requests += result.Requests
		f.Failed += result.Failed
		for _, failure := range result.Failures {
			fmt.Println(failure)
		}
	}
	f.Put.fill(puts)
	f.Delete.fill(deletes)
	if worker != l.worker && f.Reloads == 0 {
		return f, errors.New("another worker serves, and no reload was seen")
	}
	if f.HAProxyAlone.Add, f.HAProxyAlone.Remove, err = b.alone(ctx, l, string(text), n, path); err != nil {
		return nil, err
	}
	return f, nil
}

// lull is how long a removed node gets no request before its last one is believed to be the last: the hot client asks every millisecond.
const lull = 100 * time.Millisecond

// timed makes one change and waits until it is in force and so many nodes serve.
func (l *balancer) timed(ctx context.Context, n *node, method, body string, nodes int) (change, error) {
	first := n.next()
	before, err := l.status(ctx)
	if err != nil {
		return change{}, err
	}
	if err := l.call(ctx, method, "/1/lb/nodes", body, nil); err != nil {
		return change{}, err
	}
	answered := time.Now()
	var now model.Status
	if err := l.until(ctx, 60*time.Second, 5*time.Millisecond, func() bool {
		now, err = l.status(ctx)
		return err == nil && now.LastApply != nil && now.LastApply.At.After(before.LastApply.At)
	}); err != nil {
		return change{}, fmt.Errorf("%s: no apply: %w", method, err)
	}
	last := now.LastApply
	if last.Error != "" {
		return change{}, fmt.Errorf("%s: refused: %s", method, last.Error)
	}
	c := change{begin: last.At.Sub(answered), apply: time.Duration(last.Millis * float64(time.Millisecond)), method: last.Method}
	if method == http.MethodPut {
		select {
		case at := <-first:
			c.effect = max(at.Sub(answered), 0)
		case <-time.After(10 * time.Second):
			return c, fmt.Errorf("the new node gets no request\n%s", l.tail())
		}
	} else {
		for time.Since(n.latest()) < lull {
			select {
			case <-time.After(lull):
			case <-ctx.Done():
				return c, ctx.Err()
			}
		}
		c.effect = max(n.latest().Sub(answered), 0)
	}
	return c, l.settled(ctx, nodes)
}

// text is fnlb's file, once it holds what was changed at run time.
func (l *balancer) text(ctx context.Context) ([]byte, error) {
	if err := l.until(ctx, 60*time.Second, 20*time.Millisecond, func() bool {
		s, err := l.status(ctx)
		return err == nil && !s.HAProxy.Behind
	}); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(l.bench.dir, l.name+".cfg"))
}

// alone does the same by hand with a HAProxy on fnlb's own text: what of a change is HAProxy's.
func (b *bench) alone(ctx context.Context, l *balancer, text string, n *node, path string) (add, remove quantiles, err error) {
	socket := filepath.Join(b.dir, "alone.sock")
	text = strings.Replace(text, "\nglobal\n", "\nglobal\n  stats socket "+socket+" level admin\n", 1)
	line, common := "", ""
	for each := range strings.Lines(text) {
		each = strings.TrimSpace(each)
		if rest, ok := strings.CutPrefix(each, "server "+n.addr+" "); ok {
			line = rest
		}
		if rest, ok := strings.CutPrefix(each, "default-server "); ok { // which add server ignores
			common = rest
		}
	}
	if line == "" || common == "" {
		return add, remove, fmt.Errorf("fnlb's text has no server %s", n.addr)
	}
	side, err := b.variant(ctx, text, l, "alone", 99, nil, "")
	if err != nil {
		return add, remove, err
	}
	hot, err := b.startLoad(ctx, side.port, []string{path}, hot())
	if err != nil {
		return add, remove, err
	}
	name := "nodes/" + n.addr
	var adds, removes []time.Duration
	for range b.steps {
		begun := time.Now()
		if err := ask(socket, "set server "+name+" state maint"); err != nil {
			return add, remove, err
		}
		time.Sleep(lull)
		removes = append(removes, max(n.latest().Sub(begun), 0))
		for limit := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if err = ask(socket, "del server "+name); err == nil {
				break
			}
			if time.Now().After(limit) {
				return add, remove, err
			}
		}
		first := n.next()
		begun = time.Now()
		if err := ask(socket, "add server "+name+" "+line+" "+common, "enable health "+name, "set server "+name+" state ready"); err != nil {
			return add, remove, err
		}
		select {
		case at := <-first:
			adds = append(adds, at.Sub(begun))
		case <-time.After(10 * time.Second):
			return add, remove, errors.New("HAProxy alone: the new server gets no request")
		}
	}
	if _, err := hot.end(); err != nil {
		return add, remove, err
	}
	return quantilesOf(adds), quantilesOf(removes), nil
}

// ask sends commands to HAProxy's statistics socket, in one line; only what means success is none of an error.
func ask(socket string, commands ...string) error {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, strings.Join(commands, ";")+"\n"); err != nil {
		return err
	}
	reply, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(reply) {
		if said := strings.TrimSpace(string(line)); said != "" && said != "New server registered." && said != "Server deleted." {
			return fmt.Errorf("%s: %s", commands, said)
		}
	}
	return nil
}
