package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// TestStopped is fault row 11: somebody stops HAProxy's worker, or its master, while changes come. fnlb lets it go on; whoever
// connected meanwhile is served, and not one request is lost.
func TestStopped(t *testing.T) {
	for name, victim := range map[string]func(model.HAProxyStatus) int{
		"worker": func(s model.HAProxyStatus) int { return s.Worker },
		"master": func(s model.HAProxyStatus) int { return s.Master },
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, h haproxytest.HAProxy) {
				n := append(three(t), NewNode(t, "d"))
				b := Start(t, h, "--nodes", list(n[:3]...))
				b.WaitOnline(n[:3]...)
				b.WaitApplied()
				underLoad(t, b.Traffic, func() {
					for i := range 2 {
						pid, mark := victim(b.Status().HAProxy), len(b.Log())
						began := time.Now()
						if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
							t.Fatal(err)
						}
						for !halted(t, pid) { // each thread stops in its own time
							runtime.Gosched()
						}
						if i == 0 {
							b.Put(n[3].Addr)
						} else {
							b.Delete(n[3].Addr)
						}
						b.WaitLog(mark, "level=WARN", fmt.Sprintf("somebody stopped %s %d; continued", name, pid))
						took := time.Since(began)
						b.WaitApplied()
						t.Logf("it goes on after %s, converged after %s", took, time.Since(began))
						if i == 0 {
							b.WaitOnline(n...)
						} else {
							b.WaitOnline(n[:3]...)
						}
						b.WaitApplied()
					}
				})
				b.WaitStatus(func(st model.Status) bool {
					return st.HAProxy.Continued == 2 && len(st.Degraded) == 0 && st.HAProxy.OldWorkers == 0
				})
				for _, c := range b.changes() {
					if c.Error != "" {
						t.Errorf("an apply went wrong: %+v", c)
					}
				}
			})
		})
	}
}

// halted reports whether all threads of a process are stopped.
func halted(t *testing.T, pid int) bool {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("threads of %d: %d, %v", pid, len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, after, _ := strings.Cut(string(data), ") "); !strings.HasPrefix(after, "T") {
			return false
		}
	}
	return true
}
