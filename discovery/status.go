package discovery

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/fnlb/fnlb/model"
)

// Status is what a Collector knows at one moment. It shares its lists with nobody who changes them.
type Status struct {
	Wanted   uint64               // revision of State; 0 before the first
	Sources  []model.SourceStatus // sorted by name
	Problems []model.Problem      // of the sources and of the merge, sorted by owner
	Found    []model.Found        // what the sources made of what they looked at, by source and name
	State    model.State          // the newest sent
}

// Status may be called at any time, by any goroutine.
func (c *Collector) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	sources := make([]model.SourceStatus, len(c.slots))
	for i := range c.slots {
		s := &c.slots[i]
		sources[i] = model.SourceStatus{Name: s.source.Name(), Up: s.up, Reason: s.reason}
		if s.doubt != nil {
			sources[i].Doubts = len(s.doubt.services)
		}
	}
	slices.SortStableFunc(sources, func(a, b model.SourceStatus) int { return strings.Compare(a.Name, b.Name) })
	return Status{Wanted: c.sent.Revision, Sources: sources, Problems: c.problems, Found: c.found, State: c.sent}
}

// Conflict says what stands in the way of an offer that nobody has made yet: the problem that it would have; nil: nothing, as far as is
// known. An offer of the same owner is taken as replaced.
func (c *Collector) Conflict(o model.Offer) error {
	c.mu.Lock()
	sent := c.sent
	c.mu.Unlock()
	if sent.Revision == 0 {
		return nil
	}
	offers := slices.DeleteFunc(slices.Clone(sent.Offers), func(other model.Offer) bool { return other.Owner == o.Owner })
	_, problems := model.Merge(append(offers, o))
	for _, p := range problems {
		if p.Owner == o.Owner {
			return p
		}
	}
	return nil
}

// Changed gives a channel that is closed when Status changes next. A reader takes it before it calls Status, so that it
// misses nothing; any number of readers may wait.
func (c *Collector) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// signal wakes those who wait for a change; c.mu is held.
func (c *Collector) signal() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// sink is the Sink of one source.
type sink struct {
	c *Collector
	i int
}

func (k sink) Put(s model.Snapshot) {
	now := time.Now()
	c := k.c
	c.mu.Lock()
	slot := &c.slots[k.i]
	slot.newest, slot.fresh, slot.unmerged, slot.heard = s, true, true, true
	slot.puts++
	if c.since.IsZero() {
		c.since = now
	}
	c.last = now
	c.mu.Unlock()
	k.Down(away(s))
	select {
	case c.wake <- struct{}{}:
	default: // a wake-up is on its way already
	}
}

// away is why a source that has something to say counts as down nevertheless.
func away(s model.Snapshot) error {
	if s.Away == "" {
		return nil
	}
	return errors.New(s.Away)
}

func (k sink) Down(err error) {
	up, reason := err == nil, ""
	if err != nil {
		reason = err.Error()
	}
	c := k.c
	c.mu.Lock()
	slot := &c.slots[k.i]
	if slot.up != up || slot.reason != reason {
		slot.up, slot.reason = up, reason
		c.signal()
	}
	tell := slot.told == up // told that it is down and it is up, or the other way round
	slot.told = !up
	c.mu.Unlock()
	switch {
	case !tell:
	case up:
		c.o.Log.Info("source is up again", "source", slot.source.Name())
	default:
		c.o.Log.Warn("source is down; its last truth stays", "source", slot.source.Name(), "error", err)
	}
}
