package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/fnlb/fnlb/model"
)

// The cores: HAProxy (and fnlb, which does nothing while requests pass) against what surrounds it.
const (
	balancerCore = 0
	loadCore     = 1
)

// bench is one command's world: a folder, nodes and processes, all gone after close.
type bench struct {
	options
	haproxyPath string
	version     string // of HAProxy
	fnlbVersion string
	host        string
	dir         string
	client      *http.Client
	nodePorts   []int
	nginx       *process       // all the nodes
	stops       []func() error // last in, first out
}

func newBench(ctx context.Context, o options, haproxy string) (_ *bench, err error) {
	b := &bench{options: o, haproxyPath: haproxy, client: &http.Client{Timeout: 10 * time.Second}}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	out, err := exec.CommandContext(ctx, haproxy, "-v").Output()
	if err != nil {
		return nil, fmt.Errorf("%s -v: %w", haproxy, err)
	}
	m := regexp.MustCompile(`(?i)version (\d+\.\d+\S*)`).FindSubmatch(out)
	if m == nil {
		return nil, fmt.Errorf("%s -v: no version in %q", haproxy, out)
	}
	b.version = string(m[1])
	out, err = exec.CommandContext(ctx, o.fnlb, "version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s version: %w", o.fnlb, err)
	}
	b.fnlbVersion = strings.TrimSpace(string(out))
	b.host = describe()
	if b.dir, err = os.MkdirTemp("/tmp", "fnlb-bench"); err != nil { // short: paths of sockets are limited
		return nil, err
	}
	b.stops = append(b.stops, func() error { return os.RemoveAll(b.dir) })
	if err := os.Chmod(b.dir, 0o711); err != nil { // a HAProxy that drops root has to reach its sockets
		return nil, err
	}
	if b.nodePorts, err = ports(3); err != nil {
		return nil, err
	}
	if err := b.startNodes(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

// describe names the host's processor and kernel.
func describe() string {
	var name syscall.Utsname
	kernel := ""
	if syscall.Uname(&name) == nil {
		for _, c := range name.Release {
			if c == 0 {
				break
			}
			kernel += string(rune(byte(c)))
		}
	}
	cpu := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`model name\s*: (.*)`).FindSubmatch(text); m != nil {
			cpu = string(m[1])
		}
	}
	return fmt.Sprintf("%s, %d cores, Linux %s", cpu, runtime.NumCPU(), kernel)
}

func (b *bench) branch() string {
	parts := strings.SplitN(b.version, ".", 3)
	return parts[0] + "." + parts[1]
}

func (b *bench) close() error {
	var errs []error
	for len(b.stops) > 0 {
		last := len(b.stops) - 1
		errs = append(errs, b.stops[last]())
		b.stops = b.stops[:last]
	}
	b.client.CloseIdleConnections()
	return errors.Join(errs...)
}

// startNodes starts one nginx that is all nodes: cheap for the other core, and the same for both sides. The first port answers
// on every loopback address, so that there can be any number of nodes.
func (b *bench) startNodes(ctx context.Context) error {
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		nginx = "/usr/sbin/nginx" // not in the PATH of every user
	}
	var conf strings.Builder
	fmt.Fprintf(&conf, `daemon off; master_process off; worker_processes 1; pid %[1]s/nginx.pid;
events { worker_connections 8192; }
http { access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; default_type text/plain;
client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
`, b.dir)
	for i, port := range b.nodePorts {
		listen := fmt.Sprintf("127.0.0.1:%d", port)
		if i == 0 {
			listen = fmt.Sprint(port)
		}
		fmt.Fprintf(&conf, `server { listen %s; location = /version { default_type application/json; return 200 '{"version":"0.0.235"}'; }
location / { return 200 'Hello web from node %d'; } }
`, listen, i+1)
	}
	conf.WriteString("}\n")
	path := filepath.Join(b.dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf.String()), 0o644); err != nil {
		return err
	}
	b.nginx, err = spawn(b.dir, "nginx", loadCore, nil, nginx, "-p", b.dir, "-e", "stderr", "-c", path)
	if err != nil {
		return err
	}
	b.stops = append(b.stops, func() error { return b.nginx.stop(syscall.SIGTERM, 5*time.Second) })
	return b.nginx.until(ctx, 10*time.Second, 5*time.Millisecond, func() bool { return b.answers(ctx, b.nodePorts[2]) })
}

// answers says whether a good answer comes from a port.
func (b *bench) answers(ctx context.Context, port int) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), http.NoBody)
	if err != nil {
		return false
	}
	req.Close = true
	resp, err := b.client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}

// nodes are the addresses of the three, for --nodes.
func (b *bench) nodes() string {
	var list []string
	for _, port := range b.nodePorts {
		list = append(list, fmt.Sprintf("127.0.0.1:%d", port))
	}
	return strings.Join(list, ",")
}

// balancer is a running HAProxy, with or without fnlb.
type balancer struct {
	*process
	bench      *bench
	name       string
	port       int
	management int           // 0 without fnlb
	runDir     string        // likewise
	worker     int           // as it was at the start
	interval   time.Duration // between two looks at its status: one costs milliseconds of its processor with thousands of servers
}

// startFnlb starts fnlb on free ports. It returns at once; serving waits.
func (b *bench) startFnlb(name string, core int, nodes string, more ...string) (*balancer, error) {
	p, err := ports(2)
	if err != nil {
		return nil, err
	}
	l := &balancer{bench: b, name: name, port: p[0], management: p[1], runDir: filepath.Join(b.dir, name), interval: 20 * time.Millisecond}
	args := append([]string{
		b.fnlb, "--nodes", nodes, "--listen", fmt.Sprintf("127.0.0.1:%d", l.port), "--mgmt-listen", fmt.Sprintf("127.0.0.1:%d", l.management),
		"--run-dir", l.runDir, "--haproxy", b.haproxyPath, "--haproxy-config", filepath.Join(b.dir, name+".cfg"),
	}, more...)
	if l.process, err = spawn(b.dir, name, core, nil, args...); err != nil {
		return nil, err
	}
	b.stops = append(b.stops, func() error { return l.stop(syscall.SIGTERM, 60*time.Second) })
	return l, nil
}

// startHAProxy starts HAProxy on a file, in master-worker mode as fnlb does it.
func (b *bench) startHAProxy(ctx context.Context, name, file string, port int, env ...string) (*balancer, error) {
	l := &balancer{bench: b, name: name, port: port}
	var err error
	l.process, err = spawn(b.dir, name, balancerCore, env, b.haproxyPath, "-W", "-db", "-f", file)
	if err != nil {
		return nil, err
	}
	b.stops = append(b.stops, func() error { return l.stop(syscall.SIGTERM, 10*time.Second) })
	if err := l.until(ctx, 20*time.Second, 5*time.Millisecond, func() bool { return b.answers(ctx, port) }); err != nil {
		return nil, err
	}
	pids, err := children(l.pid())
	if err != nil {
		return nil, err
	}
	if len(pids) != 1 {
		return nil, fmt.Errorf("%s has %d workers, want 1", name, len(pids))
	}
	l.worker = pids[0]
	return l, nil
}

// status asks fnlb.
func (l *balancer) status(ctx context.Context) (s model.Status, err error) {
	err = l.call(ctx, http.MethodGet, "/1/lb/status", "", &s)
	return s, err
}

func (l *balancer) call(ctx context.Context, method, path, body string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://127.0.0.1:%d%s", l.management, path), strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := l.bench.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// settled waits until a number of nodes serve and nothing is left to apply.
func (l *balancer) settled(ctx context.Context, nodes int) error {
	err := l.until(ctx, 120*time.Second, l.interval, func() bool {
		s, err := l.status(ctx)
		if err != nil || s.Phase != model.Serving || s.Wanted != s.Applied || s.HAProxy.Behind {
			return false
		}
		up := 0
		for _, server := range s.Servers {
			if server.Health == model.Up {
				up++
			}
		}
		l.worker = s.HAProxy.Worker
		return up == nodes
	})
	if err != nil {
		return fmt.Errorf("wait for %d nodes: %w", nodes, err)
	}
	return nil
}
