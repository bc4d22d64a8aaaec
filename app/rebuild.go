package app

import (
	"errors"
	"os"
	"strconv"
	"strings"
)

// reopened is a socket of the run directory and how it is made.
type reopened struct {
	path string
	open func() (server, error)
}

// gone lists what of the run directory somebody has deleted: folders, sockets and the lock. "" means nothing.
func (b *balancer) gone() string {
	paths := []string{b.dirs.run, b.dirs.private, b.dirs.management, b.dirs.lockFile()}
	if b.s.HAProxyMaster == "" {
		paths = append(paths, b.dirs.masterSocket())
	}
	for _, o := range b.open {
		paths = append(paths, o.path)
	}
	var missing []string
	for _, path := range paths {
		if !exists(path) {
			missing = append(missing, path)
		}
	}
	return strings.Join(missing, ", ")
}

// rebuild makes again what is gone and ours: folders, lock, pid file and sockets. It is called by the supervisor, one call at a time
// and while it runs. Files for HAProxy are the supervisor's, its sockets HAProxy's.
func (b *balancer) rebuild() error {
	if err := b.dirs.prepare(b.worker); err != nil {
		return err
	}
	var errs []error
	if !exists(b.dirs.lockFile()) { // a lock on a file that is gone keeps nobody away
		f, err := lockFile(b.dirs.lockFile())
		if err == nil {
			b.held.files[0], f = f, b.held.files[0]
			err = f.Close()
		}
		errs = append(errs, err)
	}
	if !exists(b.dirs.pidFile()) {
		errs = append(errs, os.WriteFile(b.dirs.pidFile(), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644))
	}
	for _, o := range b.open {
		if exists(o.path) {
			continue
		}
		s, err := o.open()
		if err == nil {
			b.serve(s) // the earlier listener, which nobody can reach, stays until the end
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
