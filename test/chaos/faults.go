package chaos

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/test/e2e"
)

// fault is one thing that goes wrong. Its rows are those of the list of faults in ARCHITECTURE.md; 0 is a day's work.
type fault struct {
	row   int
	name  string
	kills bool // HAProxy itself is killed: requests fail until it serves again, and that time is measured
	gets  bool // only requests that may be sent again are counted: a node dies with requests in its hands
	cause func(w *world)

	world func(t *testing.T, h haproxytest.HAProxy, r *rand.Rand) *world // makes a balancer for this fault alone; nil: the one of all others
	stop  func(w *world)                                                 // ends that one; nil: as ever
}

// faults are provoked in an order that the seed gives.
var faults = []fault{
	{name: "nodes come and go, with weights and states", cause: func(w *world) {
		for range 2 + w.r.IntN(4) {
			if w.r.IntN(2) == 0 {
				w.change()
			} else {
				w.ask()
			}
		}
	}},
	{name: "a new template", cause: func(w *world) {
		w.edit("", "msg=reloaded")
	}},
	{row: 1, name: "hostile nodes", cause: hostileNodes},
	{row: 2, name: "a node that HAProxy refuses the text for, among others", cause: badNode},
	{row: 3, name: "a broken template, then a good one", cause: func(w *world) {
		w.edit([]string{"{{.Nope", "{{range .Services}}", "backend x\n  bogus 1", "{{.Absent.Field}}"}[w.r.IntN(4)], "what ran goes on")
		w.edit("", "msg=reloaded")
	}},
	{row: 4, name: "the port of a new listener is taken", cause: takenPort},
	{row: 6, name: "haproxy.cfg truncated, changed or deleted", cause: func(w *world) {
		w.damage(w.b.Config)
	}},
	{row: 6, name: "own.cfg truncated, changed or deleted", cause: func(w *world) {
		w.damage(filepath.Join(w.b.Dir, "own.cfg"))
	}},
	{row: 7, name: "no byte left on a disk, and a change", cause: fullDisk},
	{row: 7, name: "a folder read-only, and a change", cause: readOnly},
	{row: 7, name: "every fsync an I/O error (EIO), and a change", cause: failingDisk},
	{row: 8, name: "fnlb killed while it applies", cause: func(w *world) {
		w.change()
		time.Sleep(time.Duration(w.r.IntN(120)) * time.Millisecond) // anywhere in the apply: that is the point
		w.restart()
	}},
	{row: 9, name: "HAProxy's worker killed", kills: true, cause: func(w *world) {
		w.signal(w.b.Status().HAProxy.Worker, syscall.SIGKILL)
	}},
	{row: 9, name: "HAProxy's master killed", kills: true, cause: func(w *world) {
		w.signal(w.b.Status().HAProxy.Master, syscall.SIGKILL)
	}},
	{row: 10, name: "fnlb killed", cause: (*world).restart},
	{row: 11, name: "HAProxy's worker stopped, and a change", cause: func(w *world) {
		w.signal(w.b.Status().HAProxy.Worker, syscall.SIGSTOP)
		w.change()
	}},
	{row: 11, name: "HAProxy's master stopped, and a change", cause: func(w *world) {
		w.signal(w.b.Status().HAProxy.Master, syscall.SIGSTOP)
		w.change()
	}},
	{row: 13, name: "a change during a reload", cause: func(w *world) {
		w.edit("", "")
		for range 3 {
			w.change()
		}
		w.b.WaitLog(w.mark, "msg=reloaded")
	}},
	{row: 13, name: "somebody else makes HAProxy reload", cause: func(w *world) {
		mark := len(w.b.Log())
		w.signal(w.b.Status().HAProxy.Master, syscall.SIGUSR2)
		w.b.WaitLog(mark, "somebody else made HAProxy reload")
	}},
	{row: 14, name: "WebSockets open over reloads", cause: webSockets},
	{row: 16, name: "fnlb may open no more files, and a change", cause: noMoreFiles},
	{row: 16, name: "300 open files for all, changes and a reload", world: fewFiles, cause: work},
	{row: 16, name: "64 MiB for all, 300 uploads, changes and a reload", world: smallMemory, cause: uploads},
	{row: 16, name: "HAProxy's worker killed for want of memory", kills: true, cause: outOfMemory},
	{row: 17, name: "fnlb killed, its notes name a stranger", cause: strangerNoted},
	{row: 18, name: "as process 1 or below tini: orphans, signals, a stop with a long request", world: firstProcess, cause: orphans, stop: longStop},
	{row: 24, name: "300 nodes that never pass, there and gone", cause: flood},
	{row: 25, name: "200 slow clients of management", cause: slowClients},
	{row: 26, name: "names: no DNS, a slow answer, another one, SERVFAIL, none", world: named, cause: names},
	{row: 29, name: "nobody reads fnlb's log", cause: stalledLog},
	{row: 29, name: "the reader of fnlb's log gone, then fnlb killed", cause: closedLog},
	{row: 29, name: "the disk of haproxy.cfg does not answer", cause: hungDisk},
	{row: 29, name: "one core for fnlb and HAProxy, changes and a reload", cause: oneCore},
	{row: 30, name: "a node's check flaps", cause: flap},
	{name: "frozen over a change, fnlb's death and a thaw", cause: func(w *world) {
		w.brake("PUT", "/1/lb/freeze", `{"reason":"chaos"}`)
		w.change()
		w.restart()
		w.until(func(st model.Status) bool { return st.Frozen != nil && st.Phase == model.Serving })
		w.brake("DELETE", "/1/lb/freeze", "")
	}},
	{name: "rolled back, then forward again", cause: func(w *world) {
		w.edit("", "msg=reloaded") // so that there is something to go back to
		w.brake("POST", "/1/lb/rollback", "")
		mark := len(w.b.Log())
		w.brake("DELETE", "/1/lb/freeze", "")
		w.b.WaitLog(mark, "msg=reloaded")
	}},
	{name: "a node dies and comes back", gets: true, cause: func(w *world) {
		i := w.r.IntN(pooled)
		n := w.nodes[i]
		mark := len(w.b.Log())
		n.Close()
		w.b.WaitLog(mark, "is unhealthy", n.Addr)
		back := w.node(n.Name, n.Addr)
		delete(w.in, n)
		w.nodes[i], w.in[back] = back, true
	}},
}

// edit changes the template and waits for what the log then says; with "" the caller waits, because nothing else tells that a template
// is in force.
func (w *world) edit(more, said string) {
	w.t.Helper()
	mark := len(w.b.Log())
	w.template(more)
	w.tell(syscall.SIGHUP)
	if said != "" {
		w.b.WaitLog(mark, said)
	}
}

// restart kills fnlb and starts it again. Without a database, what the API changed in the last tenth of a second may be forgotten: that
// change, and no other, may be undone.
func (w *world) restart() {
	w.t.Helper()
	w.b.Signal(syscall.SIGKILL)
	w.b.WaitExit()
	w.b.Run(w.h, w.args...)
	if w.last == nil {
		return
	}
	var list struct {
		Nodes []struct {
			Node, State string
			Weight      int
		}
	}
	w.b.Eventually(func() string {
		if err := w.b.Get("/1/lb/nodes?full=1", &list); err != nil {
			return err.Error()
		}
		return ""
	})
	w.in[w.last] = false
	delete(w.wishes, w.last)
	for _, row := range list.Nodes {
		if row.Node == w.last.Addr {
			w.in[w.last], w.wishes[w.last] = true, wish{row.Weight, row.State}
		}
	}
}

// brake orders a freeze and the like.
func (w *world) brake(method, path, body string) {
	w.t.Helper()
	w.until(func(st model.Status) bool { return st.Phase == model.Serving })
	status, err := send(&client, w.b.Mgmt, method, path, body)
	if err != nil || status != http.StatusOK {
		w.t.Fatalf("%s %s: status %d %v", method, path, status, err)
	}
}

// badNode adds a node that passes its check and for which the template makes a text that HAProxy refuses.
func badNode(w *world) {
	bad := e2e.NewNode(w.t, "bad")
	_, port, err := net.SplitHostPort(bad.Addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.edit(fmt.Sprintf("{{range .Pools}}{{range .Servers}}{{if eq .Port %s}}backend bad\n  bogus 1{{end}}{{end}}{{end}}", port), "msg=reloaded")
	mark := len(w.b.Log())
	w.b.Put(bad.Addr)
	w.change()
	w.b.WaitLog(mark, "left out", bad.Addr)
	w.b.Delete(bad.Addr)
	w.edit("", "msg=reloaded")
	bad.Close()
}

// damage does to a file what people and programs do.
func (w *world) damage(path string) {
	w.t.Helper()
	var err error
	switch w.r.IntN(3) {
	case 0:
		err = os.Truncate(path, 20)
	case 1:
		err = os.WriteFile(path, []byte("global\n"), 0o640)
	default:
		err = os.Remove(path)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.b.WaitLog(w.mark, "somebody changed files of ours")
}

// strangerNoted starts fnlb with a pid file and notes that name a process of somebody else's: this test.
func strangerNoted(w *world) {
	w.b.Signal(syscall.SIGKILL)
	w.b.WaitExit()
	noted := filepath.Join(w.b.Dir, "applied.json")
	text, err := os.ReadFile(noted)
	if err != nil {
		w.t.Fatal(err)
	}
	stranger := regexp.MustCompile(`"(master|worker)_pid": \d+`).ReplaceAll(text, []byte(fmt.Sprintf(`"${1}_pid": %d`, os.Getpid())))
	w.write(noted, string(stranger))
	w.write(filepath.Join(w.b.Dir, "fnlb.pid"), fmt.Sprintln(os.Getpid()))
	w.b.Run(w.h, w.args...)
}

func hostileNodes(w *world) {
	for _, bad := range []string{"", "h", "h:0", "h:70000", "a b:1", "http://h:1", "h:1\nglobal", `h":1`, "h:1 # x", "$HOME:1", "unix@/x", "169.254.169.254:80", w.b.Traffic} {
		status, err := put(w.b.Mgmt, bad)
		if err != nil || status < 400 || status > 499 {
			w.t.Errorf("node %q: status %d %v", bad, status, err)
		}
	}
}

func takenPort(w *world) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.edit(fmt.Sprintf("frontend taken\n  bind %s\n  timeout client 1s", other.Addr()), "refused")
	if err := other.Close(); err != nil {
		w.t.Error(err)
	}
	w.edit("", "msg=reloaded")
}

func flood(w *world) {
	for _, method := range []string{"PUT", "DELETE"} {
		for i := range 300 {
			if err := call(&client, w.b.Mgmt, method, fmt.Sprintf("127.1.%d.%d:9", i/200, i%200+1)); err != nil {
				w.t.Error(err)
				return
			}
		}
	}
}

func slowClients(w *world) {
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close() // nothing of it matters
		}
	}()
	for i := range 200 {
		c, err := net.Dial("tcp", w.b.Mgmt)
		if err != nil {
			w.t.Fatal(err)
		}
		conns = append(conns, c)
		if _, err := c.Write([]byte([]string{"P", "PUT /1/lb/nodes HTTP/1.1\r\nX: ", "PUT /1/lb/nodes HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"}[i%3])); err != nil {
			w.t.Fatal(err)
		}
	}
	w.change()
	w.settle()
}

// flap makes a node's checks fail and pass in turn; what it answers otherwise stays good.
func flap(w *world) {
	n := w.nodes[w.r.IntN(pooled)]
	good, bad := `{"version":"0.0.300"}`, `{"version":"0.0.1"}`
	for i := range 10 {
		version := &bad
		if i%2 == 1 {
			version = &good
		}
		n.Version.Store(version)
		time.Sleep(100 * time.Millisecond) // the fault is a rhythm
	}
}

// files counts what a process has open.
func files(pid int) (int, error) {
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(open), err
}
