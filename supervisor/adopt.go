package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/model"
)

// How long an adoption waits: for a master that has just been forked and loads its text, and for the worker of one that answers.
const (
	adoptLimit    = 30 * time.Second
	workerLimit   = 5 * time.Second
	externalPause = 200 * time.Millisecond // between two attempts with a HAProxy that others start
	namesLimit    = 5 * time.Second        // the first State waits this long for names of which it is not known where they are served
)

// Launch is how HAProxy is started. It is noted in applied.json: a HAProxy that would be started otherwise now is not adopted.
type Launch struct {
	Binary    string `json:"binary"`
	AccessLog string `json:"access_log"`
	User      string `json:"user"`
}

// adoption is what became of a HAProxy that was found.
type adoption struct {
	identity  process.Identity
	info      runtime.Info
	abilities conf.Abilities // of an external one
	finishing bool           // it has closed its ports and only finishes requests
	inForce   *accepted      // what it has loaded, or what the files say where that is not certain
	why       string         // why it has to load a text again; "" when all agrees
	served    *served
	leaving   map[serverName]leaving // what it has not deleted yet
	took      time.Duration
	err       error
}

// served is what an adopted HAProxy serves: these servers are admitted without a probe, so that what serves goes on serving.
type served struct {
	addrs map[netip.AddrPort]bool
	names map[model.ServerKey]netip.AddrPort
	each  map[model.ServerKey][]netip.AddrPort // by the name that they come from
}

// at is where a server is served; invalid when it is not known to be.
func (v *served) at(s model.Server) netip.AddrPort {
	switch {
	case v == nil:
	case s.Host != "":
		return v.names[model.ServerKey{Service: s.Service, Name: strings.TrimPrefix(s.Name, "*")}]
	case v.addrs[s.Addr()]:
		return s.Addr()
	}
	return netip.AddrPort{}
}

// startAdopt begins to take over the HAProxy that was found, as the first apply.
func (l *loop) startAdopt(found process.Identity) {
	l.applying = true
	ctx, cancel := context.WithCancel(l.ctx)
	l.cancelApply = cancel
	l.task(func(context.Context) func() {
		defer cancel()
		begin := time.Now()
		a := l.s.adopt(ctx, found)
		if l.s.o.External && (a.err != nil || a.finishing) {
			select { // it comes, or it goes
			case <-ctx.Done():
			case <-time.After(externalPause):
			}
		}
		a.took = time.Since(begin)
		return func() {
			l.applying = false
			l.adopted(a, begin)
		}
	})
}

// adopt asks the HAProxy that was found what it has loaded, and compares. It changes nothing but files that are wrong.
func (s *Supervisor) adopt(ctx context.Context, found process.Identity) adoption {
	a := adoption{identity: found}
	if s.o.External {
		var err error
		if a.identity, err = s.o.Process.Start(ctx, ""); err != nil {
			a.err = err
			return a
		}
	}
	procs, revision, finishing, err := s.findWorker(ctx, &a)
	if err != nil || finishing {
		a.err, a.finishing = err, finishing
		return a
	}
	if s.o.External {
		a.identity.Master = procs.Master.PID // in its own numbering, if that is another
		abilities, err := conf.VersionAbilities(a.info.Version)
		if err != nil || !abilities.AtLeast(2, 6) {
			a.err = fmt.Errorf("HAProxy %q runs, and 2.6 is the least; upgrade it", a.info.Version)
			return a
		}
		a.abilities = abilities
		if s.o.Running != nil {
			s.o.Running(a.info.Version)
		}
	}
	bundle, certain := s.compare(&a, found, procs, revision)
	s.writing.Lock()
	defer s.writing.Unlock()
	s.disk = a.inForce
	if certain {
		if err := s.o.Files.restore(bundle, bundle.Revision()); err != nil {
			s.o.Log.Warn("a file that was half replaced could not be put right", "error", err)
		}
	}
	var rows []runtime.ServerState
	a.served, rows = s.servedBy(ctx, a.identity.Worker, a.inForce.text)
	if !a.inForce.uncertain {
		what := disagreement(a.inForce.text, rows)
		if what == "" && rows != nil {
			what = s.otherMap(ctx, a.identity.Worker, a.inForce)
		}
		if what != "" && a.why == "" {
			a.why, a.inForce.uncertain = "adopted, and HAProxy was changed at run time where the files were not: "+what, true
			return a
		}
		a.leaving = leftBehind(a.inForce.text, rows, time.Now())
	}
	return a
}

// otherMap names a map of which the worker has other entries than the file, "" where there is none: who changed it at run time was killed before
// the files followed. A map that the worker does not show is left to the next change of it.
func (s *Supervisor) otherMap(ctx context.Context, worker int, a *accepted) string {
	files := a.planned().Maps()
	for _, path := range slices.Sorted(maps.Keys(files)) {
		has, err := s.o.Runtime.Map(ctx, worker, a.names.Of(path))
		if err != nil {
			s.o.Log.Warn("what the worker has of a map is not known", "map", path, "error", err)
			continue
		}
		want := runtime.MapEntries(files[path])
		slices.Sort(has)
		slices.Sort(want)
		if !slices.Equal(has, want) {
			return fmt.Sprintf("map %s has other entries", filepath.Base(path))
		}
	}
	return ""
}

// findWorker waits for the worker that takes new connections. One that says twice that it stops has closed its ports.
func (s *Supervisor) findWorker(ctx context.Context, a *adoption) (procs runtime.Processes, revision string, finishing bool, err error) {
	master := a.identity.Master
	for stopping := 0; ; {
		if procs, a.identity.Worker, revision, err = s.awaitWorker(ctx); err != nil {
			return procs, "", false, fmt.Errorf("adopt: process %d is the HAProxy that an earlier fnlb left on this run directory, and it does not answer: %w; it was left as it is; end it with kill -USR1 %d, or kill -9 %d when that does not help, and start again",
				master, err, master, master)
		}
		var errInfo error
		if a.info, errInfo = s.o.Runtime.Info(ctx, a.identity.Worker); errInfo != nil || !a.info.Stopping {
			return procs, revision, false, nil //nolint:nilerr // one that does not say that it stops is taken to serve
		}
		if stopping == a.identity.Worker {
			return procs, revision, true, nil
		}
		stopping = a.identity.Worker // a reload may have been under way: then another serves by now
	}
}

// compare looks for the text that the worker has loaded, and says in a.why what does not agree with what was noted.
func (s *Supervisor) compare(a *adoption, found process.Identity, procs runtime.Processes, revision string) (bundle conf.Bundle, certain bool) {
	noted, errNoted := s.o.Files.Noted()
	wanted := revision
	if noted.Loaded == revision && noted.Worker == a.identity.Worker {
		wanted = noted.Revision // it was changed at run time since it has loaded that
	}
	var whole bool
	bundle, certain, whole = s.o.Files.find(wanted, noted)
	if noted.Doubt && noted.Worker == a.identity.Worker {
		whole = false
	}
	a.inForce = &accepted{bundle: bundle, revision: bundle.Revision(), loaded: revision, names: noted.Names, uncertain: !certain || !whole}
	var err error
	if a.inForce.text, err = conf.Parse(bundle.Main); err != nil {
		s.o.Log.Warn("the text on disk cannot be read", "error", err)
		a.inForce = &accepted{uncertain: true}
	}
	switch {
	case s.o.External && !a.inForce.uncertain && whole: // others start it, so that its processes mean nothing
	case s.o.External:
		a.why = "HAProxy has loaded another text"
	case errNoted != nil:
		a.why = "adopted, and what was applied is not known: " + errNoted.Error()
	case noted.Loaded != revision:
		a.why = fmt.Sprintf("adopted, and HAProxy has loaded %q where %q was noted", revision, noted.Loaded)
	case noted.Master != procs.Master.PID, noted.Ticks != found.Ticks, noted.Worker != a.identity.Worker:
		a.why = "adopted, and other processes run than were noted"
	case !whole:
		a.why = "adopted, and a change was cut short: how much of it the worker has is not known"
	case a.inForce.uncertain:
		a.why = "adopted, and the text on disk is not what HAProxy has loaded"
	}
	return bundle, certain
}

// awaitWorker waits for the worker that takes new connections. A master that answers and whose worker stays silent is adopted
// with its text unknown: the reload that follows gives it another worker.
func (s *Supervisor) awaitWorker(ctx context.Context) (procs runtime.Processes, worker int, revision string, err error) {
	for begin := time.Now(); ; {
		attempt, cancel := context.WithTimeout(ctx, workerLimit)
		procs, worker, revision, err = s.o.Runtime.Serving(attempt)
		cancel()
		switch {
		case err == nil:
			return procs, worker, revision, nil
		case ctx.Err() != nil:
			return procs, 0, "", err
		case len(procs.Workers) > 0 && !errors.Is(err, runtime.ErrNoWorker):
			worker = slices.MinFunc(procs.Workers, func(a, b runtime.Process) int { return a.Reloads - b.Reloads }).PID
			return procs, worker, "", nil
		case time.Since(begin) > adoptLimit && !s.o.External:
			return procs, 0, "", err
		}
	}
}

// servedBy lists the servers that the worker has; when it does not say, those of the text.
func (s *Supervisor) servedBy(ctx context.Context, worker int, text conf.Text) (*served, []runtime.ServerState) {
	v := &served{addrs: map[netip.AddrPort]bool{}, names: map[model.ServerKey]netip.AddrPort{}, each: map[model.ServerKey][]netip.AddrPort{}}
	add := func(backend, name string, at netip.AddrPort) {
		if at.IsValid() && at.Port() != 0 {
			at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
			v.addrs[at], v.names[model.ServerKey{Service: backend, Name: name}] = true, at
			if of, is := strings.CutSuffix(name, "_"+at.Addr().String()); is { // of a name
				key := model.ServerKey{Service: backend, Name: of}
				v.names[key], v.each[key] = at, append(v.each[key], at)
			}
		}
	}
	_, rows, err := s.o.Runtime.ServersState(ctx, worker)
	if err != nil {
		s.o.Log.Warn("the servers of the HAProxy that runs are known from its text alone", "error", err)
		for _, t := range text.Servers() {
			add(t.Backend, t.Name, t.Addr)
		}
	}
	for _, r := range rows {
		if !r.Maint { // such a one has left, and waits for its deletion
			add(r.Backend, r.Server, r.Addr)
		}
	}
	return v, rows
}

// notAdopted reacts to a HAProxy that was found and cannot be adopted. It reports false for one that can.
func (l *loop) notAdopted(a adoption) bool {
	log, death := l.s.o.Log, l.death
	l.death = nil
	switch {
	case death == nil && a.err == nil && !a.finishing:
		return false
	case l.s.o.External && l.stopAt.IsZero(): // it ends, or says nothing: the next one is waited for, or this one goes on
		if a.err != nil && a.err.Error() != l.unadopted {
			l.unadopted = a.err.Error()
			log.Warn("haproxy cannot be used yet", "error", a.err)
		}
		l.startAdopt(process.Identity{})
	case death != nil:
		log.Warn("the HAProxy that an earlier fnlb left has ended, another is started", "master", a.identity.Master, "how", death)
		l.dirty(time.Now())
	case !l.stopAt.IsZero(): // it was cut short on purpose
	case a.err != nil:
		l.failure, l.left = a.err, true
	case a.finishing:
		log.Warn("the HAProxy that an earlier fnlb left only finishes its last requests, another is started beside it", "master", a.identity.Master)
		l.s.o.Process.Supersede()
		l.dirty(time.Now())
	}
	return true
}

// adopted goes on with the HAProxy that was found, or without it.
func (l *loop) adopted(a adoption, began time.Time) {
	if l.notAdopted(a) {
		return
	}
	now, log := time.Now(), l.s.o.Log
	l.save.done()
	l.accepted, l.running, l.served, l.leaving = a.inForce, true, a.served, a.leaving
	l.identity = a.identity
	if a.abilities != (conf.Abilities{}) {
		l.abilities = a.abilities
	}
	l.haproxy.Master, l.haproxy.Worker, l.haproxy.Started = a.identity.Master, a.identity.Worker, a.identity.Started
	l.haproxy.MaxConn = a.info.MaxConn
	if a.info.Version != "" {
		l.haproxy.Version = a.info.Version
	}
	l.foreign, l.foreignWhy = a.why != "", a.why
	if l.pinned != nil && l.pinned.revision != l.accepted.revision {
		l.foreign, l.foreignWhy = true, "adopted, and it is frozen on another text"
	}
	l.namesBy = now.Add(namesLimit)
	for key, m := range l.members { // of a State that came before
		if l.served.at(m.server).IsValid() && !m.admitted {
			m.cancel()
			next := &member{server: m.server, rule: m.rule, since: now}
			l.members[key] = next
			l.follow(next)
		}
	}
	if l.have {
		l.served = nil
	}
	l.lookNow()
	l.dirty(now)
	l.setPhase(model.Serving)
	reasons := []string{"fnlb was started again"}
	if l.s.o.External {
		reasons = []string{"it was started"}
	}
	if a.why != "" {
		reasons = []string{a.why}
	}
	l.record(model.Apply{At: began, Method: model.Adopt, Reasons: reasons, Causes: []string{causeStart}, Millis: millis(a.took), Worker: a.identity.Worker}, nil, a.took)
	what := "adopted the HAProxy that an earlier fnlb left"
	if l.s.o.External {
		what = "haproxy found"
		log = log.With("version", a.info.Version)
	}
	log.Info(what, "master", a.identity.Master, "worker", a.identity.Worker, "servers", len(a.served.addrs), "reload", l.foreign, "reasons", reasons, "ms", millis(a.took))
}

// vanished reacts to the end of a HAProxy that others start: the next one is waited for.
func (l *loop) vanished(now time.Time, err error) {
	l.setPhase(model.Broken)
	l.haproxy.Restarts++
	l.counters.Restarts++
	l.dirty(now, causeDied)
	l.s.o.Log.Error("haproxy is gone, the next one is waited for", "how", err)
	l.startAdopt(process.Identity{})
}

// awaitsNames reports whether a name is still looked up of which an adopted HAProxy may serve an address.
func (l *loop) awaitsNames() bool {
	for _, m := range l.members {
		if m.server.Host != "" && !m.admitted && m.lastCheck == "" {
			return true
		}
	}
	return false
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
