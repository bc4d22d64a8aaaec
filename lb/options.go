package lb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// options are what a round tripper works with.
type options struct {
	transport    http.RoundTripper
	ownTransport bool
	log          *slog.Logger
	observer     Observer
	factor       int64 // percent, 0: loads are not bounded
	spread       bool  // each node has its own order of fallbacks

	question   func(context.Context, *url.URL) error // whether a node may serve
	watchEvery time.Duration
	watchTime  time.Duration // the longest that one question takes
	rise, fall int
	health     bool // the question is asked all the time
}

func defaults() options {
	return options{transport: newTransport(), ownTransport: true, log: slog.New(slog.DiscardHandler),
		question: connects, watchEvery: watchEvery, watchTime: watchEvery, rise: 1, fall: 1}
}

// newTransport is that of net/http, but nodes are spoken to directly, as many connections are kept as there are requests at once, and bodies
// go through as they are.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true,
		MaxIdleConnsPerHost:   1024,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
}

// Option changes what [New] makes.
type Option func(*options) error

// WithTransport sends requests by rt, for example an [http.Transport] with settings for TLS, or for HTTP/2 without it. It must not follow
// redirects, as an http.Transport does not. Its idle connections are the caller's to close.
func WithTransport(rt http.RoundTripper) Option {
	return func(o *options) error {
		if rt == nil {
			return errors.New("transport is nil")
		}
		o.transport, o.ownTransport = rt, false
		return nil
	}
}

// WithBalanceFactor bounds the load of a node: when it would have more than percent of the average number of requests, a path of it spills over
// to the next node that the path would have, as long as that lasts (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing
// with Bounded Loads", 2018). It is from 101 to 65535, as --balance-factor of fnlb; 0 is off, which is the default. Only requests by
// [Balancer.ServeHTTP] count.
func WithBalanceFactor(percent int) Option {
	return func(o *options) error {
		if percent != 0 && (percent < 101 || percent > 65535) {
			return fmt.Errorf("balance factor %d: is not from 101 to 65535, nor 0", percent)
		}
		o.factor = int64(percent)
		return nil
	}
}

// WithLogger logs each change: a node goes away, or comes back. Without it nothing is logged.
func WithLogger(log *slog.Logger) Option {
	return func(o *options) error {
		if log == nil {
			return errors.New("logger is nil")
		}
		o.log = log
		return nil
	}
}

// WithObserver tells o what happens. Its methods are called by many goroutines at once and hold up the request, so they must be quick.
func WithObserver(o Observer) Option {
	return func(to *options) error {
		if o == nil {
			return errors.New("observer is nil")
		}
		to.observer = o
		return nil
	}
}

// Observer is told what metrics are made of.
type Observer interface {
	// Tried is called for each try of a request, once its response's header is there or it has failed.
	Tried(Try)
	// Changed is called when a node goes away, gets another fallback, or is back.
	Changed(Change)
}

// Try is one try of a request.
type Try struct {
	Target string        // the node whose path it is, without the query that a node may have
	Node   string        // the node that it was sent to
	Took   time.Duration // until the response's header
	Err    error         // nil: there was a response, with whatever status
}

// Change is a node that goes away or comes back.
type Change struct {
	Node     string
	Up       bool
	Fallback string // who has its requests now; empty when it is up
	Err      error  // why it went
}

// HealthCheck says how nodes are checked. What is left zero has its default.
type HealthCheck struct {
	// Path is asked for by GET, on top of the base path, and passes with a status of 2xx. Empty: a TCP connection passes.
	Path string
	// Check is asked in place of Path: nil passes. It must end when ctx does.
	Check func(ctx context.Context, node *url.URL) error
	// Interval is the time between two checks of a node (1 s), Timeout the longest that one takes (1 s).
	Interval, Timeout time.Duration
	// Unhealthy checks in a row must fail until a node is taken out (2), Healthy ones pass until it is back (1).
	Unhealthy, Healthy int
}

// WithHealthCheck checks all nodes while [Balancer.Run] runs. The same check then decides who may be a fallback and when a node is
// back. As long as no node passes, requests go to their own nodes all the same.
func WithHealthCheck(h HealthCheck) Option {
	return func(o *options) error {
		if h.Interval < 0 || h.Timeout < 0 || h.Unhealthy < 0 || h.Healthy < 0 {
			return errors.New("health check: a negative value")
		}
		orDefault := func(d, def time.Duration) time.Duration {
			if d == 0 {
				return def
			}
			return d
		}
		o.health = true
		o.watchEvery, o.watchTime = orDefault(h.Interval, time.Second), orDefault(h.Timeout, time.Second)
		o.fall, o.rise = max(h.Unhealthy, 1), max(h.Healthy, 1)
		if h.Unhealthy == 0 {
			o.fall = 2
		}
		switch {
		case h.Check != nil:
			o.question = h.Check
		case h.Path != "":
			if !strings.HasPrefix(h.Path, "/") {
				return fmt.Errorf("health check path %q: does not begin with a slash", h.Path)
			}
			asked, err := url.Parse(h.Path)
			if err != nil || asked.Host != "" {
				return fmt.Errorf("health check path %q: is no path", h.Path)
			}
			o.question = func(ctx context.Context, node *url.URL) error { return get(ctx, o.transport, node, asked) }
		}
		return nil
	}
}

// get passes with a status of 2xx. A check has a connection of its own, so that one that is kept does not hide a node that takes no more.
func get(ctx context.Context, rt http.RoundTripper, node, asked *url.URL) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, node.String(), http.NoBody)
	if err != nil {
		return err
	}
	point(req, asked, node)
	req.Close = true
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, 64<<10); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}
