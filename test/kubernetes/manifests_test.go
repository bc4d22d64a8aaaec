package kubernetes

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/test/kubetest"
)

const manifests = "../../deploy/kubernetes"

// serviceMonitors is as much of the Prometheus operator's definition as a dry run needs.
const serviceMonitors = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"servicemonitors.monitoring.coreos.com"},
"spec":{"group":"monitoring.coreos.com","scope":"Namespaced","names":{"kind":"ServiceMonitor","plural":"servicemonitors"},
"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{
"selector":{"type":"object","properties":{"matchLabels":{"type":"object","additionalProperties":{"type":"string"}}}},
"endpoints":{"type":"array","items":{"type":"object","properties":{"port":{"type":"string"},"path":{"type":"string"},"interval":{"type":"string"}}}}}}}}}}]}}`

// TestManifests: the API server takes every variant of deploy/kubernetes as it stands, with the strictest of its rules for pods, and what
// their containers are told are flags of ours that leave time enough to stop.
func TestManifests(t *testing.T) {
	t.Parallel()
	c := kubetest.New(t) // what is applied has a namespace and a kind of its own
	c.MustKubectl(t, serviceMonitors, "apply", "-f", "-")
	c.MustKubectl(t, "", "wait", "--for=condition=Established", "--timeout=60s", "crd/servicemonitors.monitoring.coreos.com")
	c.MustKubectl(t, "", "apply", "-f", filepath.Join(manifests, "base", "namespace.yaml"))
	variants, err := os.ReadDir(manifests)
	if err != nil || len(variants) < 5 {
		t.Fatalf("%v, %v", variants, err)
	}
	seen := map[string]bool{}
	for _, v := range variants {
		folder := filepath.Join(manifests, v.Name())
		// Strict: a field that the API does not know is an error. A warning says that the pods would not be let in.
		out := c.MustKubectl(t, "", "apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-o", "json", "-k", folder)
		var list struct{ Items []json.RawMessage }
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			t.Fatal(err)
		}
		if len(list.Items) == 0 { // one object is no list
			list.Items = []json.RawMessage{json.RawMessage(out)}
		}
		for _, item := range list.Items {
			var o struct {
				Kind string
				Spec struct{ Template corev1.PodTemplateSpec }
			}
			if err := json.Unmarshal(item, &o); err != nil {
				t.Fatal(err)
			}
			seen[o.Kind] = true
			if o.Kind == "Deployment" || o.Kind == "DaemonSet" {
				judge(t, v.Name(), &o.Spec.Template.Spec)
			}
		}
	}
	for _, kind := range []string{"Namespace", "ServiceAccount", "Role", "RoleBinding", "Service", "NetworkPolicy", "Deployment", "DaemonSet", "PodDisruptionBudget", "ServiceMonitor"} {
		if !seen[kind] {
			t.Errorf("no %s was applied", kind)
		}
	}
	var d appsv1.Deployment
	text := c.MustKubectl(t, "", "create", "--dry-run=client", "-o", "json", "-f", filepath.Join(manifests, "deployment", "deployment.yaml"))
	if err := json.Unmarshal([]byte(text), &d); err != nil || d.Spec.Replicas == nil || *d.Spec.Replicas < 2 {
		t.Errorf("one balancer is none: %v, %v", d.Spec.Replicas, err)
	}
}

// judge reads a pod as the kubelet and fnlb would.
func judge(t *testing.T, variant string, pod *corev1.PodSpec) {
	t.Helper()
	at := slices.IndexFunc(pod.Containers, func(c corev1.Container) bool { return c.Name == "fnlb" })
	if at < 0 {
		t.Fatalf("%s: there is no container fnlb", variant)
	}
	fnlb := &pod.Containers[at]
	no := func(string) bool { return false }
	s, rest, err := config.Parse(fnlb.Args, config.Host{
		Env: func(string) (string, bool) { return "", false }, UID: 99, TempDir: "/tmp", Writable: no, Exists: no, Socket: no,
	}, func(*flag.FlagSet) {})
	if err != nil || len(rest) > 0 || !s.Kubernetes.On || s.SharedPort() || len(s.Warnings) > 0 {
		t.Errorf("%s: %q: %v, management on a port of its own %v, %q", variant, fnlb.Args, err, !s.SharedPort(), s.Warnings)
	}
	for i := range pod.Containers {
		c := &pod.Containers[i]
		if c.SecurityContext == nil || c.SecurityContext.ReadOnlyRootFilesystem == nil || !*c.SecurityContext.ReadOnlyRootFilesystem {
			t.Errorf("%s: container %s may write to its image", variant, c.Name)
		}
		for _, p := range c.Ports {
			if want := map[string]uint16{"http": s.Listen.Port, "management": s.Management.Port}[p.Name]; int32(want) != p.ContainerPort {
				t.Errorf("%s: port %s is %d, and the flags say %d", variant, p.Name, p.ContainerPort, want)
			}
		}
	}
	if pod.SecurityContext == nil || pod.SecurityContext.RunAsUser == nil || *pod.SecurityContext.RunAsUser != 99 {
		t.Errorf("%s: the user is not 99", variant)
	}
	for what, probe := range map[string]*corev1.Probe{"/readyz": fnlb.ReadinessProbe, "/healthz": fnlb.LivenessProbe} {
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != what || probe.HTTPGet.Port.StrVal != "management" {
			t.Errorf("%s: %s is not asked", variant, what)
		}
	}
	grace := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second
	const preStop, ignored = 5 * time.Second, 5 * time.Second
	if s.HAProxyMaster == "" && (s.ShutdownTimeout == 0 || grace < preStop+s.StopDelay+s.ShutdownTimeout+ignored) {
		t.Errorf("%s: %s to stop, and flags that may take longer: %s", variant, grace, s.ShutdownTimeout)
	}
	if i := slices.IndexFunc(pod.Containers, func(c corev1.Container) bool { return c.Lifecycle != nil && c.Lifecycle.PreStop != nil }); i < 0 ||
		!strings.Contains(strings.Join(pod.Containers[i].Lifecycle.PreStop.Exec.Command, " "), "sleep") {
		t.Errorf("%s: nothing waits until others have learned that it ends", variant)
	}
}
