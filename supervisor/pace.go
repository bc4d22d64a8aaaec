package supervisor

import "time"

// The time between two observations follows their cost: 1/20 of the time at most, within these bounds, while something goes on; and far
// less of it while nothing does and HAProxy's log would tell.
const (
	observeLeast = 250 * time.Millisecond
	observeMost  = 5 * time.Second
	observeShare = 20

	restLeast = 4 * time.Second
	restShare = 2000

	lineSettles = 5 * time.Millisecond // between a line and the look for what it is about: there may be more, and the state follows the line
	lineStirs   = time.Second          // after a line, or a change, more may follow
	actStirs    = 5 * time.Second      // after something that we did
	deafFor     = 10 * time.Minute     // after a change that no line has told, lines are not relied upon
)

// pace says when HAProxy is looked at. With each change of a server's state HAProxy writes a line into its log (ADR 12), so that it is
// looked at for changes when there are lines, and slowly otherwise: for what no line tells, such as a weight of 0, and for silence.
type pace struct {
	listens bool // lines are told; else its log is somebody else's

	took    time.Duration // by a look, lately
	began   time.Time     // the last look
	line    time.Time     // the last line
	stirred time.Time     // until then something goes on
	doubt   bool          // a change was seen that no line has told yet
	deaf    time.Time     // until then lines are not relied upon
}

// brisk is the time between the beginnings of two looks while something goes on.
func (p *pace) brisk() time.Duration {
	return min(max(observeShare*p.took, observeLeast), observeMost)
}

// rest is the time until the next look when nothing does.
func (p *pace) rest() time.Duration {
	return min(max(restShare*p.took, p.brisk(), restLeast), observeMost)
}

// stir notes that something goes on for so long, whatever lines say.
func (p *pace) stir(now time.Time, long time.Duration) {
	p.stirred = latest(p.stirred, now.Add(long))
}

// hear notes a line, and says when to look for what it is about.
func (p *pace) hear(now time.Time) time.Time {
	p.line, p.doubt = now, false
	p.stir(now, lineStirs)
	return latest(now.Add(lineSettles), p.began.Add(p.brisk()))
}

// begin notes that a look begins.
func (p *pace) begin(now time.Time) {
	p.began = now
	if p.doubt { // no line has come meanwhile
		p.doubt, p.deaf = false, now.Add(deafFor)
	}
}

// end notes that a look has ended, what it took, and whether it found a change; it says when to look next.
func (p *pace) end(now time.Time, took time.Duration, news bool) time.Time {
	if p.took > 0 { // one slow answer of a busy host must not blind us for seconds; a slow HAProxy is slow again
		took = min(took, 2*p.took)
	}
	p.took = max(took, time.Millisecond)
	if news && p.listens {
		switch {
		case now.Sub(p.line) <= lineStirs+took:
			p.deaf = time.Time{}
		case !now.Before(p.stirred): // else it is our own doing
			p.doubt = true
		}
		p.stir(now, lineStirs)
	}
	if !p.listens || now.Before(p.stirred) || now.Before(p.deaf) {
		return now.Add(p.brisk())
	}
	return now.Add(p.rest())
}
