package watch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	quiet    = 100 * time.Millisecond // without an event before it looks
	bound    = time.Second            // the longest that events can delay a look
	grace    = time.Second            // that a file may be gone while it is replaced
	slow     = 10 * time.Second       // between looks without any event
	fallback = 2 * time.Second        // the same where no events can be had
	maxSize  = 16 << 20               // bytes that count of one file
)

// events is a source of events, fsnotify's Watcher.
type events interface {
	Add(path string) error
	Remove(path string) error
	Close() error
}

// Watcher watches files.
type Watcher struct {
	paths []string
	log   *slog.Logger
	open  func() (events, <-chan fsnotify.Event, <-chan error, error)
}

// New makes a Watcher for absolute paths; Run starts it.
func New(log *slog.Logger, paths ...string) *Watcher {
	return &Watcher{paths: paths, log: log, open: func() (events, <-chan fsnotify.Event, <-chan error, error) {
		w, err := fsnotify.NewWatcher()
		if err != nil {
			return nil, nil, nil, err
		}
		return w, w.Events, w.Errors, nil
	}}
}

// Run calls changed once at its beginning, and then each time that the content of a file is another one, that a file has come or gone,
// or that it can or cannot be read any more. It blocks until ctx ends. Where no events can be had it looks every 2 s, and says so once.
func (w *Watcher) Run(ctx context.Context, changed func()) error {
	r := run{w: w, watched: map[string]identity{}}
	in, errs := r.start()
	defer r.stop()
	timer := time.NewTimer(0) // the first look is at once
	defer timer.Stop()
	var since time.Time // of the first event that no look has followed
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-in:
			if !ok {
				in, errs = nil, nil
				r.lose(errors.New("the events have ended"))
				continue
			}
			if !r.matters(e.Name) {
				continue
			}
		case err, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			w.log.Debug("watch", "error", err) // events are lost: looking tells
		case <-timer.C:
			since = time.Time{}
			r.follow()
			wait, differs := r.look()
			if differs {
				changed()
			}
			timer.Reset(wait)
			continue
		}
		now := time.Now()
		if since.IsZero() {
			since = now
		}
		timer.Reset(max(0, min(quiet, since.Add(bound).Sub(now))))
	}
}

// run is the state of one Run.
type run struct {
	w       *Watcher
	events  events // nil: none can be had
	lost    bool   // that was told
	watched map[string]identity
	names   map[string]bool
	known   []content
	missing time.Time // since when a file is gone, while that is not told yet
}

// identity is one file or folder, whatever its name: a watch belongs to it, and not to the name.
type identity struct{ dev, ino uint64 }

func (r *run) start() (<-chan fsnotify.Event, <-chan error) {
	ev, in, errs, err := r.w.open()
	if err != nil {
		r.lose(err)
		return nil, nil
	}
	r.events = ev
	return in, errs
}

func (r *run) stop() {
	if r.events != nil {
		if err := r.events.Close(); err != nil {
			r.w.log.Debug("watch", "error", err)
		}
	}
}

// lose says once that there are no events, or not all.
func (r *run) lose(err error) {
	if !r.lost {
		r.lost = true
		r.w.log.Warn("changes of files are looked for every "+fallback.String()+", because the system does not tell them", "error", err)
	}
}

func (r *run) matters(name string) bool {
	name = filepath.Clean(name)
	_, watched := r.watched[name]
	return watched || r.names[name]
}

// follow sets the watches that fit where the paths lead now. It repeats when that changes meanwhile.
func (r *run) follow() {
	if r.events == nil {
		return
	}
	for range 5 {
		before := maps.Clone(r.names)
		r.names = map[string]bool{}
		want, files := map[string]bool{}, map[string]bool{}
		for _, path := range r.w.paths {
			t := follow(path)
			maps.Copy(r.names, t.names)
			maps.Copy(want, t.dirs)
			if t.file != "" {
				want[t.file], files[t.file] = true, true
			}
		}
		for path := range r.watched {
			if id, err := identify(path); !want[path] || err != nil || id != r.watched[path] {
				_ = r.events.Remove(path) // of what is gone the watch is gone too
				delete(r.watched, path)
			}
		}
		settled := maps.Equal(before, r.names)
		for path := range want {
			if _, ok := r.watched[path]; ok {
				continue
			}
			id, err := identify(path)
			if err == nil {
				err = r.events.Add(path)
			}
			switch {
			case err == nil:
				r.watched[path] = id
				settled = false
			case errors.Is(err, fs.ErrNotExist):
				settled = false
			case errors.Is(err, fs.ErrPermission) && files[path]: // its folder tells when that changes
			default:
				r.lose(fmt.Errorf("watch %s: %w", path, err))
			}
		}
		if settled {
			return
		}
	}
}

func identify(path string) (identity, error) {
	info, err := os.Stat(path)
	if err != nil {
		return identity{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}, fmt.Errorf("%s has no number", path)
	}
	return identity{st.Dev, st.Ino}, nil
}

// content is what a file holds, or why that is not known.
type content struct {
	sum [sha256.Size]byte
	err string
}

// look compares the contents with those of before, and says when to look again.
func (r *run) look() (wait time.Duration, differs bool) {
	wait = slow
	if r.lost {
		wait = fallback
	}
	now := make([]content, len(r.w.paths))
	gone := false
	for i, path := range r.w.paths {
		sum, err := hash(path)
		now[i].sum = sum
		if err != nil {
			now[i].err = err.Error()
			gone = gone || i < len(r.known) && r.known[i].err == "" && errors.Is(err, fs.ErrNotExist)
		}
	}
	switch {
	case gone && r.missing.IsZero():
		r.missing = time.Now()
		return grace, false
	case gone && time.Since(r.missing) < grace:
		return grace - time.Since(r.missing), false
	}
	r.missing = time.Time{}
	if r.known != nil {
		same := true
		for i := range now {
			same = same && now[i] == r.known[i]
		}
		if same {
			return wait, false
		}
	}
	r.known = now
	return wait, true
}

// hash reads a regular file; others could block for ever.
func hash(path string) (sum [sha256.Size]byte, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return sum, err
	}
	if !info.Mode().IsRegular() {
		return sum, fmt.Errorf("%s is no regular file", path)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, maxSize)); err != nil {
		return sum, err
	}
	h.Sum(sum[:0])
	return sum, nil
}
