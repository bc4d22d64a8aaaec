package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"
)

var (
	errUnsolicited = errors.New("bytes on an idle connection that nobody asked for")
	errNoLength    = errors.New("the answer ends with the connection: a cut would not be seen")
)

// worker owns at most one connection and is used by one goroutine.
type worker struct {
	group    Group
	address  string
	timeout  time.Duration
	paths    []string
	requests [][]byte // what goes over the wire, by path
	next     int      // index of the next path
	delay    time.Duration
	from     net.Addr // local address; nil: any
	first    func()

	conn net.Conn
	in   *bufio.Reader

	part
}

func newWorker(o Options, g Group, index, start int) *worker {
	w := &worker{
		group: g, address: o.Address, timeout: o.Timeout, paths: o.Paths, next: start % len(o.Paths),
		delay: g.Think * time.Duration(index) / time.Duration(g.Workers),
		part:  part{status: map[int]int{}},
	}
	if g.Apart {
		w.from = &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+start%250))}
	}
	for _, path := range o.Paths {
		request := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\n", g.Method, path, o.Host)
		if g.Body != "" || g.Method == http.MethodPost {
			request += fmt.Sprintf("Content-Length: %d\r\n", len(g.Body))
		}
		if !g.KeepAlive {
			request += "Connection: close\r\n"
		}
		w.requests = append(w.requests, []byte(request+"\r\n"+g.Body))
	}
	return w
}

func (w *worker) run(ctx context.Context) {
	defer w.hangUp()
	spread := w.delay
	for ctx.Err() == nil {
		wait := w.group.Think + spread
		spread = 0
		if !w.request(w.next) {
			wait = max(wait, pause)
		}
		w.first()
		w.next = (w.next + 1) % len(w.paths)
		if !sleep(ctx, wait) {
			return
		}
	}
}

// request sends one request and notes how it ended; true is a good answer. It takes no context on purpose: a request that was
// begun is brought to its end, or an end of the load would look like failures.
func (w *worker) request(path int) bool {
	begun := time.Now()
	reused, status, err := w.exchange(path, begun.Add(w.timeout))
	took := time.Since(begun)
	if status != 0 {
		w.status[status]++
	}
	if err == nil && (status < 200 || status > 399) {
		err = fmt.Errorf("status %d", status)
	}
	if err == nil {
		w.latencies = append(w.latencies, took)
		return true
	}
	w.fail(Failure{
		At: begun, Took: took, Group: w.group.Name, Method: w.group.Method, Path: w.paths[path], Reused: reused, Err: err,
	})
	return false
}

// exchange does one request; status is 0 where no answer's header came.
func (w *worker) exchange(path int, deadline time.Time) (reused bool, status int, err error) {
	defer func() {
		if err != nil || !w.group.KeepAlive {
			w.hangUp()
		}
	}()
	if w.conn != nil {
		switch err := idle(w.conn, w.in); {
		case err == nil:
			reused = true
		case errors.Is(err, errUnsolicited):
			return true, 0, err
		default: // closed while nothing was under way
			w.reconnects++
			w.hangUp()
		}
	}
	if w.conn == nil {
		if w.conn, err = (&net.Dialer{Deadline: deadline, LocalAddr: w.from}).DialContext(context.Background(), "tcp", w.address); err != nil {
			return false, 0, err // names the operation and the address
		}
		w.connections++
		w.in = bufio.NewReaderSize(w.conn, 4096)
	}
	if err := w.conn.SetDeadline(deadline); err != nil {
		return reused, 0, fmt.Errorf("set deadline: %w", err)
	}
	if _, err := w.conn.Write(w.requests[path]); err != nil {
		return reused, 0, err
	}
	status, last, err := w.answer()
	if err == nil && last {
		w.hangUp()
	}
	return reused, status, err
}

// answer reads one answer to its end; last says that the server will close the connection.
func (w *worker) answer() (status int, last bool, err error) {
	for {
		resp, err := http.ReadResponse(w.in, &http.Request{Method: w.group.Method})
		if err != nil {
			return 0, true, fmt.Errorf("read header: %w", err)
		}
		if resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
			continue // the answer itself is still to come
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			return resp.StatusCode, true, fmt.Errorf("read body: %w", err)
		}
		if resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 {
			return resp.StatusCode, true, errNoLength
		}
		return resp.StatusCode, resp.Close, nil
	}
}

func (w *worker) hangUp() {
	if w.conn == nil {
		return
	}
	_ = w.conn.Close() // all that matters was read; what is lost by it is noted already
	w.conn, w.in = nil, nil
}

// idle is nil when an unused connection may carry a request: the peer has neither closed it (io.EOF or a socket error) nor
// written to it (errUnsolicited). It does not block and takes nothing from the stream.
func idle(conn net.Conn, in *bufio.Reader) error {
	if in.Buffered() > 0 {
		return errUnsolicited
	}
	raw, err := conn.(syscall.Conn).SyscallConn() // what net.Dialer gives for tcp has it
	if err != nil {
		return err
	}
	var (
		n    int
		peek error
		one  [1]byte
	)
	// Not conn.Read with a deadline that has passed: that does not look at the socket at all.
	if err := raw.Control(func(fd uintptr) {
		n, _, peek = syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	}); err != nil {
		return err
	}
	switch {
	case errors.Is(peek, syscall.EAGAIN):
		return nil
	case peek != nil:
		return peek
	case n == 0:
		return io.EOF
	default:
		return errUnsolicited
	}
}

// sleep waits for d, or until ctx ends and then says false.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
