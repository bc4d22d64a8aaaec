package docker

import (
	"fmt"
	"maps"
	"time"
)

// list asks for all containers, beside the loop.
func (n *session) list() {
	n.listing = true
	seqs := make(map[string]uint64, len(n.containers))
	for id, c := range n.containers {
		seqs[id] = c.seq
	}
	failed := maps.Clone(n.failed)
	n.task(func() func() error {
		lines, err := n.e.list(n.ctx)
		return func() error {
			if err != nil {
				return fmt.Errorf("containers of the engine: %w", err)
			}
			n.listing, n.listAgain = false, time.Now().Add(n.o.Resync)
			n.blame(failed, lines)
			n.compare(lines, seqs)
			return nil
		}
	})
}

// blame finds the engine well, so that what could not be inspected before it listed its containers is their fault. They are asked for
// again with each list.
func (n *session) blame(failed map[string]error, lines map[string]line) {
	for _, id := range sortedKeys(failed) {
		delete(n.failed, id)
		l, there := lines[id]
		if !there {
			continue
		}
		c := n.containers[id]
		if c == nil {
			c = &tracked{facts: facts{id: id, name: l.name}}
			n.containers[id] = c
		}
		if c.trouble == "" {
			n.o.Log.Warn("the engine does not tell what a container is", "container", c.name, "err", failed[id])
		}
		c.trouble = fmt.Sprintf("the engine does not tell what it is (%v)", failed[id])
	}
	if len(n.failed) > 0 {
		n.listAgain = time.Now()
	}
	for id, c := range n.containers {
		if _, now := failed[id]; c.trouble != "" && !now && !n.asking[id] {
			n.dirty[id] = true
		}
	}
}

// compare holds a list against what is known. What has had an event since it was asked for is newer than the list.
func (n *session) compare(lines map[string]line, seqs map[string]uint64) {
	now, read := n.o.Now(), time.Now()
	for id, l := range lines {
		c := n.containers[id]
		if c == nil {
			if l.ours {
				n.dirty[id] = true
			}
			continue
		}
		if c.seq == seqs[id] && c.trouble == "" && c.differs(l) && !n.asking[id] && !n.dirty[id] {
			n.dirty[id] = true
			n.suspect(c, read)
		}
	}
	for id, c := range n.containers {
		if seq, known := seqs[id]; known && c.seq == seq {
			if _, there := lines[id]; !there {
				n.forget(id)
			}
		}
		if c.leaving != "" && c.state == "running" && now.Sub(c.left) > survival {
			n.o.Log.Warn("a container was told to stop and runs on, it takes requests again", "container", c.name, "told", c.leaving)
			c.leaving = ""
			n.changed = true
		}
	}
	for owner, g := range n.gone {
		if now.Sub(g.at) > remembered {
			delete(n.gone, owner)
			n.changed = true
		}
	}
	n.changed = n.changed || !n.listed || n.portEnds() || n.o.Certificates.Changed()
	n.listed = true
}

// differs reports whether the engine's list says other than we know.
func (c *tracked) differs(l line) bool {
	if c.agreed == l && l != (line{}) {
		return false
	}
	if c.name != l.name || c.state != l.state || l.state == "running" && (c.health != l.health || addrs(c.networks) != l.addrs) {
		return true
	}
	c.agreed = l
	return false
}

// suspect notes that the list told something first that an event should have told.
func (n *session) suspect(c *tracked, now time.Time) {
	if n.listed && c.missed.IsZero() {
		c.missed = now
	}
}

// doubted ends the session when an event is still missing at the next list.
func (n *session) doubted(now time.Time) error {
	missed := false
	for _, c := range n.containers {
		if !c.missed.IsZero() && now.Sub(c.missed) >= n.o.Resync/2 {
			missed, c.missed = true, time.Time{}
		}
	}
	if missed {
		return errMissed
	}
	return nil
}
