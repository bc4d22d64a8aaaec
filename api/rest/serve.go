package rest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"
)

// Limits of one listener. Every call's answer is ready in milliseconds, so only a client that is slow on purpose meets them.
const (
	readTime  = 10 * time.Second // for the headers, and for headers and body together
	writeTime = 30 * time.Second // from the end of the headers to the end of the answer
	idleTime  = 10 * time.Second // between two requests of a connection
	stopTime  = 2 * time.Second  // for requests that run when ctx ends
	maxHeader = 16 << 10         // bytes
	maxConns  = 1000
)

// Serve answers what l accepts by h, until ctx ends or l fails; then it closes l, gives running requests two seconds, and
// returns when the last connection is closed. The end of ctx is no error. When there are too many connections, the one that
// has waited longest for its client goes, taken from the client that has most of them (see package crowd).
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	c := newGuests(connections())
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer c.begin(r.Context())()
			h.ServeHTTP(w, r)
		}),
		// "OPTIONS *" is a path like any other, and unknown.
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            readTime,
		ReadTimeout:                  readTime,
		WriteTimeout:                 writeTime,
		IdleTimeout:                  idleTime,
		MaxHeaderBytes:               maxHeader,
		ConnContext:                  c.enter,
		ConnState:                    c.observe,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	var failure error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		failure = srv.Serve(l)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	err := stop(srv, c)
	<-ended
	c.alive.Wait() // no connection comes any more, so the count only falls
	if !errors.Is(failure, http.ErrServerClosed) {
		err = errors.Join(fmt.Errorf("serve management on %s: %w", l.Addr(), failure), err)
	}
	return err
}

// stop closes the listener and all connections, those with a running request last.
func stop(srv *http.Server, c *guests) error {
	c.close()
	limit, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	err := srv.Shutdown(limit)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	if errors.Is(err, net.ErrClosed) {
		return nil // a listener that failed, or that its owner closed
	}
	return err
}

// connections is how many connections a listener may have: a part of the open files that this process may have, so that
// clients cannot take those that the rest of the program needs.
func connections() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return maxConns / 8
	}
	return int(max(16, min(maxConns, limit.Cur/8)))
}
