package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/haproxy/process"
)

// dirs are the places in the run directory. The directory itself is 0711: what must be reached by others lies in folders of
// their own (safety: hostile input, 3).
type dirs struct {
	run        string
	private    string // 0700: master socket and the worker's
	management string // 0710, HAProxy's group: the socket by which HAProxy reaches us
}

func dirsOf(s *config.Settings) dirs {
	return dirs{run: s.RunDir, private: filepath.Join(s.RunDir, "private"), management: filepath.Join(s.RunDir, "mgmt")}
}

func (d dirs) masterSocket() string     { return filepath.Join(d.private, "master.sock") }
func (d dirs) workerSocket() string     { return filepath.Join(d.private, "worker.sock") }
func (d dirs) managementSocket() string { return filepath.Join(d.management, "mgmt.sock") }

// peersSocket is where a worker hands its stick tables to the next one: workers open it after they dropped root.
func (d dirs) peersSocket() string { return filepath.Join(d.management, "peers.sock") }
func (d dirs) adminSocket() string { return filepath.Join(d.run, "admin.sock") }
func (d dirs) haproxyLog() string  { return filepath.Join(d.run, "haproxy.log") }
func (d dirs) pidFile() string     { return filepath.Join(d.run, "fnlb.pid") }

// kept is where what a source says is kept.
func (d dirs) kept(source string) string { return filepath.Join(d.run, "sources", source+".json") }
func (d dirs) lockFile() string          { return filepath.Join(d.run, "fnlb.lock") }

// identity is whom HAProxy's workers become.
type identity struct {
	name, group string
	gid         int // -1: nobody else
}

// workerIdentity finds the user that HAProxy drops to when we are root: the one asked for, else haproxy, else nobody. A root that may not
// become another user is treated as any user.
func workerIdentity(s *config.Settings) (identity, error) {
	mayDrop := os.Getuid() == 0
	if mayDrop {
		own, err := process.Capabilities()
		if err != nil {
			return identity{}, err
		}
		mayDrop = own.Effective.Has(unix.CAP_SETUID) && own.Effective.Has(unix.CAP_SETGID)
	}
	if !mayDrop {
		if s.HAProxyUser != "" {
			return identity{}, errors.New("--haproxy-user needs root and the capabilities SETUID and SETGID; leave it out")
		}
		return identity{gid: -1}, nil
	}
	names := []string{"haproxy", "nobody"}
	if s.HAProxyUser != "" {
		names = []string{s.HAProxyUser}
	}
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		gid, err := strconv.Atoi(u.Gid)
		if err != nil {
			return identity{}, fmt.Errorf("group of user %s: %w", name, err)
		}
		g, err := user.LookupGroupId(u.Gid)
		if err != nil {
			return identity{}, fmt.Errorf("group of user %s: %w", name, err)
		}
		return identity{name: name, group: g.Name, gid: gid}, nil
	}
	return identity{}, fmt.Errorf("there is no user %s for HAProxy to become; name one with --haproxy-user", names[0])
}

// prepare makes the folders, and takes over what is already there only when it is ours.
func (d dirs) prepare(worker identity) error {
	for _, f := range []struct {
		path string
		mode fs.FileMode
		gid  int
	}{{d.run, 0o711, -1}, {d.private, 0o700, -1}, {d.management, 0o710, worker.gid}} {
		if err := os.MkdirAll(f.path, f.mode); err != nil {
			return fmt.Errorf("run directory: %w; choose another with --run-dir", err)
		}
		info, err := os.Lstat(f.path)
		if err != nil {
			return fmt.Errorf("run directory: %w; choose another with --run-dir", err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !info.IsDir() || !ok || int(st.Uid) != os.Getuid() {
			return fmt.Errorf("run directory: %s is not a folder of this user; choose another with --run-dir", f.path)
		}
		mode := f.mode
		if f.path == d.run { // it may be shared with others, who need its rights as they are; passing through must be possible
			if info.Mode().Perm()&0o022 != 0 {
				return fmt.Errorf("run directory: others may write to %s; choose another with --run-dir", f.path)
			}
			mode |= info.Mode().Perm()
		}
		if err := os.Chmod(f.path, mode); err != nil {
			return fmt.Errorf("run directory: %w; choose another with --run-dir", err)
		}
		if f.gid >= 0 {
			if err := os.Chown(f.path, -1, f.gid); err != nil {
				return fmt.Errorf("run directory: %w", err)
			}
		}
	}
	return nil
}

// locks hold the run directory and the configuration file: two balancers on one of them would undo each other's work.
type locks struct{ files []*os.File }

// lock takes both locks or says who has one.
func (d dirs) lock(configFile string) (*locks, error) {
	l := &locks{}
	for _, want := range []struct{ path, what, mend string }{
		{d.lockFile(), "run directory " + d.run, "--run-dir"},
		{configFile + ".lock", "configuration file " + configFile, "--haproxy-config"},
	} {
		f, err := lockFile(want.path)
		for end := time.Now().Add(lockPatience); errors.Is(err, unix.EWOULDBLOCK) && !heldByLiving(want.path) && time.Now().Before(end); time.Sleep(lockPause) {
			f, err = lockFile(want.path)
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("another fnlb%s uses the %s; stop it, or give this one another with %s", holder(want.path), want.what, want.mend)
		} else if err != nil {
			err = fmt.Errorf("lock the %s: %w; the folder must exist and be writable: see %s", want.what, err, want.mend)
		}
		if err != nil {
			return nil, errors.Join(err, l.release())
		}
		l.files = append(l.files, f)
	}
	return l, nil
}

// A fnlb that is killed in the moment when it starts HAProxy leaves its locks to that process, until it has become HAProxy.
const (
	lockPatience = 2 * time.Second
	lockPause    = 5 * time.Millisecond
)

// heldByLiving reports whether the one that signed a lock lives.
func heldByLiving(path string) bool {
	pid, ok := signer(path)
	return !ok || unix.Kill(pid, 0) == nil
}

// lockFile opens, locks and signs a file. A lock on a file that was removed meanwhile counts for nothing, so it looks again.
func lockFile(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		have, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if there, err := os.Stat(path); err != nil || !os.SameFile(have, there) {
			if err := f.Close(); err != nil {
				return nil, err
			}
			continue
		}
		pid := []byte(strconv.Itoa(os.Getpid()) + "\n")
		if _, err := f.WriteAt(pid, 0); err == nil {
			err = f.Truncate(int64(len(pid)))
			if err != nil {
				return nil, errors.Join(err, f.Close())
			}
		}
		return f, nil
	}
}

func holder(path string) string {
	if pid, ok := signer(path); ok {
		return fmt.Sprintf(" (pid %d)", pid)
	}
	return ""
}

// signer is the pid that stands in a lock.
func signer(path string) (int, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	pid, err := strconv.Atoi(string(trimLine(data)))
	return pid, err == nil
}

func trimLine(b []byte) []byte {
	for i, c := range b {
		if c == '\n' {
			return b[:i]
		}
	}
	return b
}

// release removes the locks while they are held, so that nobody holds one on a file that is gone.
func (l *locks) release() error {
	var errs []error
	for _, f := range l.files {
		errs = append(errs, os.Remove(f.Name()), f.Close())
	}
	return errors.Join(errs...)
}
