package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

func file(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCheck(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		c := Checker{Binary: h.Path}
		good := "defaults\n  mode http\n  timeout client 1s\n  timeout server 1s\n  timeout connect 1s\nfrontend f\n  bind 127.0.0.1:1\n"
		if warnings, err := c.Check(t.Context(), file(t, good, 0o600)); err != nil || warnings != "" {
			t.Errorf("good: %q, %v", warnings, err)
		}
		if warnings, err := c.Check(t.Context(), file(t, "frontend f\n  mode http\n  bind 127.0.0.1:1\n", 0o600)); err != nil || !strings.Contains(warnings, "timeout") {
			t.Errorf("warning: %q, %v", warnings, err)
		}
		_, err := c.Check(t.Context(), file(t, good+"  bogus 1\n", 0o600))
		var refused *CheckError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), ":8]") || !strings.Contains(err.Error(), "bogus") || strings.Contains(err.Error(), "[ALERT]") {
			t.Errorf("refused: %v", err)
		}
		if _, err := c.Check(t.Context(), "/nonexistent"); err == nil || errors.As(err, &refused) {
			t.Errorf("no such file: %v", err)
		}
	})
}

// TestCheckBounded: a check that hangs is ended with everything that it started, one that floods is cut.
func TestCheckBounded(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	hang := file(t, fmt.Sprintf("#!/bin/sh\nsleep 1000 & echo $! >%s\nwait\n", pidFile), 0o700)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if data, err := os.ReadFile(pidFile); err == nil && strings.HasSuffix(string(data), "\n") {
				cancel()
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	if _, err := (Checker{Binary: hang}).Check(ctx, file(t, "", 0o600)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	data, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(data), &pid); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); alive(pid); time.Sleep(5 * time.Millisecond) { // it is no child of ours to wait for
		if time.Now().After(end) {
			t.Fatalf("process %d lives on", pid)
		}
	}
	flood := file(t, "#!/bin/sh\nhead -c 10000000 /dev/zero | tr '\\0' x\nexit 1\n", 0o700)
	var refused *CheckError
	if _, err := (Checker{Binary: flood}).Check(t.Context(), file(t, "", 0o600)); !errors.As(err, &refused) || len(err.Error()) > maxOutput+200 {
		t.Errorf("flood: %d bytes", len(err.Error()))
	}
}

func TestReadAbilities(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		a, err := ReadAbilities(t.Context(), h.Path)
		if err != nil || fmt.Sprintf("%d.%d", a.Major, a.Minor) != h.Version || !strings.HasPrefix(a.Version, h.Version) || !a.Prometheus || !a.OpenSSL {
			t.Errorf("%+v, %v", a, err)
		}
		if a.HashKey() != (h.Version != "2.6") {
			t.Errorf("hash-key: %v", a.HashKey())
		}
	})
	if a, err := parseAbilities("HAProxy version 2.6.12 2023\nFeature list : +ACCEPT4 -OPENSSL\nAvailable services : none\n"); err != nil || a.OpenSSL || a.Prometheus {
		t.Errorf("without both: %+v, %v", a, err)
	}
	for out, want := range map[string]string{
		"HAProxy version 2.4.22 2023/02/14\n": "too old", "HAProxy version x\n": "is none", "nginx 1.2\n": "does not say", "": "does not say", "HAProxy version \n": "does not say",
	} {
		if _, err := parseAbilities(out); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", out, err)
		}
	}
	if _, err := ReadAbilities(t.Context(), "/nonexistent/haproxy"); err == nil || !strings.Contains(err.Error(), "--haproxy") {
		t.Errorf("got %v", err)
	}
}

func FuzzParseAbilities(f *testing.F) {
	f.Add("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://x\nAvailable services : prometheus-exporter\n")
	f.Fuzz(func(t *testing.T, out string) {
		if a, err := parseAbilities(out); err == nil && !a.AtLeast(2, 6) {
			t.Fatalf("%+v", a)
		}
	})
}

func TestLimits(t *testing.T) {
	n, err := FileLimit()
	if err != nil || n < 256 || n > mostFiles {
		t.Errorf("%d, %v", n, err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "PROCESS_TEST_CHILD=limit")
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "300<nil>" {
		t.Errorf("a child has the limit %s, %v", out, err)
	}
	if n, err := memTotal("MemTotal:        2048 kB\n"); err != nil || n != 2<<20 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := memTotal("nothing"); err == nil {
		t.Error("no total, no error")
	}
	got := memoryFiles("0::/system.slice/x.service\n4:cpu,memory:/docker/abc\n")
	want := []string{
		"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes",
		"/sys/fs/cgroup/system.slice/x.service/memory.max", "/sys/fs/cgroup/system.slice/memory.max",
		"/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got %q", got)
	}
}

// TestTrimLog: a log within bounds stays, a long one begins anew, and one that is gone is nothing to mend.
func TestTrimLog(t *testing.T) {
	log := file(t, "words\n", 0o600)
	c := New(Options{Log: log}, nil)
	if err := c.TrimLog(); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(log); err != nil || string(data) != "words\n" {
		t.Errorf("%q, %v", data, err)
	}
	if err := os.Truncate(log, maxLog+1); err != nil {
		t.Fatal(err)
	}
	if err := c.TrimLog(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(log); err != nil || info.Size() != 0 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	if err := c.TrimLog(); err != nil {
		t.Errorf("deleted by somebody: %v", err)
	}
}
