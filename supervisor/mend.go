package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/model"
)

// mendEvery is the time between two looks at the files that HAProxy would read, when no glance has found them disturbed.
const mendEvery = 20 * time.Second

// stamp tells two versions of a file apart without reading it. The zero value is no file.
type stamp struct {
	inode    uint64
	size     int64
	modified syscall.Timespec
	changed  syscall.Timespec
}

func stampOf(path string) (stamp, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return stamp{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}, fmt.Errorf("lstat %s: no inode", path)
	}
	return stamp{st.Ino, st.Size, st.Mtim, st.Ctim}, nil
}

// kept is one file as it must be.
type kept struct {
	path string
	data []byte
	mode fs.FileMode
}

// keeps lists the files that HAProxy reads of a configuration, by path.
func (f Files) keeps(a *accepted) []kept {
	if a == nil || len(a.bundle.Main) == 0 {
		return nil
	}
	out := []kept{{f.Config, f.Text(a.bundle), 0o640}}
	if !f.Single {
		out = append(out, kept{f.Own(), f.ownText(a.revision), 0o640})
	}
	for name, file := range a.bundle.Files {
		out = append(out, kept{filepath.Join(f.Dir, filepath.FromSlash(name)), file.Data, modeOf(file)})
	}
	slices.SortFunc(out, func(a, b kept) int { return strings.Compare(a.path, b.path) })
	return out
}

func modeOf(f conf.File) fs.FileMode {
	if f.Secret {
		return 0o600
	}
	return 0o640
}

// mend makes the file what it must be when its stamp is another one; what says how it was found, when it was wrong.
func (k kept) mend(known stamp) (now stamp, what string, err error) {
	now, err = stampOf(k.path)
	if err == nil && now == known {
		return now, "", nil
	}
	have, errRead := os.ReadFile(k.path)
	switch {
	case errRead == nil && bytes.Equal(have, k.data):
		return now, "", err
	case errors.Is(errRead, fs.ErrNotExist):
		what = "deleted"
	case errRead != nil:
		what = "made unreadable"
	case len(have) < len(k.data) && bytes.HasPrefix(k.data, have):
		what = "truncated"
	default:
		what = "changed"
	}
	err = os.MkdirAll(filepath.Dir(k.path), 0o700)
	if err == nil {
		err = write(k.path, k.data, k.mode)
	}
	if err != nil {
		return known, what, err
	}
	now, err = stampOf(k.path)
	return now, what, err
}

// mending is what one look at the files found.
type mending struct {
	stamps  map[string]stamp
	done    []string // what was wrong and is right again, for people
	errs    []error
	gone    string // what of the run directory is missing; "" nothing
	rebuilt bool
	frozen  string // file that must be there; "" none
	stopped int    // a process of HAProxy that somebody stopped; 0 none
}

// mend looks at the files in a task. It excludes applies, which change them.
func (l *loop) mend(now time.Time) {
	l.mending, l.mendBegan, l.mendAt = true, now, now.Add(mendEvery)
	s, inForce, stamps, before, worker, master, lastState := l.s, l.accepted, l.stamps, l.gone != "", l.haproxy.Worker, l.haproxy.Master, l.observed.raw
	frozen := l.frozen
	if l.unnoted != "" {
		frozen = nil
	}
	l.task(func(context.Context) func() {
		m := s.mend(inForce, frozen, stamps, before, master, lastState)
		if frozen != nil {
			m.frozen = s.o.Files.Frozen()
		}
		m.stopped = s.stoppedOf(worker, master)
		return func() {
			l.mending = false
			l.undisturbed.Store(&undisturbed{m.stamps, m.frozen, worker, master})
			l.mended(m)
		}
	})
}

// mend is the work of the task. What of the run directory is gone must be seen gone twice: a socket is away for a moment when
// somebody makes HAProxy reload.
func (s *Supervisor) mend(inForce *accepted, frozen *model.Freeze, stamps map[string]stamp, before bool, master int, lastState []byte) (m mending) {
	s.writing.Lock()
	defer s.writing.Unlock()
	m.stamps, m.gone = map[string]stamp{}, s.o.Gone()
	if m.gone != "" && !before {
		m.stamps = stamps
		return m
	}
	if m.gone != "" {
		if err := s.o.Rebuild(); err != nil {
			m.errs = append(m.errs, err)
			return m
		}
		m.rebuilt = true
		s.keepState(lastState, inForce.text)
	}
	if s.keptOf != s.disk {
		s.keptOf, s.kept = s.disk, s.o.Files.keeps(s.disk) // none where nothing is known of it
	}
	for _, k := range s.kept {
		now, what, err := k.mend(stamps[k.path])
		m.stamps[k.path] = now
		switch {
		case err != nil:
			m.errs = append(m.errs, fmt.Errorf("%s was %s by somebody, and is not right again: %w", k.path, what, err))
		case what != "":
			m.done = append(m.done, fmt.Sprintf("%s was %s by somebody", k.path, what))
		}
	}
	if _, err := os.Lstat(s.o.Files.Frozen()); frozen != nil && errors.Is(err, fs.ErrNotExist) {
		m.done = append(m.done, s.o.Files.Frozen()+" was deleted by somebody; `fnlb thaw` ends a freeze")
		if err := s.o.Files.writeFrozen(*frozen, s.disk); err != nil {
			m.errs = append(m.errs, err)
		}
	}
	if m.rebuilt {
		if err := s.o.Reopen(master); err != nil {
			m.errs = append(m.errs, err)
		}
	}
	return m
}

// mended takes over what a look found, and tells it.
func (l *loop) mended(m mending) {
	now := time.Now()
	log := l.s.o.Log
	l.stamps = m.stamps
	if m.gone != "" || len(m.errs) > 0 { // it may be lasting, and no glance would tell
		l.mendAt = l.mendBegan.Add(glanceEvery)
	}
	if m.stopped != 0 && l.halted == 0 && l.silences == 0 { // who serves nobody is not left to the next observation
		l.observeAt = now
	}
	switch {
	case m.rebuilt:
		log.Warn("the run directory was damaged, and is made again; haproxy opens its sockets again", "missing", m.gone)
		l.gone, l.reopened = "", true
		l.lookNow()
		l.observeAt, l.silences = now.Add(observeLeast), 0
		m.done = append(m.done, "of the run directory was missing: "+m.gone)
	case len(m.errs) == 0:
		l.gone = m.gone
	}
	err := errors.Join(m.errs...)
	switch {
	case err != nil && l.unmended == "": // told once, whatever the next attempts say
		log.Error("files of ours are not right, and HAProxy could not be started again", "error", err)
		l.unmended, l.changed = model.Printable(err.Error()), true
	case err == nil && l.unmended != "":
		log.Info("files of ours are right again")
		l.unmended, l.changed = "", true
	}
	if v, n := l.tampering.look(now); v == goesOn {
		log.Warn("somebody goes on changing files of ours, they are written again each time", "changes", n)
	}
	if len(m.done) == 0 {
		return
	}
	l.haproxy.Mended += uint64(len(m.done))
	l.changed = true
	switch l.tampering.change(now) {
	case each:
		log.Warn("somebody changed files of ours; written again, and never loaded", "what", m.done)
		l.keep(model.Apply{Revision: l.applied, At: now, Method: model.Mended, Reasons: m.done, Causes: []string{"somebody"}})
	case begins:
		log.Warn("somebody goes on changing files of ours, it is told once a minute", "what", m.done)
	}
}

// mendSoon arranges a look at the files, at most one each second.
func (l *loop) mendSoon() {
	if at := l.mendBegan.Add(glanceEvery); at.Before(l.mendAt) {
		l.mendAt = at
	}
}

// mends reports whether the files are to be looked at.
func (l *loop) mends() bool { return l.running && l.accepted != nil && !l.stopping && !l.busy() }
