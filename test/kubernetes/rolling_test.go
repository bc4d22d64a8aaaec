package kubernetes

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/e2e"
	"github.com/fnlb/fnlb/test/kubetest"
)

// TestRolling: a rolling update replaces all pods under load, a quarter at a time, and no request fails. As a kubelet does it, a pod is
// marked first, stops after a while in which its preStop would sleep, and its object goes last.
func TestRolling(t *testing.T) {
	t.Parallel()
	c := kubetest.Shared(t)
	pods, batch := 24, 6
	if full() {
		pods, batch = 200, 50
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) { // one after the other, see TestAgreeUnderChurn
		n := in(t, c)
		old := make([]*pod, pods)
		for i := range old {
			old[i] = n.pod(fmt.Sprintf("old-%d", i))
		}
		b := n.start(h)
		b.WaitOnline(nodes(old...)...)
		b.WaitApplied()
		before := reloads(b)
		stopLoad := e2e.Load(t, b.Traffic, append(gentle(), e2e.Clients(100 * time.Millisecond)[3]))
		now := old
		for from := 0; from < pods; from += batch {
			leaving := now[:batch]
			now = now[batch:]
			for i := range batch {
				now = append(now, n.pod(fmt.Sprintf("new-%d", from+i)))
			}
			b.Eventually(func() string { return onlineOf(b, now[len(now)-batch:]) })
			for _, p := range leaving {
				p.terminate()
			}
			b.Eventually(func() string { return offlineOf(b, now) })
			g, _ := errgroup.WithContext(context.Background())
			for _, p := range leaving {
				g.Go(func() error {
					p.Close()
					return n.end(t.Context(), p.name, 0)
				})
			}
			n.must(g.Wait())
		}
		b.Eventually(func() string { return offlineOf(b, now) })
		b.WaitApplied()
		r := stopLoad()
		if r.Failed > 0 || r.Requests == 0 {
			t.Error(r)
		}
		more := reloads(b) - before
		if more != 0 && !(h.Version == "2.6" && more <= 2) { // ids of the ring may collide there
			t.Errorf("%d reloads", more)
		}
		figure(t, "HAProxy %s: rolling update of %d pods, %d at a time: %d requests, %d failed, %d reloads", h.Version, pods, batch, r.Requests, r.Failed, more)
	})
}

// onlineOf says which of the pods are not online.
func onlineOf(b *e2e.Balancer, pods []*pod) string {
	list, err := b.Nodes()
	if err != nil {
		return err.Error()
	}
	for _, p := range pods {
		if list[p.Addr] != "online" {
			return p.Addr + " is not online"
		}
	}
	return ""
}
