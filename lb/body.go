package lb

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
)

var errSealed = errors.New("lb: this try is over")

// lent is a request's body as one try has it. It stays whole for the next try as long as nobody has read of it: a transport closes the body
// of a request that fails, and may do so after it has returned.
type lent struct {
	body io.ReadCloser

	mu     sync.Mutex
	begun  bool // somebody has read: from here on the body is this try's
	sealed bool // the try is over, and the body is the next one's
	kept   bool // there will be no other try
	closed bool
	failed bool // reading failed, which is the client's doing
}

func (l *lent) Read(p []byte) (int, error) {
	l.mu.Lock()
	if l.sealed {
		l.mu.Unlock()
		return 0, errSealed
	}
	l.begun = true
	l.mu.Unlock()
	n, err := l.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		l.mu.Lock()
		l.failed = !l.closed // what the transport has closed cannot be read
		l.mu.Unlock()
	}
	return n, err
}

func (l *lent) Close() error {
	l.mu.Lock()
	l.closed = true
	ours := !l.sealed && (l.begun || l.kept)
	l.mu.Unlock()
	if !ours {
		return nil
	}
	return l.body.Close()
}

// keep says that there will be no other try.
func (l *lent) keep() {
	l.mu.Lock()
	l.kept = true
	late := l.closed && !l.begun && !l.sealed
	l.mu.Unlock()
	if late {
		l.body.Close() //nolint:errcheck // that of a body that nobody has read says nothing
	}
}

// reclaim takes the body back for another try, if nobody has read of it.
func (l *lent) reclaim() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sealed = l.sealed || !l.begun
	return l.sealed
}

func (l *lent) clientFailed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// call is one request with its tries.
type call struct {
	req  *http.Request
	body io.ReadCloser // nil without one
	lent *lent         // what the newest try has of body

	idempotent     bool
	asked, written atomic.Bool // of a request that is not idempotent: a connection was asked for, headers were written
}

func (c *call) init(req *http.Request) {
	c.req, c.idempotent = req, idempotent(req)
	if req.Body != nil && req.Body != http.NoBody {
		c.body = req.Body
	}
}

// idempotent: RFC 9110, section 9.2.2, and the header by which a client says so (as net/http's Transport has it).
func idempotent(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	_, key := req.Header["Idempotency-Key"]
	_, old := req.Header["X-Idempotency-Key"]
	return key || old
}

// try sends the request to dest. in is what the client asked with; nil: the request leads to dest as it is.
func (c *call) try(via http.RoundTripper, dest *node, in func() *http.Request) (*http.Response, error) {
	out := c.req
	if in != nil {
		out = in()
	}
	ctx, changed := out.Context(), c.body != nil
	if !c.idempotent {
		c.asked.Store(false)
		c.written.Store(false)
		ctx, changed = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			GetConn:      func(string) { c.asked.Store(true) },
			WroteHeaders: func() { c.written.Store(true) },
		}), true
	}
	if changed {
		out = out.WithContext(ctx)
	}
	if c.body != nil {
		c.lent = &lent{body: c.body}
		out.Body = c.lent
	}
	resp, err := via.RoundTrip(out)
	if err == nil && c.lent != nil {
		c.lent.keep()
	}
	return resp, err
}

// mayRepeat says whether the request may be sent again after err, and makes its body ready for that.
func (c *call) mayRepeat(err error) bool {
	if !c.idempotent && !neverWritten(err) && (!c.asked.Load() || c.written.Load()) {
		return false
	}
	if c.body == nil || c.lent.reclaim() {
		return true
	}
	if c.req.GetBody == nil {
		return false
	}
	body, err := c.req.GetBody()
	if err != nil {
		return false // the caller gets the error of the node, which came first
	}
	c.lent.Close() //nolint:errcheck // what could not be sent is of no use
	c.body = body
	return true
}

// neverWritten: there was no connection to write to.
func neverWritten(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// clientsFault says whether the request failed for want of its client rather than of the node.
func (c *call) clientsFault() bool {
	return c.req.Context().Err() != nil || c.lent != nil && c.lent.clientFailed()
}

// end closes the body when no try has taken it.
func (c *call) end() {
	if c.body == nil {
		return
	}
	if c.lent == nil || c.lent.reclaim() {
		c.body.Close()
	}
}

// endOf is the error of a context that has ended.
func endOf(ctx context.Context) error {
	return context.Cause(ctx)
}
