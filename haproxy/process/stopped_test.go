package process

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestContinue: only what is HAProxy's is told to go on, and a debugger's or a running process is not stopped.
func TestContinue(t *testing.T) {
	dir := t.TempDir()
	socket := dir + "/m.sock"
	// The command line of a master, with a worker in its group.
	master := exec.Command("sh", "-c", "sleep 60 & wait", "x", "-S", socket+",mode,600")
	master.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	stranger := exec.Command("sleep", "60")
	for _, cmd := range []*exec.Cmd{master, stranger} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = unix.Kill(cmd.Process.Pid, unix.SIGKILL)
			_ = cmd.Wait() // it was killed
		})
	}
	t.Cleanup(func() { _ = unix.Kill(-master.Process.Pid, unix.SIGKILL) })
	wait := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !ok(); {
			if time.Now().After(end) {
				t.Fatalf("%s does not come", what)
			}
		}
	}
	var worker int
	wait("a worker", func() bool {
		for _, pid := range members(master.Process.Pid) {
			worker = pid
		}
		return worker != 0
	})
	for _, pid := range []int{master.Process.Pid, worker} {
		if Stopped(pid) {
			t.Errorf("process %d counts as stopped", pid)
		}
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		wait("its stop", func() bool { return Stopped(pid) })
		if err := Continue(pid, master.Process.Pid, dir+"/other.sock"); err == nil || !Stopped(pid) {
			t.Errorf("continued by another socket: %v", err)
		}
		if err := Continue(pid, master.Process.Pid, socket); err != nil {
			t.Error(err)
		}
		wait("its end", func() bool { return !Stopped(pid) })
	}
	if err := Continue(stranger.Process.Pid, master.Process.Pid, socket); err == nil || !strings.Contains(err.Error(), "is not one of HAProxy") {
		t.Errorf("a stranger: %v", err)
	}
	if Stopped(0) || Stopped(-1) || Stopped(1<<22) {
		t.Error("nobody counts as stopped")
	}
	if err := Continue(1<<22-1, master.Process.Pid, socket); err != nil {
		t.Errorf("one that has ended: %v", err)
	}
}
