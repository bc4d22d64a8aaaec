package kubernetes

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/e2e"
	"github.com/fnlb/fnlb/test/kubetest"
)

// TestPods: a pod serves once it is ready, and no request is lost when it is not any more, is told to end, or is gone; nothing of this is
// a reload.
func TestPods(t *testing.T) {
	t.Parallel()
	c := kubetest.Shared(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		n := in(t, c)
		a := n.pod("a", "app=fn", "role=fn-service")
		n.pod("other", "app=other")
		starting := n.starting("starting", "app=fn", "role=fn-service")
		b := n.start(h, "-label-selector=app=fn,role=fn-service")
		b.WaitOnline(a.Node)

		starting.ready(true)
		later := n.pod("later", "app=fn", "role=fn-service")
		b.WaitOnline(nodes(a, starting, later)...)
		b.WaitApplied()
		before := reloads(b)
		stopLoad := e2e.Load(t, b.Traffic, e2e.Clients(20*time.Millisecond))
		later.ready(false)
		b.WaitOnline(nodes(a, starting)...)
		starting.terminate()
		b.WaitOnline(nodes(a)...)
		later.ready(true)
		b.WaitOnline(nodes(a, later)...)
		starting.remove()
		a.remove()
		b.WaitOnline(nodes(later)...)
		b.WaitApplied()
		starting.Close()
		a.Close()
		if r := stopLoad(); r.Failed > 0 || r.Requests == 0 {
			t.Error(r)
		}
		if got := reloads(b); got != before {
			t.Errorf("%d reloads", got-before)
		}
		source(b)
	})
}

// TestManual: with pods alone nodes are no one's to add, in the words of the original; with nodes beside them they are.
func TestManual(t *testing.T) {
	t.Parallel()
	c := kubetest.Shared(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		n := in(t, c)
		p := n.pod("p")
		flagged := e2e.NewNode(t, "flagged")
		b := n.start(h, "--nodes", flagged.Addr)
		b.WaitLog(0, "--nodes is ignored")
		b.WaitOnline(p.Node)
		for method, word := range map[string]string{http.MethodPut: "addition", http.MethodDelete: "deletion"} {
			status, body := call(t, b, method, p.Addr)
			want := fmt.Sprintf("{\"msg\":\"kubernetes driver does not support manual %s of targets\"}\n", word)
			if status != http.StatusConflict || body != want {
				t.Errorf("%s: %d %s", method, status, body)
			}
		}
		stop(b)

		b = n.start(h, "--driver=kubernetes,nodes", "--nodes", flagged.Addr)
		b.WaitOnline(p.Node, flagged)
		added := e2e.NewNode(t, "added")
		b.Put(added.Addr)
		b.WaitOnline(p.Node, flagged, added)
		b.Delete(flagged.Addr)
		b.WaitOnline(p.Node, added)
	})
}

func call(t *testing.T, b *e2e.Balancer, method, node string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+b.Mgmt+"/1/lb/nodes", strings.NewReader(fmt.Sprintf(`{"node":%q}`, node)))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	return resp.StatusCode, string(data)
}
