package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// TestWebSockets is fault row 14: connections that were open before the first reload outlive every one that follows; with eight old
// workers alive further reloads wait, which is told, while changes at run time go on; they are made when the connections end.
//
// FNLB_E2E_FULL=1 takes 500 connections and 1,000 changes in place of 60 and 200.
func TestWebSockets(t *testing.T) {
	conns, changes := 60, 200
	if os.Getenv("FNLB_E2E_FULL") != "" {
		conns, changes = 500, 1000
	}
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := append(three(t), NewNode(t, "d"))
		talk := http.HandlerFunc(Echo)
		for _, node := range n {
			node.Handler.Store(&talk)
		}
		tmpl := filepath.Join(TempDir(t), "haproxy.tmpl")
		touchTemplate(t, tmpl, 0)
		b := Start(t, h, "--nodes", list(n[:3]...), "--template", tmpl)
		b.WaitOnline(n[:3]...)
		st := b.WaitApplied()
		master := st.HAProxy.Master
		var open []*WebSocket
		defer func() {
			for _, ws := range open {
				ws.Close()
			}
		}()
		dial := func() { open = append(open, DialWebSocket(t, b.Traffic, len(open))) }
		alive := func(when string) {
			t.Helper()
			for i, ws := range open {
				if err := ws.Ping(); err != nil {
					t.Errorf("%s: connection %d: %v", when, i, err)
				}
			}
		}
		for range conns {
			dial()
		}
		before := weigh(t, b, master)
		edits := 0
		change := func() {
			edits++
			touchTemplate(t, tmpl, edits)
			b.Signal(syscall.SIGHUP)
		}
		began, reloads := time.Now(), b.reloads()
		for i := range changes { // as fast as they are taken: what comes during a reload is one further reload
			mark := len(b.Log())
			change()
			if i%10 == 0 {
				b.WaitLog(mark, "msg=reloaded")
			}
			if i%50 == 49 {
				alive(fmt.Sprintf("after %d changes", i+1))
			}
		}
		alive("after all changes")
		t.Logf("%d changes in %s made %d reloads", changes, time.Since(began), b.reloads()-reloads)
		b.WaitStatus(func(st model.Status) bool { return st.HAProxy.OldWorkers == 1 })

		// A connection in each worker from now on, so that none of them ends.
		mark := len(b.Log())
		for b.Status().HAProxy.OldWorkers < 8 {
			dial()
			worker := b.Status().HAProxy.Worker
			change()
			b.WaitStatus(func(st model.Status) bool { return st.HAProxy.Worker != worker || st.HAProxy.OldWorkers == 8 })
		}
		held := b.Status()
		b.Put(n[3].Addr)
		b.WaitOnline(n...)
		for range changes {
			change()
		}
		b.WaitLog(mark, "level=WARN", "changes wait", "old_workers=8")
		b.WaitStatus(func(st model.Status) bool {
			return strings.Contains(fmt.Sprint(st.Degraded), "changes wait while 8 workers") && st.HAProxy.Worker == held.HAProxy.Worker
		})
		alive("while changes wait")
		most := weigh(t, b, master)
		if most.processes > 10 {
			t.Errorf("%d processes of HAProxy", most.processes)
		}
		for _, ws := range open {
			ws.Close()
		}
		open = nil
		b.WaitLog(mark, "changes go on")
		b.WaitOnline(n...)
		b.WaitApplied()
		var after weight
		b.Eventually(func() string {
			if after = weigh(t, b, master); after.processes != 2 {
				return fmt.Sprintf("%d processes of HAProxy are left", after.processes)
			}
			return ""
		})
		b.WaitStatus(func(st model.Status) bool { return len(st.Degraded) == 0 && st.HAProxy.OldWorkers == 0 })
		t.Logf("before %+v, with eight old workers %+v, after %+v", before, most, after)
	})
}

// weight is what fnlb and all processes of HAProxy hold.
type weight struct {
	processes  int // of HAProxy
	haproxy    int // kB
	fnlb, file int // kB; open files of fnlb
}

func weigh(t *testing.T, b *Balancer, master int) weight {
	t.Helper()
	own := costOf(t, b.Cmd.Process.Pid)
	w := weight{fnlb: own.rss, file: own.files}
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has just ended
		}
		_, rest, _ := strings.Cut(string(data), ") ")
		f := strings.Fields(rest)
		if len(f) < 22 || f[2] != strconv.Itoa(master) || f[0] == "Z" {
			continue
		}
		pages, err := strconv.Atoi(f[21])
		if err != nil {
			t.Fatal(err)
		}
		w.processes++
		w.haproxy += pages * os.Getpagesize() / 1024
	}
	return w
}
