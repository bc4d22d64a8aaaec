package image

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/moby/client"

	"github.com/fnlb/fnlb/test/dockertest"
)

// TestMain: these tests wait most of their time, so that more of them run side by side than there are processors.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("6"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(dockertest.Main(m))
}

// TestModes starts the image in each way, on a bridge and with the host's network: traffic flows, who runs as whom, and `docker stop`
// waits for a request of 3 s and ends with 0, before the engine loses its patience.
func TestModes(t *testing.T) {
	dockertest.Shared(t).Image(t, dockertest.FnlbImage)
	for _, m := range modes(socketGroup(t)) {
		for _, host := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, host network %t", m.name, host), func(t *testing.T) {
				t.Parallel()
				if host && !m.low {
					refusedPort(t, m)
					return
				}
				b := start(t, host, m)
				b.serves(t)
				b.WaitHealthy(t, true)
				if log := b.Log(t); m.warns != "" && !strings.Contains(log, m.warns) || m.warns == "" && (strings.Contains(log, "root is not given up") || strings.Contains(log, "can reach the Docker Engine")) || strings.Contains(log, "level=ERROR") {
					t.Errorf("log:\n%s", log)
				}
				runsAs(t, b, m)
				if t.Failed() {
					return
				}
				b.stopsGracefully(t)
			})
		}
	}
}

// stopsGracefully: readiness turns false while the port still answers, the request that runs is answered, exit code 0.
func (b *balancer) stopsGracefully(t *testing.T) {
	t.Helper()
	running := b.slow(t, "3s")
	if status := b.ready(t); status != 200 {
		t.Errorf("before the stop readyz says %d", status)
	}
	b.Stop(t)
	if a := <-running; a.err != nil || a.status != 200 || a.body != "server" {
		t.Errorf("the request that ran: %+v", a)
	}
	if code := b.Wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if log := b.Log(t); !strings.Contains(log, "every request was answered") {
		t.Errorf("log:\n%s", log)
	}
}

// refusedPort: a port that this user may not have is refused with the mend.
func refusedPort(t *testing.T, m mode) {
	t.Helper()
	b := start(t, true, m)
	if code := b.Wait(t); code != 1 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"below port 1024", "NET_BIND_SERVICE"} {
		if log := b.Log(t); !strings.Contains(log, want) {
			t.Errorf("%q is missing:\n%s", want, log)
		}
	}
}

// TestStopOrder: readiness turns false first, and new connections are served until the delay has passed.
func TestStopOrder(t *testing.T) {
	t.Parallel()
	b := start(t, false, modes(socketGroup(t))[0], "FNLB_STOP_DELAY=3s")
	b.serves(t)
	b.Signal(t, "SIGTERM")
	b.Engine.Eventually(t, func() (string, error) {
		if status := b.ready(t); status != 503 {
			return fmt.Sprintf("readyz says %d", status), nil
		}
		return "", nil
	})
	if status, body, err := get(t, b.traffic, "/"); err != nil || status != 200 {
		t.Errorf("after readiness had turned false: %d %q %v", status, body, err)
	}
	if code := b.Wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestLongRequest: the time that the image gives a request ends before the engine's.
func TestLongRequest(t *testing.T) {
	t.Parallel()
	b := start(t, false, modes(socketGroup(t))[0])
	b.serves(t)
	running := b.slow(t, "1m")
	b.Stop(t)
	if code := b.Wait(t); code != 0 {
		t.Errorf("exit code %d: the engine has killed it", code)
	}
	if a := <-running; a.err == nil && a.status == 200 {
		t.Errorf("the request that ran: %+v", a)
	}
}

// TestSecondSignal: it cuts the request that runs, and ends with 0.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	b := start(t, false, modes(socketGroup(t))[0], "FNLB_SHUTDOWN_TIMEOUT=0")
	b.serves(t)
	running := b.slow(t, "10m")
	b.Signal(t, "SIGTERM")
	b.saysLog(t, "msg=stopping")
	b.Signal(t, "SIGTERM")
	if code := b.Wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if a := <-running; a.err == nil && a.status == 200 {
		t.Errorf("the request that ran: %+v", a)
	}
	if log := b.Log(t); !strings.Contains(log, "second signal") {
		t.Errorf("log:\n%s", log)
	}
}

// TestOrphans: who loses its parent becomes tini's child and is reaped.
func TestOrphans(t *testing.T) {
	t.Parallel()
	b := start(t, false, modes(socketGroup(t))[0])
	b.serves(t)
	out, code := b.Exec(t, "root", "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")
	if code != 0 {
		t.Fatalf("%d %s", code, out)
	}
	orphan := func() *dockertest.Process {
		for _, p := range b.Processes(t) {
			if p.Name == "sleep" {
				return &p
			}
		}
		return nil
	}
	init := b.Inspect(t).State.Pid
	b.Engine.Eventually(t, func() (string, error) {
		if p := orphan(); p == nil || p.Parent != init {
			return fmt.Sprintf("the orphan is %+v, process 1 is %d", p, init), nil
		}
		return "", nil
	})
	if err := syscall.Kill(orphan().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.Engine.Eventually(t, func() (string, error) {
		if p := orphan(); p != nil {
			return fmt.Sprintf("it was not reaped: %+v", p), nil
		}
		return "", nil
	})
}

// TestKilled: what a container leaves behind that was killed does not keep it from starting again.
func TestKilled(t *testing.T) {
	t.Parallel()
	b := start(t, false, modes(socketGroup(t))[0])
	b.serves(t)
	b.Signal(t, "SIGKILL")
	if code := b.Wait(t); code != 137 {
		t.Errorf("exit code %d", code)
	}
	b.Start(t)
	b.serves(t)
}

// TestReload: whoever it runs as, HAProxy keeps its ports over a reload, the low one included. Here a template makes it necessary.
func TestReload(t *testing.T) {
	t.Parallel()
	for _, m := range modes(socketGroup(t)) {
		if !slices.Contains([]string{"as it is", "one capability", "user root"}, m.name) {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			b := start(t, true, m)
			b.serves(t)
			b.reloads(t)
			if log := b.Log(t); strings.Contains(log, "level=ERROR") {
				t.Errorf("log:\n%s", log)
			}
		})
	}
}

// TestCommands: the commands find the balancer in the container, whoever runs them.
func TestCommands(t *testing.T) {
	t.Parallel()
	b := start(t, false, modes(socketGroup(t))[0])
	b.serves(t)
	for _, as := range []string{"", "root", "99"} {
		if out, code := b.Exec(t, as, "fnlb", "nodes", "list"); code != 0 || !strings.Contains(out, b.direct) {
			t.Errorf("as %q: %d %s", as, code, out)
		}
	}
	e := dockertest.Shared(t)
	c := e.Run(t, dockertest.Options{Image: dockertest.FnlbImage, Cmd: []string{"version"}})
	if code := c.Wait(t); code != 0 || !strings.HasPrefix(c.Log(t), "fnlb ") {
		t.Errorf("version: %d %s", code, c.Log(t))
	}
}

// TestKey: a key that only root may read is refused with the command that mends it; then it serves. With --user root it is read as it is.
func TestKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { // mounted as it is
		t.Fatal(err)
	}
	key := dir + "/site.pem"
	writeCertificate(t, key)
	all := modes(socketGroup(t))
	withKey := func(m mode) mode {
		return mode{env: append(m.env, "FNLB_TLS_CERT=/certs/site.pem"), more: func(o *client.ContainerCreateOptions) {
			m.limit(o)
			o.HostConfig.Binds = append(o.HostConfig.Binds, dir+":/certs:ro")
		}}
	}
	refused := start(t, false, withKey(all[0]))
	if code := refused.Wait(t); code != 1 {
		t.Errorf("exit code %d", code)
	}
	const mend = "chgrp 99 /certs/site.pem && chmod g+r /certs/site.pem"
	if log := refused.Log(t); !strings.Contains(log, mend) || !strings.Contains(log, "--user root") {
		t.Errorf("%q is missing:\n%s", mend, log)
	}
	i := slices.IndexFunc(all, func(m mode) bool { return m.name == "user root" })
	start(t, false, withKey(all[i])).servesTLS(t)
	if err := errors.Join(os.Chown(key, 0, user), os.Chmod(key, 0o640)); err != nil { // what the command does
		t.Fatal(err)
	}
	start(t, false, withKey(all[0])).servesTLS(t)
}

// TestContents: nothing is in the image that nobody needs, and little is writable for its user.
func TestContents(t *testing.T) {
	t.Parallel()
	e := dockertest.Shared(t)
	c := e.Run(t, dockertest.Options{Image: e.Image(t, dockertest.FnlbImage), More: func(o *client.ContainerCreateOptions) {
		o.Config.Entrypoint, o.Config.Cmd = []string{"sleep"}, []string{"1000"}
	}})
	out, code := c.Exec(t, "root", "sh", "-c", "find /var/lib/apt/lists /var/cache /var/log /usr/share/man -type f; ls -d /etc/haproxy 2>/dev/null; find / -xdev -perm /6000 -type f")
	if code != 0 || out != "" {
		t.Errorf("not needed: %d %s", code, out)
	}
	out, _ = c.Exec(t, "99:99", "sh", "-c", "find / -xdev -writable ! -type l ! -path '/proc/*' ! -path '/dev/*' ! -path '/sys/*' 2>/dev/null | sort")
	want := "/run/lock\n/tmp\n/usr/local/etc/haproxy\n/var/lib/haproxy\n/var/tmp\n"
	if out != want {
		t.Errorf("user 99 may write to:\n%s", out)
	}
	i, err := e.Client.ImageInspect(t.Context(), dockertest.FnlbImage)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f MB", float64(i.Size)/1e6)
	for _, name := range []string{"title", "description", "licenses", "source", "version", "revision"} {
		if _, ok := i.Config.Labels["org.opencontainers.image."+name]; !ok {
			t.Errorf("the label %s is missing: %v", name, i.Config.Labels)
		}
	}
	if !strings.Contains(strings.Join(i.Config.Entrypoint, " "), "tini") {
		t.Errorf("entry point %v", i.Config.Entrypoint)
	}
}
