package e2e

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// deafen stops processes as a debugger does: unlike a SIGSTOP it is not undone by SIGCONT, so that SIGTERM is ignored for good. Only
// SIGKILL ends them. The test must end them, and then call await, which reaps them as their tracer.
func deafen(t *testing.T, pids ...int) (await func()) {
	t.Helper()
	seized := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: a tracer is a thread, and what it holds goes on when it ends
		var tids []int
		var err error
		for _, pid := range pids {
			var more []int
			more, err = seize(pid)
			tids = append(tids, more...)
			if err != nil {
				break
			}
		}
		seized <- err
		for i := len(tids) - 1; i >= 0; i-- { // the first thread of a process ends last
			for {
				var ws unix.WaitStatus
				_, err := unix.Wait4(tids[i], &ws, unix.WALL, nil)
				if errors.Is(err, unix.EINTR) || err == nil && !ws.Exited() && !ws.Signaled() {
					continue
				}
				break
			}
		}
	}()
	if err := <-seized; err != nil {
		t.Fatalf("trace %v: %v", pids, err)
	}
	return func() { <-done }
}

// seize stops all threads of a process, the first one first.
func seize(pid int) (tids []int, err error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			return tids, err
		}
		if err := unix.PtraceSeize(tid); err != nil {
			return tids, fmt.Errorf("seize: %w", err)
		}
		tids = append(tids, tid)
		if err := unix.PtraceInterrupt(tid); err != nil {
			return tids, fmt.Errorf("interrupt: %w", err)
		}
		for {
			var ws unix.WaitStatus
			if _, err := unix.Wait4(tid, &ws, unix.WALL, nil); err == nil {
				break
			} else if !errors.Is(err, unix.EINTR) {
				return tids, fmt.Errorf("wait: %w", err)
			}
		}
	}
	return tids, nil
}
