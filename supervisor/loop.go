package supervisor

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/model"
)

// loop is the state of the owner goroutine. Nothing else touches it: tasks get copies and send back closures.
type loop struct {
	s       *Supervisor
	ctx     context.Context // ends with the loop; every task ends with it
	reports chan func()
	tasks   sync.WaitGroup

	wanted   model.State
	have     bool // a State has arrived
	members  map[model.ServerKey]*member
	named    map[model.ServerKey][]*member // of the last visible State: members behind the servers that come from names
	disputed []model.Problem               // of wanted
	probes   chan struct{}                 // one place for each probe at a time
	lookups  chan struct{}                 // and for each lookup of a name
	renderer Renderer                      // the newest; it is accepted once its text is in force

	// What is in force.
	accepted *accepted
	applied  uint64 // revision of the newest State that the text in force shows
	running  bool   // HAProxy runs
	death    error  // it died while an apply ran, whose report is awaited
	phase    model.Phase
	haproxy  model.HAProxyStatus
	identity process.Identity // of what runs

	abilities conf.Abilities // of what runs

	// The brake.
	frozen   *model.Freeze // nothing is applied; never changed
	unnoted  string        // why a restart of fnlb would forget it; "" it would not
	pinned   *accepted     // what an earlier fnlb froze, to be started first
	previous *accepted     // what a rollback goes to; nil: what lies on disk
	orders   []order       // not begun yet
	ordering bool          // a task of one runs

	// What is to be done, and when; zero means not at all.
	dirtySince, dirtyLast time.Time
	urgent                bool // a State: it was quiet already; what is admitted waits for more of its kind, where there may be
	causes                causes
	notBefore             time.Time
	retry                 backoff
	loadFailures          backoff // of reloads that HAProxy refused
	restart               backoff
	waits                 bool // what is to be done needs a reload, which is not allowed yet
	holding               bool // reloads wait for old workers
	leaving               map[serverName]leaving
	cutAt                 time.Time // when the first of them has to be gone; zero: none has
	made                  int       // changes at run time; what was observed before the last one is out of date
	reaping               bool      // a task deletes servers that left
	cancelReap            context.CancelFunc
	reaped                <-chan struct{} // closed at its end
	foreign               bool            // what HAProxy has loaded may be anything: ours has to be loaded again, changed or not
	foreignWhy            string
	revert                bool // what is wanted was refused after the worker had begun to take it: what was in force is loaded
	applying              bool
	cancelApply           context.CancelFunc // ends the apply that runs; what it had not touched stays
	save                  saving
	observing             bool
	observeAt             time.Time
	pace                  pace          // of the observations
	heard                 chan struct{} // lines in HAProxy's log
	observed              observation
	silences              int       // observations in a row without an answer
	garbled               int       // replies in a row that were damaged or cut
	silentSince           time.Time // reloads wait for an answer; zero: it answers
	halted                int       // process that somebody stopped, as seen last
	cannotContinue        bool      // it was told that this process cannot be told to go on

	// The files that HAProxy would read.
	mending     bool
	mendAt      time.Time
	mendBegan   time.Time
	undisturbed atomic.Pointer[undisturbed] // for glance
	alarm       chan struct{}               // something is not
	stamps      map[string]stamp            // of those that are right; never changed
	gone        string                      // what of the run directory was missing at the last look
	reopened    bool                        // its master was made to reload for that
	unmended    string                      // why they are not right; "" they are
	tampering   flaps

	stopAt   time.Time
	stopping bool // the stop task runs
	stopped  bool
	failure  error // why Run ends, before anything was served

	quarantined map[model.ServerKey]quarantined
	barred      map[model.Bind]*barred
	refused     *model.Problem // the newest State is not in force
	lastRefusal string         // what was told last, so that a lasting fault is told once
	ignored     ignored        // weights that the text in force does not have
	badRenderer *model.Problem // the newest template or certificate is not in force
	unreadable  bool           // it could not even be read: what an apply finds about an older one says nothing of it
	shelved     shelved        // one that could not be applied, though nothing is known against it
	advice      advice
	untried     []string
	unanswered  string
	shared      []string  // strangers on our ports
	sharingAt   time.Time // when the ports are looked at next
	served      *served   // by a HAProxy that was adopted, until the first State has come
	namesBy     time.Time // after an adoption, the first State waits until then for its names; zero: no more
	unadopted   string    // why an external HAProxy cannot be used yet, as it was told last
	left        bool      // a HAProxy that could not be adopted runs, and keeps its files

	changes   []model.Apply
	counters  Counters
	changed   bool // Status is out of date
	publishAt time.Time
}

// Run starts HAProxy with the first State and keeps it right until ctx ends; then it stops it gracefully, and at once when hard
// ends too. The error says why HAProxy could not be started in the first place; afterwards faults are told in Status and log.
func (s *Supervisor) Run(ctx, hard context.Context) error {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &loop{
		s: s, ctx: own, reports: make(chan func()),
		members: map[model.ServerKey]*member{}, quarantined: map[model.ServerKey]quarantined{}, barred: map[model.Bind]*barred{}, probes: make(chan struct{}, max(1, s.o.Probes)), lookups: make(chan struct{}, min(maxLookups, max(1, s.o.Probes/2))),
		heard: make(chan struct{}, 1), alarm: make(chan struct{}, 1), renderer: s.o.Renderer, phase: model.Starting, counters: newCounters(), changed: true, abilities: s.o.Abilities,
		haproxy: model.HAProxyStatus{Version: s.o.Abilities.Version},
	}
	defer l.tasks.Wait()
	defer cancel()
	defer l.removeFiles()
	defer l.refuseOrders()
	if err := s.o.Files.removeTorn(); err != nil {
		s.o.Log.Warn("what a killed fnlb left behind stays", "error", err)
	}
	l.resume()
	switch {
	case l.failure != nil:
	case s.o.External:
		l.left = true // it goes on with its files, whatever becomes of us
		l.startAdopt(process.Identity{})
	case s.o.Found != nil:
		l.startAdopt(*s.o.Found)
	}

	l.listen()
	l.glance()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	soft, atOnce := ctx.Done(), hard.Done()
	for !l.stopped && l.failure == nil {
		now := time.Now()
		l.schedule(now, hard)
		l.publish(now)
		if l.stopped || l.failure != nil {
			break
		}
		if s.o.Beat != nil {
			s.o.Beat()
		}
		timer.Reset(time.Until(l.next(now)))
		select {
		case <-s.wake:
			l.take(s.collect())
		case o := <-s.orders:
			l.orders = append(l.orders, o)
		case report := <-l.reports:
			report()
		case err := <-s.o.Process.Exited():
			l.died(err)
		case <-l.alarm:
			l.mendSoon()
		case <-l.heard:
			l.hear()
		case <-soft:
			soft = nil
			l.beginStop()
		case <-atOnce:
			atOnce = nil
			l.stopNow()
		case <-timer.C:
		}
	}
	l.publishAt, l.changed = time.Time{}, true
	l.publish(time.Now())
	return l.failure
}

// listen follows HAProxy's log where it can be.
func (l *loop) listen() {
	if l.s.o.Listen == nil {
		return
	}
	l.pace.listens = true
	l.tasks.Go(func() {
		l.s.o.Listen(l.ctx, func() {
			select {
			case l.heard <- struct{}{}:
			default: // it will look in any case
			}
		})
	})
}

// removeFiles deletes what must not outlive HAProxy. A HAProxy that was not adopted and still runs keeps its files.
func (l *loop) removeFiles() {
	if l.left {
		return
	}
	if err := l.s.o.Files.Remove(l.frozen != nil); err != nil {
		l.s.o.Log.Warn("not all was cleaned up", "error", err)
	}
}

// task runs work in a goroutine of its own; the closure that it returns runs in the owner's.
func (l *loop) task(work func(ctx context.Context) (report func())) {
	l.tasks.Go(func() {
		report := work(l.ctx)
		select {
		case l.reports <- report:
		case <-l.ctx.Done():
		}
	})
}

// take accepts what came from outside.
func (l *loop) take(in inbox) {
	now := time.Now()
	if in.unreadable != nil {
		l.badRenderer, l.unreadable, l.changed, l.shelved = in.unreadable, true, true, shelved{}
	}
	if in.renderer != nil {
		l.renderer, l.unreadable, l.shelved = in.renderer, false, shelved{}
		clear(l.quarantined) // with another template they may do no harm
		l.dirty(now, in.why)
	}
	if in.state != nil {
		if !l.have {
			l.causes.add(causeStart)
		}
		l.have = true
		changes := l.differences(l.wanted, *in.state)
		l.setWanted(*in.state)
		if l.running {
			l.served = nil // it was for what an adopted HAProxy served when it was found
		}
		l.dirty(now)
		l.causes = l.causes.join(changes)
		l.urgent, l.changed = true, true // the Collector has waited for quiet
	}
}

// dirty notes that the text may have to change, and why.
func (l *loop) dirty(now time.Time, why ...string) {
	l.causes.add(why...)
	if l.dirtySince.IsZero() {
		l.dirtySince = now
	}
	l.dirtyLast, l.waits = now, false
}

// died reacts to the end of HAProxy.
func (l *loop) died(err error) {
	switch {
	case l.stopping: // the stop task reports
	case l.applying:
		l.running, l.death = false, err
		l.save.stop()
		l.cancelApply() // a reload of what is gone would wait for its answer
	case l.running:
		l.running = false
		l.save.stop()
		if time.Since(l.haproxy.Started) > calm {
			l.restart.reset() // it had served: this is no start that fails
		}
		l.lost(err)
	}
}

// lost arranges that HAProxy is started again.
func (l *loop) lost(err error) {
	now := time.Now()
	if l.s.o.External {
		l.vanished(now, err)
		return
	}
	if len(l.accepted.bundle.Main) == 0 { // it was adopted, and nothing is known of its text
		l.accepted = nil
	}
	wait := l.restart.next(now, time.Minute)
	l.setPhase(model.Broken)
	l.haproxy.Restarts++
	l.counters.Restarts++
	l.dirty(now, causeDied)
	l.restart.at = now.Add(wait)
	l.s.o.Log.Error("haproxy died", "how", err, "restart_in", wait)
}

// setPhase changes the phase; once the stop has begun it stays.
func (l *loop) setPhase(p model.Phase) {
	if l.phase != model.Stopping {
		l.phase, l.changed = p, true
	}
}

// hold tells when reloads begin to wait for workers of earlier configurations, and when they go on.
func (l *loop) hold() {
	holding := l.running && l.frozen == nil && l.waits && l.haproxy.OldWorkers >= maxOldWorkers
	if holding == l.holding {
		return
	}
	l.holding, l.changed = holding, true
	if holding {
		l.s.o.Log.Warn("changes wait: too many workers of earlier configurations still have connections", "old_workers", l.haproxy.OldWorkers)
	} else {
		l.s.o.Log.Info("changes go on", "old_workers", l.haproxy.OldWorkers)
	}
}

func (l *loop) beginStop() {
	now := time.Now()
	l.setPhase(model.Stopping)
	l.stopAt = now.Add(l.s.o.StopDelay)
	limit := "none"
	if l.s.o.ShutdownTimeout > 0 {
		limit = l.s.o.ShutdownTimeout.String()
	}
	l.s.o.Log.Info("stopping", "ports_close_in", l.s.o.StopDelay, "limit", limit)
}

// stopNow reacts to the second signal: no delay, and no apply is waited for.
func (l *loop) stopNow() {
	l.setPhase(model.Stopping)
	l.stopAt = time.Now()
	if l.applying {
		l.cancelApply()
	}
}

// stop ends HAProxy; the loop ends with the report.
func (l *loop) stop(hard context.Context) {
	l.stopping = true
	l.save.stop()
	o, ran := l.s.o, l.running
	l.task(func(ctx context.Context) func() {
		limit, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(hard, cancel)()
		if most := o.drainLimit(); most > 0 {
			var done context.CancelFunc
			limit, done = context.WithTimeout(limit, most)
			defer done()
		}
		begin := time.Now()
		err := o.Process.Stop(limit)
		cut := limit.Err() != nil
		return func() {
			l.stopped, l.running, l.changed = true, false, true
			log := o.Log.With("ms", time.Since(begin).Milliseconds())
			switch {
			case o.External:
				log.Info("haproxy is left running")
			case err != nil:
				log.Error("haproxy stopped by force", "error", err)
			case !ran && o.Found == nil: // nothing ran
			case cut:
				log.Warn("haproxy stopped at the limit, running requests were cut")
			case o.HardStop > 0 && time.Since(begin) >= o.HardStop:
				log.Warn("haproxy stopped at --hard-stop-after, running requests were cut")
			default:
				log.Info("haproxy stopped, every request was answered")
			}
		}
	})
}

// drainLimit bounds a drain: HAProxy itself ends at hard-stop-after, and one that hangs then is not waited for; 0 is no limit.
func (o *Options) drainLimit() time.Duration {
	switch late := o.HardStop + hardStopGrace; {
	case o.HardStop == 0, o.ShutdownTimeout > 0 && o.ShutdownTimeout < late:
		return o.ShutdownTimeout
	default:
		return late
	}
}

// hardStopGrace is how long after hard-stop-after HAProxy may take to end.
const hardStopGrace = 5 * time.Second

// applyGrace is how long a stop waits for an apply that runs: a reload that is cut short could cost requests.
const applyGrace = 5 * time.Second

// abandonGrace is how long after that a stop waits for an apply that was cancelled: what writes to a disk that hangs cannot be.
const abandonGrace = 5 * time.Second

// calm is how long HAProxy must have served for its next death to be the first again.
const calm = 5 * time.Second

// maxOldWorkers is how many workers of earlier configurations may be alive before further reloads wait: each holds memory until
// its last connection ends, and none is ever cut before hard-stop-after.
const maxOldWorkers = 8

// backoff spaces repeated attempts: the first at once, then from 100 ms doubling to 5 s.
type backoff struct {
	at    time.Time // not before
	last  time.Time
	count int
}

func (b *backoff) reset() { *b = backoff{} }

// next counts a failure and says how long to wait; failures that lie longer than calm apart start anew.
func (b *backoff) next(now time.Time, calm time.Duration) time.Duration {
	if now.Sub(b.last) > calm {
		b.count = 0
	}
	b.last = now
	b.count++
	if b.count == 1 {
		return 0
	}
	return min(100*time.Millisecond<<min(b.count-2, 10), 5*time.Second)
}

func latest(times ...time.Time) time.Time {
	var at time.Time
	for _, t := range times {
		if t.After(at) {
			at = t
		}
	}
	return at
}

// refusedByHAProxy reports whether the text itself is at fault, so that trying again is of no use.
func refusedByHAProxy(err error) bool {
	var ce *process.CheckError
	return errors.As(err, &ce)
}
