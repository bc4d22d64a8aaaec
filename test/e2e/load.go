package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/test/load"
)

// Clients are the groups of clients that the tests load a balancer with: fresh and kept-alive connections, some that think for so long
// between two requests, and requests that may not be sent again.
func Clients(think time.Duration) []load.Group {
	return []load.Group{
		{Name: "fresh", Workers: 4, Think: 10 * time.Millisecond},
		{Name: "keep-alive", KeepAlive: true, Workers: 4, Think: 5 * time.Millisecond},
		{Name: "thinking", KeepAlive: true, Workers: 8, Think: think},
		{Name: "post", KeepAlive: true, Workers: 2, Think: 10 * time.Millisecond, Method: "POST", Body: "x"},
	}
}

// Load sends requests to addr, over many paths, until stop is called. It returns when each client has had its first answer, or its first
// failure.
func Load(t *testing.T, addr string, clients []load.Group) (stop func() load.Result) {
	t.Helper()
	return LoadPaths(t, addr, Paths(50), clients)
}

// LoadPaths is Load with other paths.
func LoadPaths(t *testing.T, addr string, paths []string, clients []load.Group) (stop func() load.Result) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan struct{})
	var result load.Result
	var err error
	var wg sync.WaitGroup
	wg.Go(func() {
		result, err = load.Run(ctx, load.Options{
			Address: addr, Paths: paths, Timeout: Patience, Groups: clients, Ready: func() { close(ready) },
		})
	})
	select {
	case <-ready:
	case <-time.After(2 * Patience):
		t.Error("the load does not begin")
	}
	return func() load.Result {
		t.Helper()
		cancel()
		wg.Wait()
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
}

// Paths are n paths, which the ring spreads over the nodes.
func Paths(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("/r/app/f%d", i))
	}
	return out
}
