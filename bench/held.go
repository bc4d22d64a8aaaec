package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fnlb/fnlb/model"
)

type heldFigures struct {
	WebSockets, Downloads int
	Asked, Reloads        int
	Seconds               float64
	Cut                   int
	OldWorkers            int     // at most
	HAProxy               float64 // MB, its worker and all old ones, at most
	Why                   []string
}

func (f heldFigures) String() string {
	return fmt.Sprintf("%d reloads asked for in %.0f s with %d WebSockets and %d slow downloads open: %d reloads made, %d CUT, at most %d old workers, %.0f MB of HAProxy\n%s",
		f.Asked, f.Seconds, f.WebSockets, f.Downloads, f.Reloads, f.Cut, f.OldWorkers, f.HAProxy, strings.Join(f.Why, "\n"))
}

const downloads = 50

// hold asks for reloads again and again while long connections are open.
func (b *bench) hold(ctx context.Context) (any, error) {
	n, err := startNode()
	if err != nil {
		return nil, err
	}
	b.stops = append(b.stops, n.close)
	text, err := os.ReadFile(b.template)
	if err != nil {
		return nil, err
	}
	template := filepath.Join(b.dir, "haproxy.tmpl")
	if err := os.WriteFile(template, text, 0o644); err != nil {
		return nil, err
	}
	l, err := b.startFnlb("fnlb", -1, n.addr, "--template", template)
	if err != nil {
		return nil, err
	}
	if err := l.settled(ctx, 1); err != nil {
		return nil, err
	}
	f := heldFigures{WebSockets: b.webSockets, Downloads: downloads, Asked: b.held}
	var open []*long
	defer func() {
		for _, c := range open {
			_ = c.conn.Close()
		}
	}()
	for i := range b.webSockets + downloads {
		c, err := openLong(ctx, l.port, i >= b.webSockets)
		if err != nil {
			return nil, fmt.Errorf("connection %d: %w", i, err)
		}
		open = append(open, c)
	}
	begun := time.Now()
	for i := range b.held {
		changed := fmt.Sprintf("%s\nbackend bench%d\n", text, i) // another section each time, so that no change at run time will do
		if err := os.WriteFile(template, []byte(changed), 0o644); err != nil {
			return nil, err
		}
		before, err := l.status(ctx)
		if err != nil {
			return nil, err
		}
		if err := l.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			return nil, err
		}
		if i%10 != 0 { // as fast as they are taken: what comes during a reload is one further reload
			continue
		}
		var now model.Status
		if err := l.until(ctx, 60*time.Second, 10*time.Millisecond, func() bool {
			now, err = l.status(ctx)
			return err == nil && now.LastApply.At.After(before.LastApply.At)
		}); err != nil {
			return nil, err
		}
		f.OldWorkers = max(f.OldWorkers, now.HAProxy.OldWorkers)
		mb, err := groupMemory(now.HAProxy.Master)
		if err != nil {
			return nil, err
		}
		f.HAProxy = max(f.HAProxy, mb)
	}
	if err := l.settled(ctx, 1); err != nil {
		return nil, err
	}
	f.Seconds = time.Since(begun).Seconds()
	close(n.over)
	for i, c := range open {
		if err := c.finish(); err != nil {
			f.Cut++
			f.Why = append(f.Why, fmt.Sprintf("connection %d: %v", i, err))
		}
	}
	f.Reloads, err = l.reloads(ctx)
	return f, err
}

// reloads are those that were made, by the metric.
func (l *balancer) reloads(ctx context.Context) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", l.management), http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := l.bench.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), `fnlb_applies_total{method="reload",result="ok"} `); ok {
			var n float64
			_, err := fmt.Sscan(rest, &n)
			return int(n), err
		}
	}
	return 0, errors.Join(lines.Err(), errors.New("there is no metric of the reloads"))
}

// groupMemory is the resident memory of a process group in MB.
func groupMemory(group int) (float64, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	mb := 0.0
	for _, dir := range dirs {
		var pid int
		if _, err := fmt.Sscan(filepath.Base(dir), &pid); err != nil {
			return 0, err
		}
		if of, err := syscall.Getpgid(pid); err != nil || of != group {
			continue
		}
		kb, err := memory(pid, "VmRSS")
		if err != nil {
			continue // it has just ended
		}
		mb += float64(kb) / 1024
	}
	return mb, nil
}

// long is a connection through the balancer that nothing but its own end may cut.
type long struct {
	conn     net.Conn
	in       *bufio.Reader
	download bool
	resp     *http.Response
}

const longLimit = 30 * time.Second

func openLong(ctx context.Context, port int, download bool) (*long, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	c := &long{conn: conn, in: bufio.NewReader(conn), download: download}
	request, want := "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", http.StatusSwitchingProtocols
	if download {
		request, want = "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n", http.StatusOK
	}
	_, err = conn.Write([]byte(request))
	if err == nil {
		c.resp, err = http.ReadResponse(c.in, nil) //nolint:bodyclose // the whole connection is closed
	}
	if err == nil && c.resp.StatusCode != want {
		err = fmt.Errorf("status %d", c.resp.StatusCode)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if download { // what arrives meanwhile fits into the buffers between
		c.in = bufio.NewReader(c.resp.Body)
	}
	return c, nil
}

// finish asks a WebSocket for an echo, and reads a download to its regular end.
func (c *long) finish() error {
	if err := c.conn.SetDeadline(time.Now().Add(longLimit)); err != nil {
		return err
	}
	if !c.download {
		if _, err := c.conn.Write([]byte("ping\n")); err != nil {
			return err
		}
		if line, err := c.in.ReadString('\n'); err != nil || line != "ping\n" {
			return fmt.Errorf("it says %q, %w", line, err)
		}
		return nil
	}
	last := ""
	for {
		line, err := c.in.ReadString('\n')
		if line != "" {
			last = line
		}
		if err != nil {
			if last != "end\n" {
				return fmt.Errorf("the last line is %q: %w", last, err)
			}
			return nil
		}
	}
}
