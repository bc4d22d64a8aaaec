package app

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// firstProcess is the process id of a container's first process, which the kernel makes the parent of every orphan.
const firstProcess = 1

// beInit is what the balancer does as process 1: it starts itself again and is then only a first process, as tini is: it hands
// signals on, reaps whoever became its child, and ends with the balancer and its exit code. The balancer itself must not reap
// strangers: it could take the status of a child that another part of it waits for.
func (p Program) beInit() int {
	self, err := os.Executable()
	if err != nil {
		return p.fail(fmt.Errorf("start as process 1: %w", err))
	}
	all := make(chan os.Signal, 64)
	signal.Notify(all) // before the start, so that no signal is lost
	cmd := exec.Command(self, p.Args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// A group of its own: Ctrl-C on a terminal reaches us alone, and is then handed on once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return p.fail(fmt.Errorf("start as process 1: %w", err))
	}
	for sig := range all {
		switch s, _ := sig.(syscall.Signal); s {
		case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE, syscall.SIGTTIN, syscall.SIGTTOU: // Go's own, and what only means us
		default:
			if err := unix.Kill(cmd.Process.Pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
				p.say(p.Stderr, "fnlb: hand on %s: %v\n", s, err)
			}
		}
		if status, ended := reap(cmd.Process.Pid); ended { // after each signal: several ends may be one SIGCHLD
			return exitCode(status)
		}
	}
	return exitFailed // never: nobody closes the channel
}

// reap takes the status of every child that has ended, and says how the one that matters did.
func reap(child int) (status unix.WaitStatus, ended bool) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || pid <= 0:
			return status, ended
		case pid == child:
			status, ended = ws, true
		}
	}
}

// exitCode is a shell's: a signal counts as 128 and its number.
func exitCode(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
