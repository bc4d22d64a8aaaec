package chaos

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fnlb/fnlb/test/e2e"
)

// Faults of what a balancer runs with: disks, files, memory, processors, the reader of its log.

func fullDisk(w *world) {
	disk := w.disk()
	w.unwritable(disk, disk.Fill, "no space left on device")
}

func readOnly(w *world) {
	disk := w.disk()
	w.unwritable(disk, disk.ReadOnly, "read-only file system")
}

func failingDisk(w *world) {
	begin := func() func() { return e2e.FailCalls(w.t, w.b.Cmd.Process.Pid, "fsync,fdatasync", "EIO") }
	w.unwritable(w.config, begin, "input/output error")
}

// disk is the one of the run directory or the one of the configuration file.
func (w *world) disk() *e2e.Disk { return []*e2e.Disk{w.run, w.config}[w.r.IntN(2)] }

// unwritable lets a change meet a disk on which nothing can be written, until that is told.
func (w *world) unwritable(disk *e2e.Disk, begin func() (end func()), said string) {
	w.t.Helper()
	before := w.text()
	end := begin()
	w.change()
	w.b.WaitLog(w.mark, said)
	if disk == w.config && w.text() != before {
		w.t.Errorf("the file in force changed while there was: %s", said)
	}
	end()
}

func (w *world) text() string {
	w.t.Helper()
	text, err := os.ReadFile(w.b.Config)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

// hungDisk keeps a change from being written, while calls are answered.
func hungDisk(w *world) {
	thaw := w.config.Freeze()
	w.change()
	w.b.Eventually(func() string {
		for _, dir := range w.threads(w.b.Cmd.Process.Pid) {
			if text, err := os.ReadFile(filepath.Join(dir, "stat")); err == nil && strings.Contains(string(text), ") D ") { // else it has ended
				return ""
			}
		}
		return "nobody waits for the disk"
	})
	for range 50 {
		if _, err := w.b.Nodes(); err != nil {
			w.t.Error(err)
		}
	}
	thaw()
}

// stalledLog makes fnlb log more than it may keep; what is missing is told to whoever reads again.
func stalledLog(w *world) {
	release := w.b.HoldLog()
	w.b.Chatter(6000)
	w.change()
	w.settle()
	release()
	w.b.WaitLog(w.mark, "level=WARN", "lines of this log are missing here")
}

func closedLog(w *world) {
	w.b.CloseLog()
	w.change()
	w.settle()
	w.restart()
}

// oneCore gives fnlb and HAProxy one processor together, for a while.
func oneCore(w *world) {
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(w.b.Cmd.Process.Pid, &all); err != nil {
		w.t.Fatal(err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	w.confine(&one)
	work(w)
	w.settle()
	w.confine(&all)
}

func (w *world) confine(to *unix.CPUSet) {
	w.t.Helper()
	st := w.b.Status().HAProxy
	for _, pid := range []int{w.b.Cmd.Process.Pid, st.Master, st.Worker} {
		for _, dir := range w.threads(pid) {
			tid, err := strconv.Atoi(filepath.Base(dir))
			if err != nil {
				w.t.Fatal(err)
			}
			if err := unix.SchedSetaffinity(tid, to); err != nil && !errors.Is(err, unix.ESRCH) { // it has ended meanwhile
				w.t.Fatal(err)
			}
		}
	}
}

// work is a day's: changes, and one that takes a reload.
func work(w *world) {
	w.change()
	w.edit("", "msg=reloaded")
	w.change()
}

// noMoreFiles keeps fnlb from opening anything, until it has told so. The change comes over a connection that was there before.
func noMoreFiles(w *world) {
	pid := w.b.Cmd.Process.Pid
	kept := &http.Client{Timeout: e2e.Patience, Transport: &http.Transport{}}
	defer kept.CloseIdleConnections()
	w.changeBy(kept)
	w.settle()
	open, err := files(pid)
	if err != nil {
		w.t.Fatal(err)
	}
	limit := func(to, was *unix.Rlimit) {
		w.t.Helper()
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, to, was); err != nil {
			w.t.Fatal(err)
		}
	}
	var was unix.Rlimit
	limit(nil, &was)
	limit(&unix.Rlimit{Cur: uint64(open), Max: was.Max}, nil)
	mark := len(w.b.Log())
	w.changeBy(kept)
	w.b.WaitLog(mark, "too many open files")
	limit(&was, nil)
}

// outOfMemory has HAProxy's worker killed by the kernel.
func outOfMemory(w *world) {
	g := e2e.NewMemoryGroup(w.t, 1)
	g.Add(w.b.Status().HAProxy.Worker)
	left := make(chan struct{})
	go func() {
		defer close(left)
		e2e.Crowd(w.b.Traffic, 2000)()
	}()
	for end := time.Now().Add(e2e.Patience); g.Kills() == 0; {
		if time.Now().After(end) {
			w.t.Fatal("the kernel kills nobody")
		}
		time.Sleep(time.Millisecond) // it tells nobody
	}
	w.struck = time.Now()
	w.b.WaitLog(w.mark, "haproxy died", "137") // 128 and SIGKILL
	<-left
}

// webSockets keeps connections open over reloads: all in the worker before them, or some in each worker.
func webSockets(w *world) {
	each := w.r.IntN(2) == 0
	var open []*e2e.WebSocket
	dial := func(n int) {
		for range n {
			open = append(open, e2e.DialWebSocket(w.t, w.b.Traffic, len(open)))
		}
	}
	alive := func() {
		for i, ws := range open {
			w.cost.requests++
			if err := ws.Ping(); err != nil {
				w.cost.failed++
				w.t.Errorf("connection %d: %v", i, err)
			}
		}
	}
	defer func() {
		for _, ws := range open {
			ws.Close()
		}
	}()
	dial(30)
	for i := range 4 {
		if i > 0 && each {
			dial(10)
		}
		w.edit("", "msg=reloaded")
		alive()
	}
}

// threads are the folders in /proc of a process's threads.
func (w *world) threads(pid int) []string {
	w.t.Helper()
	dirs, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(dirs) == 0 {
		w.t.Fatalf("threads of %d: %d, %v", pid, len(dirs), err)
	}
	return dirs
}
