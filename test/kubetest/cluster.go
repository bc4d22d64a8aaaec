package kubetest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// startLimit is for a machine that has a lot to do.
const startLimit = 3 * time.Minute

// AdminToken is that of a member of system:masters, who may do everything.
const AdminToken = "an-administrators-token-of-a-test"

// Cluster is an API server and its etcd.
type Cluster struct {
	Address string // HOST:PORT of the API server
	CA      []byte // PEM

	dir        string
	etcdPort   int
	peerPort   int
	server     int
	etcd, api  *process
	httpClient *http.Client // a connection for each question: its server comes and goes
	client     *http.Client
}

// shared is the cluster of a package's tests, until StopShared.
var shared struct {
	sync.Mutex
	cluster *Cluster
}

// Shared gives the cluster that the tests of a package share, each in namespaces of its own; TestMain calls StopShared.
func Shared(t *testing.T) *Cluster {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.cluster == nil {
		c := create(t)
		if err := c.start(t); err != nil {
			c.remove(t)
			t.Fatal(err)
		}
		shared.cluster = c
	}
	return shared.cluster
}

// StopShared ends the cluster that was shared.
func StopShared() error {
	shared.Lock()
	defer shared.Unlock()
	c := shared.cluster
	if c == nil {
		return nil
	}
	shared.cluster = nil
	c.end()
	return os.RemoveAll(c.dir)
}

// New starts a cluster that ends with the test.
func New(t *testing.T) *Cluster {
	t.Helper()
	c := create(t)
	t.Cleanup(func() { c.remove(t) })
	if err := c.start(t); err != nil {
		t.Fatal(err)
	}
	return c
}

func create(t *testing.T) *Cluster {
	t.Helper()
	ports := haproxytest.FreePorts(t, 3)
	dir, err := os.MkdirTemp("", "kubetest")
	if err != nil {
		t.Fatal(err)
	}
	return &Cluster{Address: fmt.Sprintf("127.0.0.1:%d", ports[2]), dir: dir, etcdPort: ports[0], peerPort: ports[1], server: ports[2]}
}

func (c *Cluster) end() {
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
	c.api.end()
	c.etcd.end()
}

func (c *Cluster) remove(t *testing.T) {
	t.Helper()
	c.end()
	if t.Failed() {
		t.Logf("end of the API server's log:\n%s", tail(filepath.Join(c.dir, "apiserver.log")))
	}
	if err := os.RemoveAll(c.dir); err != nil {
		t.Error(err)
	}
}

func (c *Cluster) start(t *testing.T) (err error) {
	t.Helper()
	if c.CA, err = writeKeys(c.dir); err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.CA)
	c.httpClient = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	c.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	peer := fmt.Sprintf("http://127.0.0.1:%d", c.peerPort)
	c.etcd = c.process("etcd", "--data-dir", filepath.Join(c.dir, "etcd"), "--listen-client-urls", c.etcdURL(), "--advertise-client-urls", c.etcdURL(),
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	if err := c.etcd.start(); err != nil {
		return err
	}
	if err := c.wait(c.etcd, c.etcdURL()+"/health", ""); err != nil {
		return err
	}
	return c.startAPI()
}

func (c *Cluster) etcdURL() string { return fmt.Sprintf("http://127.0.0.1:%d", c.etcdPort) }

// URL is the API server's.
func (c *Cluster) URL() string { return "https://" + c.Address }

// StartAPI starts the API server, and waits until it is ready.
func (c *Cluster) StartAPI(t *testing.T) {
	t.Helper()
	if err := c.startAPI(); err != nil {
		t.Fatal(err)
	}
}

func (c *Cluster) startAPI() error {
	file := func(name string) string { return filepath.Join(c.dir, name) }
	c.api = c.process("kube-apiserver", "--etcd-servers", c.etcdURL(),
		"--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(c.server), "--tls-cert-file", file("server.pem"), "--tls-private-key-file", file("server.key"),
		"--token-auth-file", file("tokens.csv"), "--authorization-mode", "RBAC", "--endpoint-reconciler-type", "none",
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-signing-key-file", file("accounts.key"), "--service-account-key-file", file("accounts.pub"),
		"--disable-admission-plugins", "ServiceAccount", "--service-cluster-ip-range", "10.0.0.0/24", "--etcd-compaction-interval", "0",
		"--shutdown-delay-duration", "0s", "--cert-dir", c.dir)
	if err := c.api.start(); err != nil {
		return err
	}
	return c.wait(c.api, c.URL()+"/readyz", AdminToken)
}

// KillAPI kills the API server.
func (c *Cluster) KillAPI(t *testing.T) {
	t.Helper()
	c.api.end()
}

// SignalAPI sends the API server a signal.
func (c *Cluster) SignalAPI(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := c.api.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// Do makes a call of the API as the administrator: body is sent as JSON of that type, and the answer decoded into v, unless they are nil.
func (c *Cluster) Do(ctx context.Context, method, path, contentType string, body, v any) error {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return err
		}
	}
	return c.do(ctx, c.client, method, c.URL()+path, AdminToken, contentType, data, v)
}

// wait asks until the answer is 200.
func (c *Cluster) wait(p *process, url, token string) error {
	var last error
	for end := time.Now().Add(startLimit); time.Now().Before(end); {
		if last = c.ask(http.MethodGet, url, token, nil, nil); last == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s has ended:\n%s", p.name, tail(p.log))
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s does not answer: %w\n%s", p.name, last, tail(p.log))
}

func (c *Cluster) ask(method, url, token string, body []byte, v any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.do(ctx, c.httpClient, method, url, token, "application/json", body, v)
}

func (c *Cluster) do(ctx context.Context, client *http.Client, method, url, token, contentType string, body []byte, v any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return &Refused{resp.StatusCode, fmt.Sprintf("%s %s: status %d: %.300s", method, url, resp.StatusCode, data)}
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(data, v)
}

// Refused is an answer that is not 2xx.
type Refused struct {
	Status int
	text   string
}

func (r *Refused) Error() string { return r.text }

// Compact makes etcd forget all that was before now, so that no watch can go on from an earlier revision.
func (c *Cluster) Compact(t *testing.T) {
	t.Helper()
	var state struct {
		Header struct{ Revision string }
	}
	err := c.ask(http.MethodPost, c.etcdURL()+"/v3/kv/range", "", []byte(`{"key":"AA=="}`), &state)
	if err == nil {
		err = c.ask(http.MethodPost, c.etcdURL()+"/v3/kv/compaction", "", fmt.Appendf(nil, `{"revision":%q,"physical":true}`, state.Header.Revision), nil)
	}
	if err != nil {
		t.Fatalf("compact etcd: %v", err)
	}
}

// Wipe empties etcd behind the API server's back, as a restore of nothing does; the API server must not run.
func (c *Cluster) Wipe(t *testing.T, prefix string) {
	t.Helper()
	end := []byte(prefix)
	end[len(end)-1]++
	body, err := json.Marshal(map[string][]byte{"key": []byte(prefix), "range_end": end})
	if err == nil {
		err = c.ask(http.MethodPost, c.etcdURL()+"/v3/kv/deleterange", "", body, nil)
	}
	if err != nil {
		t.Fatalf("empty etcd: %v", err)
	}
}

// Kubeconfig writes a file for clients of an address, which is the API server's or leads there, with a token or the file of one.
func (c *Cluster) Kubeconfig(t *testing.T, address, namespace, token, tokenFile string) string {
	t.Helper()
	user := map[string]string{"token": token}
	if tokenFile != "" {
		user = map[string]string{"tokenFile": tokenFile}
	}
	type object = map[string]any
	data, err := json.Marshal(object{ // JSON is YAML
		"apiVersion": "v1", "kind": "Config", "current-context": "test",
		"clusters": []object{{"name": "test", "cluster": object{"server": "https://" + address, "certificate-authority-data": c.CA}}},
		"users":    []object{{"name": "test", "user": user}},
		"contexts": []object{{"name": "test", "context": object{"cluster": "test", "user": "test", "namespace": namespace}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Kubectl runs kubectl as the administrator, with input on standard input, and gives what it prints.
func (c *Cluster) Kubectl(t *testing.T, input string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	kubeconfig := c.Kubeconfig(t, c.Address, "default", AdminToken, "")
	cmd := exec.CommandContext(ctx, tool("kubectl"), append([]string{"--kubeconfig", kubeconfig, "--cache-dir", filepath.Join(c.dir, "kubectl")}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, &errs)
	}
	return out.String(), nil
}

// MustKubectl is Kubectl that must not fail.
func (c *Cluster) MustKubectl(t *testing.T, input string, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(t, input, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// moduleRoot is the folder of go.mod.
var moduleRoot = sync.OnceValue(func() string {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == "/" {
			break
		}
		dir = filepath.Dir(dir)
	}
	return "/"
})

// tool is a program of bin/tools.
func tool(name string) string { return filepath.Join(moduleRoot(), "bin", "tools", name) }

func tail(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-4000):])
}
