package process

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// Stopped reports whether somebody stopped a process (SIGSTOP and the like: state T of proc(5)). One that a debugger holds (t) does
// not count: its owner knows what he does.
func Stopped(pid int) bool {
	st, ok := statOf(pid)
	return ok && st.state == 'T'
}

func statOf(pid int) (procStat, bool) {
	if pid <= 0 {
		return procStat{}, false
	}
	data, err := readShort("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, false // it has ended
	}
	return parseStat(data)
}

// readShort reads a file of /proc that has a kilobyte at most. Package os prepares each file for waiting, which takes most of the time, and
// this is asked each second.
func readShort(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 1024)
	n, err := unix.Read(fd, buf)
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// Continue lets a stopped process go on (SIGCONT). It must be the master that was started with this socket, or a process of its
// group; a pid that means another process by now is never signalled. One that has ended is no error.
func Continue(pid, master int, socket string) error {
	return withMaster(master, socket, func(masterFD int) error {
		if pid == master {
			return send(masterFD, master, unix.SIGCONT)
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("open process %d: %w", pid, err)
		}
		defer func() { _ = unix.Close(fd) }() // nothing was written to it
		st, ok := statOf(pid)                 // read after it is held: this is the process that the descriptor means
		switch {
		case !ok:
			return nil
		case st.group != master:
			return fmt.Errorf("process %d is not one of HAProxy %d", pid, master)
		}
		return send(fd, pid, unix.SIGCONT)
	})
}

// Reopen makes a master open its socket anew (SIGUSR2), where somebody has deleted the file: it reloads for that, with all that a
// reload means. Seen with 2.6, 3.0 and 3.2.
func Reopen(master int, socket string) error {
	return withMaster(master, socket, func(fd int) error { return send(fd, master, unix.SIGUSR2) })
}

// withMaster calls f with a descriptor that holds the master that was started with this socket, so that its pid cannot become
// another's. One that has ended is no error, and f is not called.
func withMaster(master int, socket string, f func(pidfd int) error) (err error) {
	fd, err := unix.PidfdOpen(master, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", master, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	args, _, ok := describe(master)
	switch {
	case !ok:
		return nil
	case !isOurs(master, args, socket):
		return fmt.Errorf("process %d is not the HAProxy of %s", master, socket)
	}
	return f(fd)
}
