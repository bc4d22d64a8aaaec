package chaos

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/e2e"
)

// Faults that a balancer has from its start on: each has one of its own.

// confined starts a balancer behind another command.
func confined(t *testing.T, h haproxytest.HAProxy, r *rand.Rand, behind []string) *world {
	t.Helper()
	w := prepare(t, h, r, e2e.TempDir(t))
	w.b.Behind = behind
	w.b.Run(h, w.args...)
	w.begin()
	return w
}

// fewFiles is not much more than the least with which HAProxy starts: with the limit at that, each further server would be one too many for a
// reload, because HAProxy never makes its maxconn less than 100.
func fewFiles(t *testing.T, h haproxytest.HAProxy, r *rand.Rand) *world {
	t.Helper()
	return confined(t, h, r, e2e.Shell("ulimit -n 300"))
}

func smallMemory(t *testing.T, h haproxytest.HAProxy, r *rand.Rand) *world {
	t.Helper()
	g := e2e.NewMemoryGroup(t, 64)
	w := confined(t, h, r, g.Behind())
	w.memory = g
	return w
}

// uploads fill HAProxy's buffers while it works.
func uploads(w *world) {
	leave := e2e.Crowd(w.b.Traffic, 300)
	defer leave()
	work(w)
	w.settle()
	if kills := w.memory.Kills(); kills > 0 {
		w.t.Errorf("the kernel killed %d times for want of memory", kills)
	}
}

func firstProcess(t *testing.T, h haproxytest.HAProxy, r *rand.Rand) *world {
	t.Helper()
	w := prepare(t, h, r, e2e.TempDir(t))
	var init []string
	if r.IntN(2) == 0 {
		init = []string{"tini", "--"}
	}
	w.first = e2e.StartFirst(t, h, init, w.args...)
	w.b = w.first.Balancer
	w.begin()
	return w
}

// orphans leaves processes to process 1, which must reap them, and asks for what a day asks for.
func orphans(w *world) {
	for range 10 {
		out, err := exec.Command("nsenter", "-t", strconv.Itoa(w.first.Init), "-p", "sh", "-c", "sleep 0.05 & exit 0").CombinedOutput()
		if err != nil {
			w.t.Fatalf("%v: %s", err, out)
		}
	}
	work(w)
	w.first.NoZombies()
}

// longStop ends fnlb while a request runs, which must be answered. A second stands for the half minute that people have.
func longStop(w *world) {
	hung := w.nodes[0].Hang()
	for _, n := range w.nodes {
		n.Handler.Store(w.nodes[0].Handler.Load())
	}
	answer := hung.Ask(w.b.Traffic)
	w.tell(syscall.SIGTERM)
	w.b.WaitClosed()
	time.Sleep(time.Second) // the length is the fault
	close(hung.Release)
	w.cost.requests++
	if got := <-answer; got != "done" {
		w.cost.failed++
		w.t.Errorf("the request that ran got %q", got)
	}
	w.ended()
}

// named starts a balancer with nodes that have names, and a DNS server that does not answer yet.
func named(t *testing.T, h haproxytest.HAProxy, r *rand.Rand) *world {
	t.Helper()
	w := prepare(t, h, r, e2e.TempDir(t))
	w.dns = e2e.NewNameServer(t, fmt.Sprintf("127.78.%d.%d", rand.IntN(250), 1+rand.IntN(250))) // not of the seed: others may run beside this one
	first := w.node("127.0.0.1", "127.0.0.1:0")
	_, port, err := net.SplitHostPort(first.Addr)
	if err != nil {
		t.Fatal(err)
	}
	w.nodes = append(w.nodes[:pooled:pooled], first, w.node("127.0.0.2", "127.0.0.2:"+port), w.node("127.0.0.3", "127.0.0.3:"+port))
	for _, name := range []string{"moves", "kept", "slow", "absent"} {
		w.args[1] += fmt.Sprintf(",%s.chaos.test:%s", name, port)
	}
	w.b.Behind, w.b.Env = w.dns.Behind(), []string{"GODEBUG=netdns=go"}
	w.b.Run(h, w.args...)
	w.begin()
	return w
}

// names is what DNS does to them; all that was served goes on being served.
func names(w *world) {
	set := func(name string, z e2e.Zone) { w.dns.Set(name+".chaos.test", z) }
	asked := func(name string) {
		w.t.Helper()
		w.b.Eventually(func() string {
			if w.dns.Asked(name+".chaos.test") == 0 {
				return "DNS is not asked for " + name
			}
			return ""
		})
	}
	old, moved, slow := w.nodes[pooled], w.nodes[pooled+1], w.nodes[pooled+2]
	ip := func(n *e2e.Node) string { return strings.Split(n.Addr, ":")[0] }
	set("moves", e2e.Zone{IP: ip(old)})
	set("kept", e2e.Zone{IP: ip(old)})
	set("slow", e2e.Zone{IP: ip(slow), Delay: time.Second})
	w.dns.Start() // and it does not know the one that is absent
	w.in[old], w.in[slow] = true, true
	w.settle()
	set("moves", e2e.Zone{IP: ip(moved)})
	set("kept", e2e.ServerFailure)
	w.in[moved] = true
	asked("kept")
	set("kept", e2e.NoSuchName)
	asked("kept")
}
