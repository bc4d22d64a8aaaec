package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/model"
)

const (
	firstPause = 50 * time.Millisecond // before an engine that went is tried again, doubled from then on
	maxPause   = time.Second
	inspectors = 8                     // inspections at a time
	survival   = time.Minute           // a container that was told to stop and runs on for so long takes requests again
	remembered = time.Minute           // how long a stop is told, because Snapshots supersede each other
	minPut     = 5 * time.Millisecond  // what changes within this time is one Snapshot, but that something leaves is said at once
	putShare   = 10                    // making Snapshots takes at most this part of the time
	leastSync  = 50 * time.Millisecond // between two lists
)

// Options are what a Source needs. All are required but Host and Earlier.
type Options struct {
	Host         string      // engine, as in DOCKER_HOST; empty: what the environment says
	Check        model.Check // times of the health checks
	Resync       time.Duration
	Publish      func(port uint16) bool // which ports of the balancer labels may ask for
	Certificates Certificates
	// TrustedProxies are those of the ports that labels publish.
	TrustedProxies []netip.Prefix
	Earlier        *model.Snapshot // what an earlier process had, for an engine that is away when we go on with its HAProxy
	Now            func() time.Time
	Log            *slog.Logger
}

// Source follows one engine.
type Source struct {
	o       Options
	connect func(ctx context.Context, host string) (api, error)
	self    func() string

	// Of Run's goroutine alone, and kept over the sessions:
	containers map[string]*tracked // those with labels of ours, the balancer, and those whose network somebody shares; by id
	networks   map[string]networkKind
	at         standpoint
	ports      map[model.Bind]*kept
	gone       map[string]goneBy // containers that were stopped lately, by name
	last       int64             // when the newest event was, by the engine's clock
	put        model.Snapshot
	putOnce    bool
	skipped    map[string]string // what was last told of a container that was left out, by name
}

// api is what is asked of an engine.
type api interface {
	list(ctx context.Context) (map[string]line, error)
	inspect(ctx context.Context, id string) (facts, error)
	networks(ctx context.Context) (map[string]networkKind, error)
	follow(ctx context.Context, since string) (<-chan events.Message, <-chan error)
	close() error
}

// tracked is a container that is followed.
type tracked struct {
	facts

	agreed  line   // what a list said that agrees with the facts; empty: none has been held against them
	seq     uint64 // counts its events: an answer that was asked for before one is asked for again
	leaving string // how it was told to stop; empty: it was not
	left    time.Time
	missed  time.Time // when a list said other than we knew, and no event has since; zero: it agrees
	trouble string    // why the engine does not tell what it is, though it lists it; what was known before still holds
}

// goneBy is why a container is not there any more.
type goneBy struct {
	at time.Time
	by string
}

var _ discovery.Source = (*Source)(nil)

// New makes a Source; it asks nothing yet.
func New(o Options) *Source {
	o.Resync = max(o.Resync, leastSync)
	s := &Source{
		o: o, self: ownID, containers: map[string]*tracked{}, ports: map[model.Bind]*kept{}, gone: map[string]goneBy{}, skipped: map[string]string{},
		connect: func(ctx context.Context, host string) (api, error) { return connect(ctx, host) },
	}
	s.recallPorts()
	return s
}

// Name is "docker".
func (s *Source) Name() string { return name }

// Run follows the engine until ctx ends, and starts again whenever it goes away.
func (s *Source) Run(ctx context.Context, to discovery.Sink) error {
	pause := firstPause
	for {
		began := s.o.Now()
		err := s.session(ctx, to)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errMissed) {
			s.o.Log.Warn("the engine's events did not tell of a change, they are asked for anew", "source", name)
			pause = firstPause
		} else {
			if !s.putOnce && s.o.Earlier != nil {
				s.put, s.putOnce = *s.o.Earlier, true
				to.Put(s.put)
			}
			to.Down(explained(err))
		}
		if s.o.Now().Sub(began) > maxPause {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// errMissed ends a session whose stream of events is silent although something happens.
var errMissed = errors.New("events were missed")

// explained says what to do where the engine's socket may not be opened.
func explained(err error) error {
	if strings.Contains(err.Error(), "permission denied") {
		return fmt.Errorf("%w; give the balancer the group of the socket (docker run --group-add), or start it as root", err)
	}
	return err
}

// snapshot says the whole of what is known.
func (s *Source) snapshot() model.Snapshot {
	out := model.Snapshot{Source: name}
	var take []*candidate
	var found []*model.Found
	for _, id := range sortedKeys(s.containers) {
		c, f := s.judge(s.containers[id])
		if f != nil {
			found = append(found, f)
		}
		if c == nil {
			if f != nil && f.Verdict == model.LeftOut {
				out.Problems = append(out.Problems, model.Problem{Kind: model.Invalid, Owner: f.Owner, Reason: f.Reason, Mend: f.Mend})
			}
			continue
		}
		if c.stale != nil {
			p := *c.stale
			p.Owner = f.Owner
			out.Problems = append(out.Problems, p)
		}
		take = append(take, c)
	}
	out.Offers = s.offers(take)
	for _, f := range found {
		out.Found = append(out.Found, *f)
	}
	offered := map[string]bool{}
	for i := range out.Offers {
		offered[out.Offers[i].Owner.Name] = true
	}
	for _, owner := range sortedKeys(s.gone) {
		if !offered[owner] {
			out.Asked = append(out.Asked, model.Asked{Owner: model.Owner{Source: name, Name: owner}, By: s.gone[owner].by})
		}
	}
	slices.SortStableFunc(out.Found, func(a, b model.Found) int { return strings.Compare(a.Owner.Name, b.Owner.Name) })
	slices.SortStableFunc(out.Problems, func(a, b model.Problem) int { return strings.Compare(a.Owner.Name, b.Owner.Name) })
	return out
}
