package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Retire asks a master that is no child of ours to finish its requests and end (SIGUSR1). The process must have been started
// with the master socket whose answer named it; a pid that means another process by now is never signalled.
func Retire(master int, socket string) error {
	return withMaster(master, socket, func(fd int) error { return send(fd, master, unix.SIGUSR1) })
}

// Reopen makes a master open its socket anew (SIGUSR2), where somebody has deleted the file: it reloads for that, with all that a
// reload means. Seen with 2.6, 3.0 and 3.2.
func Reopen(master int, socket string) error {
	return withMaster(master, socket, func(fd int) error { return send(fd, master, unix.SIGUSR2) })
}

// Finish waits until a master that was retired has ended; when ctx ends first, it is ended at once (SIGTERM).
func Finish(ctx context.Context, master int, socket string) error {
	return withMaster(master, socket, func(fd int) error {
		for {
			// A pidfd becomes readable when its process ends.
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 50)
			switch {
			case errors.Is(err, unix.EINTR):
			case err != nil:
				return fmt.Errorf("wait for process %d: %w", master, err)
			case n > 0:
				return nil
			case ctx.Err() != nil:
				return send(fd, master, unix.SIGTERM)
			}
		}
	})
}

// Serves reports whether this process is a master that was started with the socket.
func Serves(master int, socket string) bool {
	found := false
	err := withMaster(master, socket, func(int) error {
		found = true
		return nil
	})
	return err == nil && found
}

// Masters lists the processes that were started as master with this socket, by pid.
func Masters(socket string) ([]int, error) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for HAProxy of %s: %w", socket, err)
	}
	var out []int
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		// Workers have the same command line; the master leads the process group that it was started in.
		if group, err := unix.Getpgid(pid); err == nil && group == pid && Serves(pid, socket) {
			out = append(out, pid)
		}
	}
	slices.Sort(out)
	return out, nil
}

// withMaster calls f with a descriptor that holds the process, so that its pid cannot become another's. One that has ended is no
// error, and f is not called.
func withMaster(master int, socket string, f func(pidfd int) error) error {
	fd, err := unix.PidfdOpen(master, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", master, err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written to it
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", master))
	switch {
	case err != nil:
		return fmt.Errorf("read the command line of process %d: %w", master, err)
	case len(cmdline) == 0:
		return nil // it has ended, and its parent has not noticed yet
	case !bytes.Contains(cmdline, []byte("\x00-S\x00"+socket+",")):
		return fmt.Errorf("process %d is not the HAProxy of %s", master, socket)
	}
	return f(fd)
}

func send(fd, master int, sig unix.Signal) error {
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", master, err)
	}
	return nil
}
