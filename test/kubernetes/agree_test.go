package kubernetes

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/e2e"
	"github.com/fnlb/fnlb/test/kubetest"
	"github.com/fnlb/fnlb/test/load"
)

const agreePaths = 2000

// chosen asks a balancer for each path, and gives which pod answered.
func chosen(t *testing.T, b *e2e.Balancer) []string {
	t.Helper()
	conn, err := net.Dial("tcp", b.Traffic)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * e2e.Patience)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	out := make([]string, agreePaths)
	for i := range out {
		if _, err := fmt.Fprintf(conn, "GET /r/app/f%d HTTP/1.1\r\nHost: agree\r\n\r\n", i); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Discard(int(resp.ContentLength)); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("path %d: status %d, %v", i, resp.StatusCode, err)
		}
		out[i] = resp.Header.Get("X-Node")
	}
	return out
}

// agree fails unless two balancers choose the same pod for every path, and use all of them.
func agree(t *testing.T, when string, pods int, a, b *e2e.Balancer) {
	t.Helper()
	of, differ := map[string]int{}, 0
	first, second := chosen(t, a), chosen(t, b)
	for i := range first {
		of[first[i]]++
		if first[i] != second[i] {
			differ++
		}
	}
	if differ > 0 || len(of) != pods {
		t.Errorf("%s: %d of %d paths go to different pods, %d of %d pods are used", when, differ, agreePaths, len(of), pods)
	}
}

// TestAgree: two balancers that share nothing but the cluster choose the same pod for 2,000 paths, after pods have come and gone in another
// order for each, and after either was started again.
func TestAgree(t *testing.T) {
	t.Parallel()
	c := kubetest.Shared(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		n := in(t, c)
		var pods []*pod
		for i := range 8 {
			pods = append(pods, n.pod(fmt.Sprintf("p%d", i)))
		}
		a := n.start(h)
		a.WaitOnline(nodes(pods...)...)
		pods[3].ready(false)
		pods[5].remove()
		pods = append(pods[:5], pods[6:]...)
		a.WaitOnline(nodes(append(pods[:3:3], pods[4:]...)...)...)
		b := n.start(h) // it has never seen what came and went before
		pods[3].ready(true)
		pods = append(pods, n.pod("late"))
		for _, x := range []*e2e.Balancer{a, b} {
			x.WaitOnline(nodes(pods...)...)
			x.WaitApplied()
		}
		agree(t, "after churn", len(pods), a, b)

		// Pods come and go, each balancer killed or stopped in between.
		b.Signal(syscall.SIGKILL)
		b.WaitExit()
		pods[0].terminate()
		pods[0].remove()
		pods = append(pods[1:], n.pod("later"))
		n.run(b, h)
		stop(a)
		n.run(a, h)
		for _, x := range []*e2e.Balancer{a, b} {
			x.WaitOnline(nodes(pods...)...)
			x.WaitApplied()
		}
		agree(t, "after restarts", len(pods), a, b)
	})
}

// TestAgreeUnderChurn: of requests that are sent while a pod comes and goes, those for which both balancers have the same pods go to the same
// one: whenever nothing is under way they agree.
func TestAgreeUnderChurn(t *testing.T) {
	t.Parallel()
	c := kubetest.Shared(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) { // one after the other: the load of all would be the machine's, not theirs
		n := in(t, c)
		var pods []*pod
		for i := range 6 {
			pods = append(pods, n.pod(fmt.Sprintf("p%d", i)))
		}
		a, b := n.start(h), n.start(h)
		a.WaitOnline(nodes(pods...)...)
		b.WaitOnline(nodes(pods...)...)
		stops := []func() load.Result{e2e.Load(t, a.Traffic, gentle()), e2e.Load(t, b.Traffic, gentle())}
		for round := range 3 {
			var left []*pod
			for i, p := range pods {
				p.ready(i != round)
				if i != round {
					left = append(left, p)
				}
			}
			var both sync.WaitGroup
			for _, x := range []*e2e.Balancer{a, b} {
				both.Go(func() { x.Eventually(func() string { return offlineOf(x, left) }) })
			}
			both.Wait()
			agree(t, fmt.Sprintf("round %d", round), len(left), a, b)
		}
		for _, stop := range stops {
			if r := stop(); r.Failed > 0 || r.Requests == 0 {
				t.Error(r)
			}
		}
	})
}

// gentle clients leave the machine to what is tested.
func gentle() []load.Group {
	return []load.Group{{Name: "fresh", Workers: 2, Think: 50 * time.Millisecond}, {Name: "keep-alive", KeepAlive: true, Workers: 4, Think: 50 * time.Millisecond}}
}

// offlineOf says what of the pods is not online, or online beside them.
func offlineOf(b *e2e.Balancer, pods []*pod) string {
	list, err := b.Nodes()
	if err != nil {
		return err.Error()
	}
	for _, p := range pods {
		if list[p.Addr] != "online" {
			return p.Addr + " is not online"
		}
	}
	st := b.Status()
	if len(list) != len(pods) || len(st.Servers) != len(pods) || st.Wanted != st.Applied {
		return fmt.Sprintf("%d are listed, %d in the State, wanted are %d", len(list), len(st.Servers), len(pods))
	}
	return ""
}
