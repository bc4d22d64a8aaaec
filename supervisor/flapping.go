package supervisor

import "time"

// What is told of one thing that changes again and again: its first flapMost changes of a minute, then that it flaps, then once a
// minute how often, and in the end that it is calm: it has not changed for a minute.
const (
	flapMost   = 5
	flapWindow = time.Minute
)

// verdict is what is to be told.
type verdict uint8

const (
	silence  verdict = iota // nothing
	each                    // this change
	begins                  // that it flaps
	goesOn                  // how often it changed in the last minute
	calmDown                // that it does no more
)

// flaps bounds what is told of one thing. The zero value has seen no change.
type flaps struct {
	window   time.Time // when the first of count changes came
	count    int
	flapping bool
	last     time.Time // the newest change
	told     time.Time // when something was told last while it flaps
	untold   int       // changes since then
}

// change notes a change.
func (f *flaps) change(now time.Time) verdict {
	f.last = now
	if f.flapping {
		f.untold++
		return silence
	}
	if f.count == 0 || now.Sub(f.window) >= flapWindow {
		f.window, f.count = now, 0
	}
	if f.count++; f.count <= flapMost {
		return each
	}
	f.flapping, f.told, f.untold = true, now, 0
	return begins
}

// look is to be called from time to time; changes is the number for goesOn.
func (f *flaps) look(now time.Time) (v verdict, changes int) {
	switch {
	case !f.flapping:
	case now.Sub(f.last) >= flapWindow:
		*f = flaps{}
		return calmDown, 0
	case now.Sub(f.told) >= flapWindow:
		changes, f.told, f.untold = f.untold, now, 0
		return goesOn, changes
	}
	return silence, 0
}
