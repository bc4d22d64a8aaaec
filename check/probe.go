package check

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fnlb/fnlb/model"
)

// buffer is HAProxy's tune.bufsize by default: of a larger answer it sees the beginning alone.
const buffer = 16 << 10

// maxReason is the longest Reason in bytes.
const maxReason = 200

// Result is what one probe found.
type Result struct {
	OK     bool
	Reason string // what came back, in printable ASCII, at most 200 bytes
	Mend   string // what to change, where the node answers but can never pass this rule
	Final  bool   // the node answered, and will answer the same until somebody changes something
}

// Prober probes servers as HAProxy would. It is safe for concurrent use.
type Prober struct {
	mu       sync.Mutex
	patterns map[string]*regexp.Regexp // what was compiled lately, by its text
}

// mostPatterns bounds what a Prober keeps.
const mostPatterns = 256

// NewProber gives a Prober.
func NewProber() *Prober { return &Prober{} }

// Probe asks the server at that address once, with the server's name as Host: one connection for each path of the rule, one after another
// until one does not pass; no redirects, no proxies. Times are counted as HAProxy counts them: connecting may take the interval,
// and all answers together the timeout for each of them, from the first connection on.
func (p *Prober) Probe(ctx context.Context, rule model.Check, at netip.AddrPort, server string) Result {
	if err := Validate(rule); err != nil {
		return no(err.Error())
	}
	if rule.Kind == model.CheckOff {
		return Result{OK: true, Reason: "its rule asks for no check"}
	}
	if rule.Kind == model.CheckTCP {
		return p.probe(ctx, rule, model.Ask{}, at, server, new(time.Time))
	}
	var r Result
	var until time.Time
	for _, a := range rule.Asks {
		if r = p.probe(ctx, rule, a, at, server, &until); !r.OK {
			break
		}
	}
	return r
}

// probe makes one connection, for one of the rule's paths. The first one sets until when all are to be answered.
func (p *Prober) probe(ctx context.Context, rule model.Check, a model.Ask, at netip.AddrPort, server string, until *time.Time) Result {
	pattern, err := p.compiled(a)
	if err != nil {
		return no(err.Error())
	}
	dialer := net.Dialer{Timeout: rule.Interval, KeepAlive: -1}
	conn, err := dialer.DialContext(ctx, "tcp", at.String())
	if err != nil {
		return no(connectReason(at, rule.Interval, err))
	}
	defer conn.Close() //nolint:errcheck // the answer has been read, or the reason is known
	if rule.Kind == model.CheckTCP {
		return Result{OK: true, Reason: "it accepts connections"}
	}
	stop := context.AfterFunc(ctx, func() {
		conn.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // fails only on a closed connection
	})
	defer stop()
	if until.IsZero() {
		*until = time.Now().Add(answerTime(rule))
	}
	if err := conn.SetDeadline(*until); err != nil {
		return no(err.Error())
	}
	if ctx.Err() != nil { // it may have ended before the deadline was set
		return no("the probe was stopped")
	}
	got, err := ask(conn, a, hostOf(server), pattern)
	if err != nil {
		if ctx.Err() != nil {
			return no("the probe was stopped")
		}
		return no(answerReason(rule, a, err))
	}
	return judge(a, pattern, got)
}

func (p *Prober) compiled(a model.Ask) (*regexp.Regexp, error) {
	text, err := pattern(a)
	if text == "" || err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if re := p.patterns[text]; re != nil {
		return re, nil
	}
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, fmt.Errorf("health check path %s: %w", quote(a.Path, 60), err)
	}
	if p.patterns == nil || len(p.patterns) >= mostPatterns {
		p.patterns = map[string]*regexp.Regexp{}
	}
	p.patterns[text] = re
	return re, nil
}

// answer is as much of a response as the rule looks at.
type answer struct {
	status int
	body   []byte
}

// ask sends the same request as HAProxy and reads the answer as HAProxy does (tried, versions 2.6 to 3.2): an interim answer
// counts as the answer, and the body is looked at while it arrives, so that an answer which passes need not be complete. Where the whole body
// is compared, it must be.
func ask(conn net.Conn, a model.Ask, host string, pattern *regexp.Regexp) (answer, error) {
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n\r\n", a.Path, host); err != nil {
		return answer{}, err
	}
	in := &noting{r: conn}
	left := &io.LimitedReader{R: in, N: buffer}
	r := bufio.NewReader(left)
	resp, err := http.ReadResponse(r, nil) //nolint:bodyclose // Close would wait for the rest of the body; Probe closes the connection
	if err != nil {
		return answer{}, cmp.Or(in.err, err)
	}
	for name := range resp.Header {
		if strings.HasSuffix(name, " ") { // net/http lets it pass, HAProxy does not
			return answer{}, fmt.Errorf("malformed header name %q", name)
		}
	}
	got := answer{status: resp.StatusCode}
	if pattern == nil && r.Buffered() == 0 {
		return got, nil // the status alone decides
	}
	for part := make([]byte, 4096); ; {
		n, err := resp.Body.Read(part)
		got.body = append(got.body, part[:n]...)
		switch {
		case pattern == nil && (err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)),
			pattern != nil && len(a.Bodies) == 0 && pattern.Match(got.body),
			errors.Is(err, io.EOF),
			err != nil && left.N == 0:
			return got, nil
		case err != nil:
			return answer{}, err
		}
	}
}

// noting keeps the error that ended the reading: what was read until then may be malformed because of it.
type noting struct {
	r   io.Reader
	err error
}

func (n *noting) Read(b []byte) (int, error) {
	got, err := n.r.Read(b)
	if err != nil {
		n.err = err
	}
	return got, err
}

// judge holds the answer against the rule.
func judge(a model.Ask, pattern *regexp.Regexp, got answer) Result {
	if len(a.Bodies) > 0 {
		return judgeBody(a, pattern, got)
	}
	most := 399
	if pattern != nil {
		most = 200
	}
	if got.status < 200 || got.status > most {
		r := no(fmt.Sprintf("GET %s gave status %d %s", clip(a.Path, 80), got.status, http.StatusText(got.status)))
		r.Mend = statusMend(got.status)
		r.Final = r.Mend != ""
		return r
	}
	if pattern == nil || pattern.Match(got.body) {
		return Result{OK: true, Reason: fmt.Sprintf("status %d", got.status)}
	}
	if m := anyVersion.FindSubmatch(got.body); m != nil {
		found := quote(string(m[1]), 60)
		if !semantic.Match(m[1]) {
			return Result{Reason: "its version " + found + " is no semantic version (x.y.z)", Final: true,
				Mend: "--min-api-version= (empty) accepts any version"}
		}
		return Result{Reason: fmt.Sprintf("its version %s is lower than %s", found, a.MinVersion), Final: true,
			Mend: "upgrade the node, or set --min-api-version to what it has"}
	}
	return Result{
		Reason: fmt.Sprintf("the body of GET %s holds no {\"version\":\"x.y.z\"}: %s", clip(a.Path, 60), quote(string(got.body), 80)),
		Mend:   "set --hc-path to the path that tells the version, or --min-api-version= (empty) to accept any 2xx or 3xx",
		Final:  true,
	}
}

// judgeBody holds the answer against the bodies that pass. Another one may come to be one of them without anybody's doing.
func judgeBody(a model.Ask, pattern *regexp.Regexp, got answer) Result {
	if pattern.Match(got.body) {
		return Result{OK: true, Reason: fmt.Sprintf("status %d, and the body that is wanted", got.status)}
	}
	more := ""
	if len(a.Bodies) > 1 {
		more = fmt.Sprintf(" or %d others", len(a.Bodies)-1)
	}
	return no(fmt.Sprintf("the body of GET %s is not %s%s but %s", clip(a.Path, 50), quote(a.Bodies[0], 30), more, quote(string(got.body), 50)))
}

var (
	anyVersion = regexp.MustCompile(`"version"[[:space:]]*:[[:space:]]*"([^"]*)"`)
	semantic   = regexp.MustCompile(`^v?(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)([-+][0-9A-Za-z.+-]+)?$`)
)

// statusMend names the flag to change where the node will not answer otherwise by itself. Server errors, 408, 425 and 429 may
// pass with time.
func statusMend(status int) string {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return "set --hc-path to a path that asks for no credentials"
	case status >= 200 && status < 300:
		return "set --hc-path to the path that answers with 200 and the version"
	case status >= 300 && status < 400:
		return "redirects are not followed: set --hc-path to the path that answers with 200"
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests:
		return ""
	case status >= 400 && status < 500:
		return "set --hc-path to a path that the node has"
	}
	return ""
}

func connectReason(at netip.AddrPort, limit time.Duration, err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "the probe was stopped"
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("connection to %s refused", at)
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("no connection to %s within %s", at, limit)
	}
	return fmt.Sprintf("no connection to %s: %s", at, reason(err))
}

func answerReason(rule model.Check, a model.Ask, err error) string {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Sprintf("no answer to GET %s within %s (--hc-timeout)", clip(a.Path, 80), answerTime(rule))
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Sprintf("the connection was reset before GET %s was answered", clip(a.Path, 80))
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Sprintf("the answer to GET %s was cut off, or its headers are larger than %d bytes", clip(a.Path, 80), buffer)
	}
	return fmt.Sprintf("the answer to GET %s is no HTTP: %s", clip(a.Path, 60), reason(err))
}

// reason is the innermost text of err: the layers of package net repeat the address.
func reason(err error) string {
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		return sys.Err.Error()
	}
	return strings.Trim(quote(err.Error(), 120), `"`)
}

func no(why string) Result { return Result{Reason: clip(why, maxReason)} }

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n-3] + "..."
	}
	return s
}
