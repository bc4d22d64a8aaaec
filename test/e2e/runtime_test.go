package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/model"
)

// TestAtRuntime: nodes come and go in one and the same worker; a removed node gets no new request, what runs there finishes, and no
// request is lost. FNLB_E2E_FULL=1 does it more often.
func TestAtRuntime(t *testing.T) {
	rounds := 8
	if os.Getenv("FNLB_E2E_FULL") != "" {
		rounds = 50
	}
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := append(three(t), NewNode(t, "d"))
		b := Start(t, h, "--nodes", list(n[:3]...))
		b.WaitOnline(n[:3]...)
		worker := b.WaitApplied().HAProxy.Worker
		underLoad(t, b.Traffic, func() {
			for range rounds {
				b.Put(n[3].Addr)
				b.WaitOnline(n...)
				b.Delete(n[3].Addr)
				b.WaitOnline(n[:3]...)
				b.WaitApplied()
			}
		})
		b.Put(n[3].Addr)
		b.WaitOnline(n...)
		stuck := occupy(t, b, n[3])
		b.Delete(n[3].Addr)
		b.WaitLog(0, "changed at run time", "server-removed nodes/"+n[3].Addr)
		b.WaitApplied()
		for i := range 200 {
			if status, node, _ := fetch(t, b.Traffic, fmt.Sprintf("/after/%d", i)); status != http.StatusOK || node == "d" {
				t.Fatalf("request %d: %d from %q", i, status, node)
			}
		}
		stuck.finish()
		st := b.Status()
		if st.HAProxy.Worker != worker || b.reloads() != 0 {
			t.Errorf("worker %d where %d was, %d reloads", st.HAProxy.Worker, worker, b.reloads())
		}
	})
}

// TestDrainTimeout: what runs at a removed node is cut when --drain-timeout is over, and not before.
func TestDrainTimeout(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		b := Start(t, h, "--nodes", list(n...), "--drain-timeout", "1s")
		b.WaitOnline(n...)
		b.WaitApplied()
		stuck := occupy(t, b, n[2])
		mark, begin := len(b.Log()), time.Now()
		b.Delete(n[2].Addr)
		b.WaitLog(mark, "a server that left still had connections, they are cut", "nodes/"+n[2].Addr, "after=1s")
		if took := time.Since(begin); took < time.Second {
			t.Errorf("cut after %s", took)
		}
		stuck.cut()
		if b.reloads() != 0 {
			t.Errorf("%d reloads", b.reloads())
		}
	})
}

// TestLeftAndBack: a node that cannot be deleted yet comes back together with a reload. It serves; the maintenance in which it left
// belongs to the worker before.
func TestLeftAndBack(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := append(three(t), NewNode(t, "d"))
		tmpl := filepath.Join(TempDir(t), "haproxy.tmpl")
		touchTemplate(t, tmpl, 0)
		b := Start(t, h, "--nodes", list(n...), "--template", tmpl)
		b.WaitOnline(n...)
		b.WaitApplied()
		stuck := occupy(t, b, n[3])
		for i := range 3 {
			b.Delete(n[3].Addr)
			b.WaitOnline(n[:3]...)
			b.WaitApplied()
			b.brake(http.MethodPut, "/1/lb/freeze", `{"reason":"a test"}`) // so that both come in one apply
			touchTemplate(t, tmpl, i+1, fmt.Sprintf("backend other%d", i))
			b.Signal(syscall.SIGHUP)
			b.Put(n[3].Addr)
			b.WaitStatus(func(st model.Status) bool { return st.Wanted > st.Applied && len(st.Servers) == 4 })
			mark := len(b.Log())
			b.brake(http.MethodDelete, "/1/lb/freeze", "")
			b.WaitLog(mark, "msg=reloaded")
			b.WaitOnline(n...)
		}
		stuck.finish()
	})
}

// TestBackWithAnotherWeight: a node that cannot be deleted yet comes back with another weight, which takes no reload.
func TestBackWithAnotherWeight(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		b := Start(t, h, "--nodes", list(n...))
		b.WaitOnline(n...)
		b.WaitApplied()
		b.wish(n[2], `"weight":7`)
		b.WaitApplied()
		stuck := occupy(t, b, n[2])
		for _, weight := range []int{1, 9, 1} {
			b.Delete(n[2].Addr)
			b.WaitOnline(n[:2]...)
			b.WaitApplied()
			b.wish(n[2], fmt.Sprintf(`"weight":%d`, weight))
			b.WaitOnline(n...)
			b.waitConverged(filepath.Join(b.Dir, "private", "master.sock"), wanted{n[0].Addr: 1, n[1].Addr: 1, n[2].Addr: weight})
		}
		stuck.finish()
		if b.reloads() != 0 {
			t.Errorf("%d reloads: %+v", b.reloads(), b.changes())
		}
	})
}

// TestLeftBehind: a node that could not be deleted yet when fnlb was killed is deleted by the next one, and may come back before.
func TestLeftBehind(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := append(three(t), NewNode(t, "d"))
		b := Start(t, h, "--nodes", list(n[:3]...))
		b.WaitOnline(n[:3]...)
		b.Put(n[3].Addr)
		b.WaitOnline(n...)
		stuck := occupy(t, b, n[3])
		b.Delete(n[3].Addr)
		b.WaitLog(0, "changed at run time", "server-removed nodes/"+n[3].Addr)
		b.WaitApplied()
		b.waitKept(n[3].Addr, false)
		b.Signal(syscall.SIGKILL)
		b.WaitExit()
		mark := len(b.Log())
		b.Run(h, "--nodes", list(n[:3]...))
		b.WaitLog(mark, "adopted the HAProxy", "reload=false")
		stuck.finish()
		client := runtime.New(filepath.Join(b.Dir, "private", "master.sock"))
		b.Eventually(func() string {
			_, worker, _, err := client.Serving(t.Context())
			if err != nil {
				return err.Error()
			}
			_, rows, err := client.ServersState(t.Context(), worker)
			if err != nil || len(rows) != 3 {
				return fmt.Sprintf("%+v %v", rows, err)
			}
			return ""
		})
		b.Put(n[3].Addr)
		b.WaitOnline(n...)
		if b.reloads() != 0 {
			t.Errorf("%d reloads", b.reloads())
		}
	})
}

// busy is a client whose request a node does not answer before finish.
type busy struct {
	t       *testing.T
	conn    net.Conn
	release func()
}

// occupy sends requests until one arrives at the node, which then waits.
func occupy(t *testing.T, b *Balancer, n *Node) *busy {
	t.Helper()
	arrived, release := make(chan struct{}), make(chan struct{})
	wait := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Wait") != "" {
			close(arrived)
			<-release
		}
	})
	n.Handler.Store(&wait)
	path := ""
	for i := 0; path == ""; i++ {
		p := fmt.Sprintf("/occupy/%d", i)
		if _, node, _ := fetch(t, b.Traffic, p); node == n.Name {
			path = p
		}
	}
	conn, err := net.Dial("tcp", b.Traffic)
	if err != nil {
		t.Fatal(err)
	}
	free := sync.OnceFunc(func() { close(release) })
	t.Cleanup(free)
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nX-Wait: y\r\nConnection: close\r\n\r\n", path); err != nil {
		t.Fatal(err)
	}
	select {
	case <-arrived:
	case <-time.After(Patience):
		t.Fatal("the request does not arrive")
	}
	return &busy{t, conn, free}
}

// finish lets the node answer; the client must get that answer.
func (c *busy) finish() {
	c.t.Helper()
	c.release()
	resp, err := http.ReadResponse(bufio.NewReader(c.conn), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		c.t.Errorf("the request that ran: %v, %v", resp, err)
	}
	_ = c.conn.Close()
}

// cut expects that the request ends while its node says nothing: without an answer, or with that of another node, to which HAProxy has sent
// it again.
func (c *busy) cut() {
	c.t.Helper()
	if err := c.conn.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		c.t.Fatal(err)
	}
	if _, err := io.ReadAll(c.conn); errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Error("the request that ran was not cut")
	}
	c.release()
	_ = c.conn.Close()
}
