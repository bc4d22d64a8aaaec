package haproxytest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// HAProxy is one version of the real program.
type HAProxy struct {
	Version string // such as 2.6
	Path    string // absolute path of the program
}

// versions lists what is supported; only 3.2 may be absent, and only outside CI.
var versions = [...]struct {
	name     string
	optional bool
}{{"2.6", false}, {"3.0", false}, {"3.2", true}}

// Each runs f as a subtest against every version. A missing version fails the test.
func Each(t *testing.T, f func(t *testing.T, h HAProxy)) {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range versions {
		h := HAProxy{Version: v.name, Path: filepath.Join(root, ".haproxy", v.name, "haproxy")}
		_, err := os.Stat(h.Path)
		if errors.Is(err, fs.ErrNotExist) && v.optional && os.Getenv("CI") == "" {
			continue
		}
		t.Run(v.name, func(t *testing.T) {
			if err != nil {
				t.Fatalf("HAProxy %s is not there (%v): `make tools` installs it", h.Version, err)
			}
			f(t, h)
		})
	}
}

// moduleRoot is the nearest folder upwards from the working directory that holds go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod in the working directory or above it")
		}
		dir = up
	}
}

// AtLeast reports whether the version is major.minor or newer.
func (h HAProxy) AtLeast(major, minor int) bool {
	var a, b int
	if _, err := fmt.Sscanf(h.Version, "%d.%d", &a, &b); err != nil {
		return false
	}
	return a > major || a == major && b >= minor
}

// Check gives cfg to haproxy -c. The error holds what HAProxy said; a warning is an error as well.
func (h HAProxy) Check(t *testing.T, cfg string) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(cfg), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), h.Path, "-c", "-f", file)
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("haproxy %s -c: %w\n%s", h.Version, err, out)
	}
	if bytes.Contains(out, []byte("[WARNING]")) {
		return fmt.Errorf("haproxy %s -c warns:\n%s", h.Version, strings.TrimSpace(string(out)))
	}
	return nil
}

// FreePort is a TCP port on 127.0.0.1 that nobody listens on and that no other test of this host gets until this one ends.
func FreePort(t *testing.T) int {
	t.Helper()
	return FreePorts(t, 1)[0]
}

// FreePorts are n different ports as of FreePort. They lie below those that the kernel gives to clients, so that no connection takes
// one between here and its use.
func FreePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for tries := 0; len(ports) < n; tries++ {
		if tries > 1000 {
			t.Fatal("there are no free ports")
		}
		if port := 10000 + rand.IntN(22000); reserve(t, port) {
			ports = append(ports, port)
		}
	}
	return ports
}

// reserve holds a lock in the name of the port until the test ends, because HAProxy would share a port with another test's silently.
func reserve(t *testing.T, port int) bool {
	t.Helper()
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprintf("haproxytest-%d.lock", port)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if err := lock.Close(); err != nil {
			t.Error(err)
		}
		return false
	}
	t.Cleanup(func() {
		if err := errors.Join(os.Remove(lock.Name()), lock.Close()); err != nil {
			t.Error(err)
		}
	})
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false // the lock goes with the test
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	return true
}
