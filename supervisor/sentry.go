package supervisor

import (
	"os"
	"time"
)

// glanceEvery is the time between two glances at what lies on disk and at HAProxy's processes. One costs an lstat for each file.
const glanceEvery = time.Second

// undisturbed is what is found as long as nobody touches it. It is never changed.
type undisturbed struct {
	stamps         map[string]stamp
	frozen         string // file that must be there; "" none
	worker, master int
}

// glance looks each second whether all is as it was left, in a goroutine of its own that tells the owner nothing else: to look in a
// task, with all that is around it, took most of the time that we needed while nothing happened.
func (l *loop) glance() {
	l.tasks.Go(func() {
		tick := time.NewTicker(glanceEvery)
		defer tick.Stop()
		for {
			select {
			case <-l.ctx.Done():
				return
			case <-tick.C:
			}
			if u := l.undisturbed.Load(); u == nil || !l.s.disturbed(u) {
				continue
			}
			select {
			case l.alarm <- struct{}{}:
			default: // it will look in any case
			}
		}
	})
}

// disturbed reports whether something is not as it was left. What that is is found by whoever looks into it.
func (s *Supervisor) disturbed(u *undisturbed) bool {
	for path, was := range u.stamps {
		if now, err := stampOf(path); err != nil || now != was {
			return true
		}
	}
	if u.frozen != "" {
		if _, err := os.Lstat(u.frozen); err != nil {
			return true
		}
	}
	return s.o.Gone() != "" || s.stoppedOf(u.worker, u.master) != 0
}
