package api

import (
	"context"

	"github.com/fnlb/fnlb/model"
)

// Nodes is what PUT, DELETE and GET /1/lb/nodes act on. Errors are model.Problem; its Kind becomes the HTTP status.
type Nodes interface {
	// Set adds a node HOST:PORT with what is wished for, or gives one that is there what is wished for, and returns once it is stored.
	Set(ctx context.Context, n string, w model.NodeWish) error
	// Delete removes a node; removing an unknown one is a success.
	Delete(ctx context.Context, n string) error
	// List gives the nodes, sorted.
	List() []model.NodeRow
}

// Pools is what the gRPC service acts on. Errors are model.Problem; its Kind becomes the status code.
type Pools interface {
	// AddPool adds an empty pool, and returns once it is stored.
	AddPool(ctx context.Context, p model.Pool) error
	// RemovePool removes a pool and its members; removing an unknown one is a success.
	RemovePool(ctx context.Context, pattern string) error
	// AddMember adds a backend to a pool, and returns once it has passed the pool's checks and is stored.
	AddMember(ctx context.Context, pattern string, m model.Member) error
	// RemoveMember removes a backend; removing an unknown one is a success, and NotFound says that there is no such pool.
	RemoveMember(ctx context.Context, pattern string, m model.Member) error
	// Pool gives one pool; NotFound says that there is none.
	Pool(pattern string) (model.PoolRow, error)
}

// Brake stops applies and goes back. Each call returns when it is done, with what was done in words; errors are model.Problem.
type Brake interface {
	// Freeze stops all applies; an empty reason is allowed.
	Freeze(ctx context.Context, reason string) (string, error)
	// Thaw ends the freeze; without one it is a success.
	Thaw(ctx context.Context) (string, error)
	// Rollback goes back to the last good configuration and freezes it.
	Rollback(ctx context.Context) (string, error)
}

// Traffic counts what HAProxy did.
type Traffic interface {
	// Requests gives how many requests HAProxy's worker has sent to each server since the worker began. It asks HAProxy when it has not
	// done so lately, within bounds; nil: it is not known now.
	Requests(ctx context.Context) map[model.ServedAt]uint64
}

// Reporter tells what the balancer does. Its calls do not block; what they return is changed by nobody.
type Reporter interface {
	Status() model.Status
	// Changes gives the last 200 applies, oldest first.
	Changes() []model.Apply
	// Config gives HAProxy's configuration in force, secrets masked; nil before there is one.
	Config() []byte
	// Explain says what becomes of a GET of a URL; errors are model.Problem.
	Explain(url string) (model.Explanation, error)
	// Counters gives what has been counted since the start.
	Counters() Counters
}

// Counters only grow. They stand beside Status because Changes forgets.
type Counters struct {
	Applies map[ApplyKey]uint64
	// Seconds is how long the applies took, of every method and result.
	Seconds Histogram
	// Reloads counts reloads by the sort of reason. The keys must come from a closed list: each is a time series, so none may
	// have a name of an outsider in it.
	Reloads map[string]uint64
}

// ApplyKey sorts applies: Result is "ok" or "error".
type ApplyKey struct {
	Method model.Method
	Result string
}

// Histogram is a cumulative one, as Prometheus has it: Buckets[b] counts the observations that are at most b.
type Histogram struct {
	Count   uint64
	Sum     float64
	Buckets map[float64]uint64
}
