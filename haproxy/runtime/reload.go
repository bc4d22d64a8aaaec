package runtime

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	firstPause = 5 * time.Millisecond // between attempts, doubled up to the last
	lastPause  = 100 * time.Millisecond
	firstLimit = 50 * time.Millisecond // of one attempt, doubled up to callLimit each time it is reached
)

// attempts spaces out attempts and bounds each. The first limit is short, because 3.2 never answers a command that reaches a
// worker in the moment when it gets ready, but does answer the next one.
type attempts struct {
	pause, limit time.Duration
	began        time.Time
}

// next is the context of one attempt.
func (a *attempts) next(ctx context.Context) (context.Context, context.CancelFunc) {
	a.limit = max(a.limit, firstLimit)
	a.began = time.Now()
	return context.WithTimeout(ctx, a.limit)
}

// wait is the pause after one; it ends with ctx's error when that ends first.
func (a *attempts) wait(ctx context.Context) error {
	if time.Since(a.began) >= a.limit {
		a.limit = min(2*a.limit, callLimit)
	}
	a.pause = min(max(2*a.pause, firstPause), lastPause)
	timer := time.NewTimer(a.pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// seen is what attempts have found so far, for the error when time is up.
type seen struct {
	found  error // what HAProxy said last
	failed error // why it could not be asked since then
}

func (s *seen) find(format string, args ...any) { *s = seen{found: fmt.Errorf(format, args...)} }

func (s *seen) err() error {
	switch {
	case s.found == nil:
		return s.failed
	case s.failed == nil:
		return s.found
	}
	return fmt.Errorf("%w, then %w", s.found, s.failed)
}

// Loaded waits until the worker that takes new connections says that it has loaded the revision. The socket may not be there yet, or
// refuse for a while (2.6 re-executes itself); only ctx ends the waiting, and then the error says what was seen last.
func (c *Client) Loaded(ctx context.Context, revision string) (master, worker int, err error) {
	var try attempts
	var last seen
	for {
		p, worker, got, err := c.serving(ctx, &try)
		switch {
		case err == nil && got == revision:
			return p.Master.PID, worker, nil
		case err == nil:
			last.find("worker %d has loaded %q", worker, got)
		default:
			last.failed = err
		}
		if err := try.wait(ctx); err != nil {
			return 0, 0, fmt.Errorf("wait for revision %s: %w, last seen: %w", revision, err, last.err())
		}
	}
}

// Serving waits for an answer to who takes new connections and which revision that worker says it has loaded ("" when it says none);
// only the end of ctx ends the waiting. With an error, what is known of the processes comes with it.
func (c *Client) Serving(ctx context.Context) (p Processes, worker int, revision string, err error) {
	var try attempts
	for {
		now, worker, revision, err := c.serving(ctx, &try)
		if now.Master.PID != 0 {
			p = now
		}
		if err == nil {
			return p, worker, revision, nil
		}
		if errWait := try.wait(ctx); errWait != nil {
			return p, 0, "", fmt.Errorf("%w, last seen: %w", errWait, err)
		}
	}
}

// ReloadError says that HAProxy refused to load its configuration; what was serving goes on.
type ReloadError struct {
	Output string // HAProxy's words; "" on 2.6, which says them only in its own log
}

func (e *ReloadError) Error() string {
	if e.Output == "" {
		return "reload refused; HAProxy's log says why"
	}
	if strings.Contains(e.Output, "Cannot raise FD limit") { // it takes more than a start did
		return "reload refused: " + e.Output + "; raise the limit on open files (ulimit -n, docker run --ulimit nofile=, LimitNOFILE=)"
	}
	return "reload refused: " + e.Output
}

// Reload makes the master read its files again, and returns the new worker when that says it has loaded the revision. A
// *ReloadError says that HAProxy refused. Nothing is concluded from silence: any other error, that of ctx among them, leaves
// open what has happened. It takes as long as HAProxy loads (3 s or more when a port is taken), so ctx has to have an end.
func (c *Client) Reload(ctx context.Context, revision string) (worker int, err error) {
	before, err := c.before(ctx)
	if err != nil {
		return 0, fmt.Errorf("reload revision %s: %w", revision, err)
	}
	known := map[int]bool{}
	for _, p := range slices.Concat(before.Workers, before.Old) {
		known[p.PID] = true
	}
	var try attempts
	var last seen
	for sent := false; ; {
		if !sent {
			if err := c.sendReload(ctx); err != nil {
				return 0, fmt.Errorf("reload revision %s: %w", revision, err)
			}
			sent = true
		}
		p, worker, got, err := c.serving(ctx, &try)
		switch {
		case p.Failed > before.Failed:
			return 0, fmt.Errorf("reload revision %s: %w", revision, &ReloadError{})
		case err != nil:
			last.failed = err
		case p.Reloads == before.Reloads: // the request was lost with a re-execution that was under way
			last.find("master %d has not begun to reload", p.Master.PID)
			sent = false
		case known[worker]:
			last.find("worker %d of before is still the current one", worker)
		case got != revision:
			last.find("new worker %d has loaded %q", worker, got)
		default:
			return worker, nil
		}
		if err := try.wait(ctx); err != nil {
			return 0, fmt.Errorf("reload revision %s: not confirmed: %w, last seen: %w", revision, err, last.err())
		}
	}
}

// before asks for the processes until there is an answer or ctx ends.
func (c *Client) before(ctx context.Context) (Processes, error) {
	var try attempts
	for {
		attempt, cancel := try.next(ctx)
		p, err := c.Processes(attempt)
		cancel()
		if err == nil {
			return p, nil
		}
		if errWait := try.wait(ctx); errWait != nil {
			return p, fmt.Errorf("%w, last seen: %w", errWait, err)
		}
	}
}

// sendReload sends the command. 3.0 and newer answer "Success=0|1", a line of dashes and their messages when they have loaded; 2.6
// closes the connection at once, so that an empty or broken reply says nothing. Only a refusal is an error.
func (c *Client) sendReload(ctx context.Context) error {
	text, err := c.master(ctx, reload)
	if err != nil {
		return nil //nolint:nilerr // as with an empty reply, the processes will tell
	}
	if rest, refused := strings.CutPrefix(text, "Success=0\n"); refused {
		return &ReloadError{Output: strings.TrimSpace(strings.TrimPrefix(rest, "--\n"))}
	}
	return nil
}
