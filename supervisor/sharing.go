package supervisor

import (
	"slices"
	"strings"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
)

// The ports are looked at this often for another process that has begun to share them. Where the kernel cannot tell the listening
// sockets alone, a look reads all connections, so with many of them it becomes rarer: a twentieth of the time at the most.
const (
	sharingEvery = 5 * time.Second
	sharingMost  = 20 * time.Second
	sharingShare = 20
)

// sharing is what a look at the ports gave.
type sharing struct {
	tried, looked bool
	found         []string // "ADDRESS: PROCESS"
	took          time.Duration
}

// lookAtPorts looks for strangers on the addresses in force. That it cannot is no fault: it is tried again.
func (s *Supervisor) lookAtPorts(inForce []conf.Bind, pids []int) sharing {
	begin := time.Now()
	found, err := s.o.Sharing(inForce, pids)
	if err != nil {
		s.o.Log.Debug("who shares our ports is not known", "error", err)
	}
	return sharing{tried: true, looked: err == nil, found: found, took: time.Since(begin)}
}

// sawSharing tells what is new about the ports.
func (l *loop) sawSharing(now time.Time, v sharing) {
	l.sharingAt = now.Add(min(max(sharingEvery, sharingShare*v.took), sharingMost))
	if !v.looked || slices.Equal(v.found, l.shared) {
		return
	}
	if len(v.found) > 0 {
		l.s.o.Log.Error("another process listens on a port of ours, and the kernel gives it a part of the clients; end it", "who", strings.Join(v.found, ", "))
	} else {
		l.s.o.Log.Info("nobody else listens on our ports any more")
	}
	l.shared, l.changed = v.found, true
}
