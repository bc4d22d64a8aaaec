package e2e

import (
	"bufio"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// FailCalls makes system calls of a process fail, as those of a kernel whose disk is dying, until the function that it returns is called:
// calls are names such as fsync,fdatasync, and errno one such as EIO. That needs strace, and root or a parent of the process.
func FailCalls(t *testing.T, pid int, calls, errno string) (heal func()) {
	t.Helper()
	cmd := exec.Command("strace", "-f", "-p", strconv.Itoa(pid), "-o", "/dev/null", "-e", "trace="+calls, "-e", "inject="+calls+":error="+errno)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: `make tools` installs it", err)
	}
	said, attached := bufio.NewScanner(stderr), false
	for !attached && said.Scan() {
		attached = strings.Contains(said.Text(), "attached")
	}
	if !attached {
		t.Fatalf("strace ended without having attached: %v", cmd.Wait())
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for said.Scan() { // lines about threads that come
			continue
		}
		_ = cmd.Wait() // it ends by our signal
	}()
	heal = sync.OnceFunc(func() {
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil { // it lets go of the process, which goes on
			t.Error(err)
		}
		<-done
	})
	t.Cleanup(heal)
	return heal
}
