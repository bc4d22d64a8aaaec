package kubernetes

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/e2e"
	"github.com/fnlb/fnlb/test/kubetest"
)

// TestCut: while the API server cannot be reached traffic goes on with the last truth, that is told, readyz stays 200, and what changed
// meanwhile is there afterwards.
func TestCut(t *testing.T) {
	t.Parallel()
	c := kubetest.Shared(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		n := in(t, c)
		a, gone := n.pod("a"), n.pod("gone")
		b := n.start(h)
		b.WaitOnline(nodes(a, gone)...)
		stopLoad := e2e.Load(t, b.Traffic, e2e.Clients(20*time.Millisecond))
		mark := len(b.Log())

		n.proxy.Refuse(true)
		n.proxy.Cut()
		source(b, "pods in namespace")
		var ready struct {
			Ready    bool
			Degraded []string
		}
		if err := b.Get("/1/lb/readyz", &ready); err != nil || !ready.Ready || !strings.Contains(strings.Join(ready.Degraded, " "), "source kubernetes") {
			t.Errorf("%+v, %v", ready, err)
		}
		later := n.pod("later")
		gone.remove()
		b.WaitOnline(nodes(a, gone)...)
		n.proxy.Refuse(false)
		b.WaitOnline(nodes(a, later)...)
		source(b)

		// Streams that end again and again, and the balancer started again while nobody answers.
		for range 5 {
			n.proxy.Cut()
		}
		n.proxy.Refuse(true)
		n.proxy.Cut()
		b.Eventually(func() string { // what is kept is written beside what is done
			kept, err := os.ReadFile(filepath.Join(b.Dir, "sources", "kubernetes.json"))
			if err != nil || strings.Contains(string(kept), gone.ip) || !strings.Contains(string(kept), later.ip) {
				return fmt.Sprintf("kept is %s, %v", kept, err)
			}
			return ""
		})
		b.Signal(syscall.SIGKILL)
		b.WaitExit()
		n.run(b, h)
		source(b, "pods in namespace")
		b.WaitOnline(nodes(a, later)...)
		n.proxy.Refuse(false)
		last := n.pod("last")
		b.WaitOnline(nodes(a, later, last)...)
		if r := stopLoad(); r.Failed > 0 || r.Requests == 0 {
			t.Error(r)
		}
		if log := b.Log()[mark:]; strings.Count(log, "level=ERROR") > 0 || strings.Count(log, "source is down") > 10 {
			t.Errorf("the log tells too much:\n%s", log)
		}
	})
}

// TestFirst: a cluster that is away at the start, then one that refuses the token, is followed once it answers.
func TestFirst(t *testing.T) {
	t.Parallel()
	c := kubetest.Shared(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		n := in(t, c)
		a := n.pod("a")
		token := write(t, "token", "nobody-has-given-this-token")
		n.proxy.Refuse(true)
		b := e2e.New(t, e2e.TempDir(t))
		b.Run(h, "--driver=kubernetes", "--kubeconfig", c.Kubeconfig(t, n.proxy.Addr, n.name, "", token), "--target-port", fmt.Sprint(n.port))
		b.Eventually(func() string { return text(b.Get("/1/lb/readyz", nil)) })
		source(b, "list pods in namespace "+n.name)
		n.proxy.Refuse(false)
		source(b, "does not take our token")
		if log := b.Log(); strings.Contains(log, "nobody-has-given") {
			t.Errorf("the token is in the log:\n%s", log)
		}
		if err := os.WriteFile(token, []byte(n.token), 0o600); err != nil {
			t.Fatal(err)
		}
		b.WaitOnline(a.Node)
		source(b)
	})
}

// TestRights: which right is missing is said, the pods are listed again and again while they may not be watched, and rights that come are used.
func TestRights(t *testing.T) {
	t.Parallel()
	c := kubetest.Shared(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		n := in(t, c)
		a := n.pod("a")
		n.grant()
		b := n.start(h)
		source(b, "the right to list pods is missing", "system:serviceaccount:"+n.name+":fnlb", "(403)", "Role")
		n.grant("watch")
		source(b, "the right to list pods is missing")
		n.grant("list")
		source(b, "the right to watch pods is missing")
		b.WaitOnline(a.Node)
		later := n.pod("later")
		b.WaitOnline(nodes(a, later)...)
		source(b, "the right to watch pods is missing")
		n.grant("list", "watch")
		source(b)
	})
}

// TestGone: an API server that is killed and one that has forgotten the revision of our watch cost nothing; nor does one that has lost
// all pods, until that is confirmed.
func TestGone(t *testing.T) {
	t.Parallel()
	c := kubetest.New(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := in(t, c)
		var pods []*pod
		for i := range 5 {
			pods = append(pods, n.pod(fmt.Sprintf("p%d", i)))
		}
		b := n.start(h)
		b.WaitOnline(nodes(pods...)...)
		stopLoad := e2e.Load(t, b.Traffic, e2e.Clients(20*time.Millisecond))

		// 410: what changed since our revision is compacted away, and the API server's own memory of it is gone.
		n.proxy.Refuse(true)
		n.proxy.Cut()
		source(b, "pods in namespace")
		pods[0].remove()
		pods = append(pods[1:], n.pod("later"))
		for i := range 3 {
			pods[0].ready(i%2 == 1)
		}
		pods[0].ready(true)
		c.Compact(t)
		c.KillAPI(t)
		c.StartAPI(t)
		n.proxy.Refuse(false)
		b.WaitOnline(nodes(pods...)...)
		source(b)

		// Stopped, as by a host that swaps: nothing ends, nothing is lost.
		c.SignalAPI(t, syscall.SIGSTOP)
		if r := stopLoad(); r.Failed > 0 || r.Requests == 0 {
			t.Error(r)
		}
		stopLoad = e2e.Load(t, b.Traffic, e2e.Clients(20*time.Millisecond))
		c.SignalAPI(t, syscall.SIGCONT)
		pods[1].ready(false)
		b.WaitOnline(nodes(append(pods[:1:1], pods[2:]...)...)...)
		pods[1].ready(true)
		b.WaitOnline(nodes(pods...)...)

		// All pods are lost, and nobody has deleted one.
		n.proxy.Refuse(true)
		n.proxy.Cut()
		source(b, "pods in namespace")
		c.KillAPI(t)
		c.Wipe(t, "/registry/pods/"+n.name+"/")
		c.Compact(t)
		c.StartAPI(t)
		mark := len(b.Log())
		n.proxy.Refuse(false)
		b.WaitLog(mark, "lists much less", "0 of 5")
		if r := stopLoad(); r.Failed > 0 || r.Requests == 0 {
			t.Error(r)
		}
		b.WaitOnline()
		stop(b)
	})
}

// TestInPod: in a pod cluster, namespace and token are found without a flag, by the arguments of the original's sample; the token is
// read again.
func TestInPod(t *testing.T) {
	t.Parallel()
	c := kubetest.Shared(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		n := in(t, c)
		n.port = 8080 // the default of --target-port: the addresses are no other test's
		a := n.pod("a", "app=fn", "role=fn-service")
		n.pod("lb", "app=fn", "role=fn-lb")
		account := t.TempDir()
		for name, text := range map[string]string{"token": n.token, "ca.crt": string(c.CA), "namespace": n.name} {
			if err := os.WriteFile(filepath.Join(account, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		b := e2e.New(t, e2e.TempDir(t))
		// A mount namespace of its own, as a container has: /run is empty but for the service account.
		b.Behind = append([]string{"unshare", "--mount", "--propagation", "private"},
			e2e.Shell("mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io && ln -s "+account+" /run/secrets/kubernetes.io/serviceaccount && test -d /var/run/secrets/kubernetes.io")...)
		host, port, _ := strings.Cut(n.proxy.Addr, ":")
		b.Env = []string{"KUBERNETES_SERVICE_HOST=" + host, "KUBERNETES_SERVICE_PORT=" + port, "LOG_LEVEL=debug"}
		b.Run(h, "-driver=kubernetes", "-label-selector=app=fn,role=fn-service")
		b.WaitOnline(a.Node)
		n.proxy.Refuse(true)
		n.proxy.Cut()
		source(b, "pods in namespace")
		n.proxy.Refuse(false)
		source(b)
	})
}

// TestSample: the sample's arguments as they stand, with one port for traffic and management, which the container has for itself.
func TestSample(t *testing.T) {
	t.Parallel()
	c := kubetest.Shared(t)
	n := in(t, c)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		ports := haproxytest.FreePorts(t, 1)
		b := &e2e.Balancer{T: t, Dir: e2e.TempDir(t), Traffic: fmt.Sprintf("127.0.0.1:%d", ports[0])}
		b.Mgmt = b.Traffic
		p := n.pod("p-"+strings.ReplaceAll(h.Version, ".", "-"), "app=fn", "role=fn-service-"+h.Version)
		b.Run(h, "-driver=kubernetes", "-label-selector=app=fn,role=fn-service-"+h.Version, "-listen="+b.Traffic, "-mgmt-listen="+b.Traffic,
			"-kubeconfig="+n.kubeconfig(), "-target-port="+fmt.Sprint(n.port))
		b.WaitOnline(p.Node)
		if status, _ := call(t, b, http.MethodPut, p.Addr); status != http.StatusConflict {
			t.Errorf("PUT on the shared port: %d", status)
		}
		stop(b)
		if _, err := os.Stat(filepath.Join(b.Dir, "sources", "kubernetes.json")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what was kept stays after a clean stop: %v", err)
		}
	})
}

// TestStalled: an API server that is silent without closing anything is noticed, by client-go's pings, and followed again when it answers.
func TestStalled(t *testing.T) {
	t.Parallel()
	c := kubetest.Shared(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		if h.Version != "3.0" { // it takes a minute, and HAProxy has no part in it
			return
		}
		n := in(t, c)
		a := n.pod("a")
		b := n.start(h)
		b.WaitOnline(a.Node)
		mark := len(b.Log())
		n.proxy.Stall()
		later := n.pod("later")
		for end := time.Now().Add(10 * e2e.Patience); !strings.Contains(b.Log()[mark:], "source is down"); {
			if time.Now().After(end) {
				t.Fatalf("nobody notices; the log has %s", b.Log()[mark:])
			}
			select {
			case <-b.Exited():
				t.Fatal("fnlb has ended")
			case <-time.After(100 * time.Millisecond):
			}
		}
		b.WaitOnline(a.Node)
		n.proxy.Resume()
		b.WaitOnline(nodes(a, later)...)
		source(b)
	})
}
