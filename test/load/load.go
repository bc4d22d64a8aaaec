package load

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Defaults of Options and Group.
const (
	DefaultTimeout = 10 * time.Second
	DefaultMethod  = http.MethodGet
)

// pause follows a failure, so that a balancer that is down costs hundreds of failures a second and not a core.
const pause = 10 * time.Millisecond

// Group is a number of workers of one kind. Each sends one request after the other.
type Group struct {
	Name      string        // names the group in failures; "fresh" or "keep-alive" when empty
	KeepAlive bool          // one connection for many requests, else one for each ("Connection: close")
	Workers   int           // at least 1
	Think     time.Duration // between an answer and the next request; after the first one, which is sent at once, workers spread over this time
	Method    string        // DefaultMethod when empty
	Apart     bool          // each worker comes from an address of its own in 127.0.1.0/24, for a balancer on loopback that keeps clients apart
	Body      string        // sent with its Content-Length where it is not empty
}

// Options say whom to load and how.
type Options struct {
	Address string        // host:port to connect to
	Host    string        // Host header; Address when empty
	Paths   []string      // request targets, taken in turn, each worker from another one on; "/" when empty
	Groups  []Group       // at least one
	Timeout time.Duration // for a whole request, dialling included; DefaultTimeout when 0
	Ready   func()        // called once, when each worker has seen its first answer or failure; may be nil
}

// Run loads until ctx ends. Requests under way then are finished within Timeout and counted like all others. The error is about
// the options only: what the other side does stands in Result.
func Run(ctx context.Context, o Options) (Result, error) {
	o, err := o.complete()
	if err != nil {
		return Result{}, fmt.Errorf("load options: %w", err)
	}
	var workers []*worker
	for _, g := range o.Groups {
		for i := range g.Workers {
			workers = append(workers, newWorker(o, g, i, len(workers)))
		}
	}

	started := time.Now()
	var done, first sync.WaitGroup
	for _, w := range workers {
		first.Add(1)
		w.first = sync.OnceFunc(first.Done)
		done.Go(func() {
			defer w.first() // also when ctx ends before the first request
			w.run(ctx)
		})
	}
	if o.Ready != nil {
		done.Go(func() {
			first.Wait()
			o.Ready()
		})
	}
	done.Wait()
	return collect(workers, time.Since(started)), nil
}

func (o Options) complete() (Options, error) {
	if o.Address == "" {
		return o, errors.New("no address")
	}
	if len(o.Groups) == 0 {
		return o, errors.New("no groups")
	}
	if o.Host == "" {
		o.Host = o.Address
	}
	if len(o.Paths) == 0 {
		o.Paths = []string{"/"}
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	groups := make([]Group, len(o.Groups))
	for i, g := range o.Groups {
		if g.Workers < 1 {
			return o, fmt.Errorf("group %d: %d workers", i, g.Workers)
		}
		if g.Method == "" {
			g.Method = DefaultMethod
		}
		if g.Name == "" {
			g.Name = "fresh"
			if g.KeepAlive {
				g.Name = "keep-alive"
			}
		}
		groups[i] = g
	}
	o.Groups = groups
	return o, nil
}
