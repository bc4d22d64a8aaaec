package kubetest

import (
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestCluster: a cluster answers, keeps what it has over a restart of its API server, and signs tokens of service accounts that may do
// nothing yet.
func TestCluster(t *testing.T) {
	c := New(t)
	c.MustKubectl(t, "", "create", "namespace", "fn")
	c.MustKubectl(t, "", "create", "serviceaccount", "fnlb", "-n", "fn")
	token := strings.TrimSpace(c.MustKubectl(t, "", "create", "token", "fnlb", "-n", "fn"))
	_, err := c.Kubectl(t, "", "--kubeconfig", c.Kubeconfig(t, c.Address, "fn", token, ""), "get", "pods")
	if err == nil || !strings.Contains(err.Error(), `User "system:serviceaccount:fn:fnlb" cannot list resource "pods"`) {
		t.Errorf("a service account without rights: %v", err)
	}
	c.Compact(t)
	c.KillAPI(t)
	c.StartAPI(t)
	if out := c.MustKubectl(t, "", "get", "serviceaccounts", "-n", "fn", "-o", "name"); out != "serviceaccount/fnlb\n" {
		t.Errorf("after a restart: %q", out)
	}
}
