package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store/storetest"
	"github.com/fnlb/fnlb/test/e2e"
	"github.com/fnlb/fnlb/test/kubetest"
)

func TestMain(m *testing.M) {
	code := e2e.Main(m)
	if err := errors.Join(kubetest.StopShared(), removeNetwork()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// namespace is one of a test's own in a cluster, with a service account that may do what our Role allows.
type namespace struct {
	t     *testing.T
	c     *kubetest.Cluster
	name  string
	port  int // of all pods
	token string

	config string           // kubeconfig, once it is written: one that goes on is started with the same
	proxy  *storetest.Proxy // between the balancer and the API server
}

var namespaces, addresses atomic.Int64

// in makes a namespace in a cluster.
func in(t *testing.T, c *kubetest.Cluster) *namespace {
	t.Helper()
	n := &namespace{t: t, c: c, name: fmt.Sprintf("fn-%d", namespaces.Add(1)), port: haproxytest.FreePort(t), proxy: storetest.NewProxy(t, c.Address)}
	named := func(name string) object { return object{"metadata": object{"name": name}} }
	n.must(c.Do(t.Context(), http.MethodPost, "/api/v1/namespaces", jsonType, named(n.name), nil))
	n.must(n.post("/api/v1", "serviceaccounts", named("fnlb"), nil))
	n.grant("list", "watch")
	var token struct{ Status struct{ Token string } }
	n.must(n.post("/api/v1", "serviceaccounts/fnlb/token", object{}, &token))
	n.token = token.Status.Token
	return n
}

type object = map[string]any

const (
	jsonType  = "application/json"
	patchType = "application/strategic-merge-patch+json"
)

func (n *namespace) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *namespace) path(group, resource string) string {
	return group + "/namespaces/" + n.name + "/" + resource
}

func (n *namespace) post(group, resource string, body, v any) error {
	return n.c.Do(n.t.Context(), http.MethodPost, n.path(group, resource), jsonType, body, v)
}

// grant makes the Role that of these verbs.
func (n *namespace) grant(verbs ...string) {
	n.t.Helper()
	const rbac = "/apis/rbac.authorization.k8s.io/v1"
	role := object{"metadata": object{"name": "fnlb"}, "rules": []object{}}
	if len(verbs) > 0 {
		role["rules"] = []object{
			{"apiGroups": []string{""}, "resources": []string{"pods"}, "verbs": verbs},
			{"apiGroups": []string{"discovery.k8s.io"}, "resources": []string{"endpointslices"}, "verbs": verbs},
		}
	}
	err := n.post(rbac, "roles", role, nil)
	var refused *kubetest.Refused
	if errors.As(err, &refused) && refused.Status == http.StatusConflict {
		n.must(n.c.Do(n.t.Context(), http.MethodPut, n.path(rbac, "roles/fnlb"), jsonType, role, nil))
		return
	}
	n.must(err)
	n.must(n.post(rbac, "rolebindings", object{
		"metadata": object{"name": "fnlb"},
		"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "fnlb"},
		"subjects": []object{{"kind": "ServiceAccount", "name": "fnlb", "namespace": n.name}},
	}, nil))
}

// kubeconfig is one that leads through the proxy with the service account's rights.
func (n *namespace) kubeconfig() string {
	n.t.Helper()
	if n.config == "" {
		n.config = n.c.Kubeconfig(n.t, n.proxy.Addr, n.name, n.token, "")
	}
	return n.config
}

// start runs a balancer on the namespace's pods.
func (n *namespace) start(h haproxytest.HAProxy, args ...string) *e2e.Balancer {
	n.t.Helper()
	b := e2e.New(n.t, e2e.TempDir(n.t))
	n.run(b, h, args...)
	return b
}

func (n *namespace) run(b *e2e.Balancer, h haproxytest.HAProxy, args ...string) {
	n.t.Helper()
	all := []string{"--driver=kubernetes", "--kubeconfig", n.kubeconfig(), "--wait", "10ms:250ms"}
	if !slices.Contains(args, "--service") {
		all = append(all, "--target-port", fmt.Sprint(n.port))
	}
	b.Run(h, append(all, args...)...)
	b.Eventually(func() string { return text(b.Get("/1/lb/nodes", nil)) })
}

func text(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

func stop(b *e2e.Balancer) {
	b.T.Helper()
	b.Signal(syscall.SIGTERM)
	if code := b.WaitExit(); code != 0 {
		b.T.Fatalf("fnlb ends with %d", code)
	}
}

// pod is an object in the cluster and the server that it stands for.
type pod struct {
	*e2e.Node

	n    *namespace
	name string
	ip   string
}

// address is a loopback address that no other pod of these tests has.
func address() string {
	i := addresses.Add(1)
	return fmt.Sprintf("127.%d.%d.%d", 64+i/62500%64, i/250%250, i%250+1)
}

// object makes the pod's object, which is not ready.
func (n *namespace) object(ctx context.Context, name, ip string, labels map[string]string) error {
	err := n.c.Do(ctx, http.MethodPost, n.path("/api/v1", "pods"), jsonType, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: corev1.PodSpec{
			NodeName:   "node", // only a pod that runs somewhere has time to end
			Containers: []corev1.Container{{Name: "fn", Image: "fn", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: int32(n.port)}}}},
		},
	}, nil)
	if err != nil {
		return err
	}
	return n.status(ctx, name, ip, false)
}

// status is what a kubelet would say.
func (n *namespace) status(ctx context.Context, name, ip string, ready bool) error {
	is := corev1.ConditionFalse
	if ready {
		is = corev1.ConditionTrue
	}
	return n.c.Do(ctx, http.MethodPatch, n.path("/api/v1", "pods/"+name+"/status"), patchType, object{"status": corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: is}},
	}}, nil)
}

// end deletes the object: with a grace it is only marked, without one it is gone.
func (n *namespace) end(ctx context.Context, name string, grace int) error {
	return n.c.Do(ctx, http.MethodDelete, n.path("/api/v1", "pods/"+name), jsonType, object{"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": grace}, nil)
}

// pod starts a server and makes its object, with labels as KEY=VALUE; it is ready.
func (n *namespace) pod(name string, labels ...string) *pod {
	n.t.Helper()
	p := n.starting(name, labels...)
	p.ready(true)
	return p
}

func (n *namespace) starting(name string, labels ...string) *pod {
	n.t.Helper()
	of := map[string]string{}
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		of[key] = value
	}
	ip := address()
	p := &pod{Node: e2e.NewNodeAt(n.t, name, fmt.Sprintf("%s:%d", ip, n.port)), n: n, name: name, ip: ip}
	n.must(n.object(n.t.Context(), name, ip, of))
	return p
}

func (p *pod) ready(is bool) {
	p.n.t.Helper()
	p.n.must(p.n.status(p.n.t.Context(), p.name, p.ip, is))
}

// terminate is the first half of a deletion: the pod has time to end.
func (p *pod) terminate() {
	p.n.t.Helper()
	p.n.must(p.n.end(p.n.t.Context(), p.name, 600))
}

// remove is the second half: it has ended.
func (p *pod) remove() {
	p.n.t.Helper()
	p.n.must(p.n.end(p.n.t.Context(), p.name, 0))
}

func nodes(pods ...*pod) []*e2e.Node {
	var out []*e2e.Node
	for _, p := range pods {
		out = append(out, p.Node)
	}
	return out
}

// source waits until the status says of the source that it is up, or down with those words.
func source(b *e2e.Balancer, words ...string) {
	b.T.Helper()
	b.WaitStatus(func(st model.Status) bool {
		i := slices.IndexFunc(st.Sources, func(s model.SourceStatus) bool { return s.Name == "kubernetes" })
		if i < 0 || st.Sources[i].Up != (len(words) == 0) {
			return false
		}
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(st.Sources[i].Reason, w) })
	})
}

// reloads counts what was loaded anew.
func reloads(b *e2e.Balancer) int {
	b.T.Helper()
	var changes struct{ Changes []model.Apply }
	if err := b.Get("/1/lb/changes", &changes); err != nil {
		b.T.Fatal(err)
	}
	count := 0
	for _, c := range changes.Changes {
		if c.Method == model.Reload {
			count++
		}
	}
	return count
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
