package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// someone is a user that is nobody in particular.
const someone = 99

// asUser prepares a balancer that runs as someone, with the packaged HAProxy: the others may lie where only root looks.
func asUser(t *testing.T, dir string, args ...string) *Balancer {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test becomes another user and needs root")
	}
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		t.Fatalf("%v: `make tools` installs it", err)
	}
	ports := haproxytest.FreePorts(t, 2)
	b := &Balancer{T: t, Dir: dir, Traffic: fmt.Sprintf("127.0.0.1:%d", ports[0]), Mgmt: fmt.Sprintf("127.0.0.1:%d", ports[1])}
	b.Cmd = exec.Command(Binary(t), append([]string{"--listen", b.Traffic, "--mgmt-listen", b.Mgmt, "--run-dir", dir, "--haproxy", haproxy,
		"--haproxy-config", filepath.Join(dir, "haproxy.cfg"), "--hc-interval", "200ms"}, args...)...)
	b.Cmd.Dir = "/"
	b.Cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: someone, Gid: someone}}
	return b
}

func ownDir(t *testing.T) string {
	t.Helper()
	dir := TempDir(t)
	if err := os.Chown(dir, someone, someone); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestUser: without root it starts, serves with management on either port, and stops clean.
func TestUser(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("shared port %t", shared), func(t *testing.T) {
			t.Parallel()
			n, m := NewNode(t, "a"), NewNode(t, "m")
			b := asUser(t, ownDir(t), "--nodes", n.Addr)
			if shared {
				b.Mgmt = b.Traffic
				b.Cmd.Args = append(b.Cmd.Args, "--mgmt-listen", b.Traffic)
			}
			b.start()
			b.WaitLog(0, "haproxy started")
			b.WaitOnline(n)
			b.Put(m.Addr)
			b.WaitOnline(n, m)
			st := b.WaitApplied()
			if status, node, _ := fetch(t, b.Traffic, "/x"); status != 200 || node == "" {
				t.Errorf("%d from %q", status, node)
			}
			for _, pid := range []int{b.Cmd.Process.Pid, st.HAProxy.Master, st.HAProxy.Worker} {
				if uid := uidOf(t, pid); uid != someone {
					t.Errorf("process %d is user %d", pid, uid)
				}
			}
			stopClean(t, b, st.HAProxy.Master, st.HAProxy.Worker)
		})
	}
}

// TestUserRefused: what another user owns, or what somebody has prepared for us, is refused with the mend, and stays as it is.
func TestUserRefused(t *testing.T) {
	t.Parallel()
	link := func(t *testing.T, name string) string {
		dir, target := ownDir(t), ownDir(t)
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	for name, test := range map[string]struct {
		dir  func(t *testing.T) string
		args []string
		want string
	}{
		"another's run directory":    {dir: TempDir, want: "--run-dir"},
		"run directory is a symlink": {dir: func(t *testing.T) string { return link(t, "run") }, want: "--run-dir"},
		"private is a symlink":       {dir: func(t *testing.T) string { return filepath.Dir(link(t, "private")) }, want: "--run-dir"},
		"private is another's": {dir: func(t *testing.T) string {
			dir := ownDir(t)
			if err := os.Mkdir(filepath.Join(dir, "private"), 0o777); err != nil {
				t.Fatal(err)
			}
			return dir
		}, want: "--run-dir"},
		"private is a file": {dir: func(t *testing.T) string {
			dir := ownDir(t)
			if err := os.WriteFile(filepath.Join(dir, "private"), nil, 0o666); err != nil {
				t.Fatal(err)
			}
			return dir
		}, want: "--run-dir"},
		"read-only configuration folder": {dir: ownDir, args: []string{"--haproxy-config", "/etc/haproxy.cfg"}, want: "--haproxy-config"},
		"low user for HAProxy":           {dir: ownDir, args: []string{"--haproxy-user", "nobody"}, want: "--haproxy-user"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := asUser(t, test.dir(t), test.args...)
			before, err := os.Lstat(b.Dir)
			if err != nil {
				t.Fatal(err)
			}
			b.start()
			if code := b.WaitExit(); code != 1 {
				t.Errorf("exit code %d", code)
			}
			said := ""
			for line := range strings.Lines(b.Log()) {
				if strings.HasPrefix(line, "fnlb: ") {
					said += line
				}
			}
			if strings.Count(said, "\n") != 1 || !strings.Contains(said, test.want) {
				t.Errorf("it says %q, wanted is one line with %s", said, test.want)
			}
			if after, err := os.Lstat(b.Dir); err != nil || strings.HasPrefix(name, "another") && after.Mode() != before.Mode() {
				t.Errorf("the folder became %v, %v", after, err)
			}
			if !Free(b.Traffic) || !Free(b.Mgmt) {
				t.Error("a port is open")
			}
		})
	}
}
