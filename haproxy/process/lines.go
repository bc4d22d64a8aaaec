package process

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	linesRest  = 100 * time.Millisecond // after lines were told: what comes meanwhile is told once
	linesLook  = 250 * time.Millisecond // between two looks at the file where the system tells nothing
	linesAgain = time.Minute            // until the system is asked anew
	linesGone  = time.Second            // the same for a folder that is not there
)

// Lines tells that HAProxy has written into its own log: it does with each change of a server's state, each reload and each worker
// that ends (seen with 2.6, 3.0 and 3.2; with -db, also where a template says quiet).
type Lines struct {
	path string
	log  *slog.Logger
	open func() (*os.File, error) // inotify
}

// NewLines makes a Lines for the log at this path; it does nothing yet.
func NewLines(path string, log *slog.Logger) *Lines {
	return &Lines{path: path, log: log, open: openInotify}
}

// Run calls heard after lines were written, within a few milliseconds of the first and ten times a second at most, until ctx ends. It
// follows the file that HAProxy has open as well as one that takes its name. Where the system does not tell of changes it looks four
// times a second, and says so once. It may call heard without a line.
func (l *Lines) Run(ctx context.Context, heard func()) {
	told := false
	for ctx.Err() == nil {
		err := l.follow(ctx, heard)
		if ctx.Err() != nil {
			return
		}
		if !told {
			told = true
			l.log.Warn("lines in HAProxy's log are looked for every "+linesLook.String()+", because the system does not tell them", "file", l.path, "error", err)
		}
		l.poll(ctx, heard)
	}
}

// poll looks at the file until it is time to ask the system again.
func (l *Lines) poll(ctx context.Context, heard func()) {
	end := time.NewTimer(linesAgain)
	defer end.Stop()
	tick := time.NewTicker(linesLook)
	defer tick.Stop()
	var known os.FileInfo
	for {
		if info, err := os.Stat(l.path); err == nil { // else it is not there yet, or not any more
			if known == nil || !os.SameFile(known, info) || known.Size() != info.Size() || !known.ModTime().Equal(info.ModTime()) {
				known = info
				heard()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			return
		case <-tick.C:
		}
	}
}

func openInotify() (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// ear is one inotify descriptor.
type ear struct {
	f      *os.File
	path   string
	folder int  // its watch
	whole  bool // the folder and the file of that name are watched
}

// follow tells lines by inotify. It returns when there is no more of that, or ctx ends.
func (l *Lines) follow(ctx context.Context, heard func()) (err error) {
	f, err := l.open()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = f.Close() })() // that ends the reading
	defer func() {
		if errClose := f.Close(); errClose != nil && !errors.Is(errClose, os.ErrClosed) {
			err = errors.Join(err, errClose)
		}
	}()
	e := &ear{f: f, path: l.path, folder: -1}
	buf := make([]byte, 16<<10)
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		fresh, err := e.watch() // the same folder keeps its watch
		if err != nil {
			return err
		}
		if fresh {
			heard()
		}
		n, err := f.Read(buf)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("inotify: %w", err)
		}
		if e.read(buf[:max(n, 0)]) {
			heard()
		}
		rest.Reset(linesRest)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-rest.C:
		}
	}
}

// What of the folder matters, and of the file. A file keeps its watch when it loses its name, as long as HAProxy has it open.
const (
	ofFolder = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	ofFile   = unix.IN_MODIFY
)

// watch sees to it that the folder and the file of that name are watched, and sets the time at which to look for them again when they
// are not there: a folder that was deleted says nothing as long as HAProxy has a file of it open. It reports whether they were not
// watched before, so that lines may have been missed.
func (e *ear) watch() (fresh bool, err error) {
	if e.whole {
		return false, nil
	}
	e.folder, err = e.add(filepath.Dir(e.path), ofFolder)
	if err == nil {
		_, err = e.add(e.path, ofFile)
	}
	switch {
	case err == nil:
		e.whole = true
		return true, e.f.SetReadDeadline(time.Time{})
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return false, e.f.SetReadDeadline(time.Now().Add(linesGone))
	}
	return false, err
}

func (e *ear) add(path string, mask uint32) (watch int, err error) {
	watch = -1
	errControl := e.control(func(fd int) { watch, err = unix.InotifyAddWatch(fd, path, mask) })
	if err = errors.Join(err, errControl); err != nil {
		return -1, fmt.Errorf("watch %s: %w", path, err)
	}
	return watch, nil
}

// control lends the descriptor, which cannot become another file's meanwhile.
func (e *ear) control(do func(fd int)) error {
	raw, err := e.f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { do(int(fd)) })
}

// read takes in events (inotify(7)), and reports whether lines were written, or may have been.
func (e *ear) read(events []byte) (lines bool) {
	for len(events) >= unix.SizeofInotifyEvent {
		wd := int(int32(binary.NativeEndian.Uint32(events)))
		mask := binary.NativeEndian.Uint32(events[4:])
		rest := events[unix.SizeofInotifyEvent:]
		size := min(int(binary.NativeEndian.Uint32(events[12:])), len(rest))
		name := strings.TrimRight(string(rest[:size]), "\x00")
		events = rest[size:]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0: // anything may have happened
			lines, e.whole = true, false
		case wd != e.folder:
			lines = lines || mask&unix.IN_MODIFY != 0
		case name == filepath.Base(e.path), mask&(unix.IN_IGNORED|unix.IN_MOVE_SELF|unix.IN_UNMOUNT) != 0:
			e.whole = false
		}
	}
	return lines
}
