package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
)

// Limits of one run of the binary that is no server: reading 10,000 checked servers takes 0.2 s (haproxy -c).
const (
	checkLimit  = 5 * time.Second
	checkPerMiB = 5 * time.Second // more for large texts
	maxOutput   = 64 << 10        // bytes
)

// CheckError says that HAProxy refuses a text.
type CheckError struct{ Output string } // its ALERT lines, or all of what it said

func (e *CheckError) Error() string { return "haproxy refuses the text: " + e.Output }

// Checker asks the real HAProxy about a text (management manual, section 3, option -c).
type Checker struct{ Binary string }

// Check runs haproxy -c on the files, with the identity and the empty environment that HAProxy itself will have, bounded in time
// and output. It gives the warnings. A *CheckError says that the text is refused; any other error, that nothing is known.
func (c Checker) Check(ctx context.Context, files ...string) (warnings string, err error) {
	limit := checkLimit
	args := []string{"-c"}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return "", fmt.Errorf("check: %w", err)
		}
		limit += checkPerMiB * time.Duration(info.Size()>>20)
		args = append(args, "-f", f)
	}
	out, code, err := runBounded(ctx, limit, c.Binary, args...)
	if err != nil {
		return "", fmt.Errorf("check with haproxy -c: %w", err)
	}
	if code != 0 {
		words := complaints(out)
		if words == "" {
			words = fmt.Sprintf("exit code %d: %s", code, strings.TrimSpace(out))
		}
		return "", &CheckError{Output: words}
	}
	var lines []string
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "[WARNING]") {
			lines = append(lines, bare(line))
		}
	}
	return strings.Join(lines, "; "), nil
}

// ReadAbilities asks a binary what it is (haproxy -vv). Versions before 2.6 are refused.
func ReadAbilities(ctx context.Context, binary string) (conf.Abilities, error) {
	out, code, err := runBounded(ctx, checkLimit, binary, "-vv")
	switch {
	case errors.Is(err, os.ErrNotExist):
		return conf.Abilities{}, fmt.Errorf("haproxy: %w; install it (apt-get install haproxy) or name it with --haproxy", err)
	case err != nil:
		return conf.Abilities{}, fmt.Errorf("ask %s for its version: %w; name another with --haproxy", binary, err)
	case code != 0:
		return conf.Abilities{}, fmt.Errorf("ask %s for its version: exit code %d; name another with --haproxy", binary, code)
	}
	a, err := parseAbilities(out)
	if err != nil {
		return a, fmt.Errorf("%s: %w; name another with --haproxy", binary, err)
	}
	return a, nil
}

// parseAbilities reads the lines "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - …" and "Available services : prometheus-exporter".
func parseAbilities(out string) (conf.Abilities, error) {
	var a conf.Abilities
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, "HAProxy version "); ok && a.Version == "" {
			fields := strings.Fields(rest)
			if len(fields) == 0 {
				break
			}
			a.Version = fields[0]
			if _, err := fmt.Sscanf(a.Version, "%d.%d", &a.Major, &a.Minor); err != nil {
				return a, fmt.Errorf("its version %q is none", a.Version)
			}
		}
		if rest, ok := strings.CutPrefix(line, "Available services :"); ok {
			a.Prometheus = strings.Contains(rest, "prometheus-exporter")
		}
	}
	switch {
	case a.Version == "":
		return a, errors.New("it does not say that it is HAProxy")
	case !a.AtLeast(2, 6):
		return a, fmt.Errorf("HAProxy %s is too old, 2.6 is the least", a.Version)
	}
	return a, nil
}

// runBounded runs a program to its end. At the limit its whole process group is killed: it serves nobody.
func runBounded(ctx context.Context, limit time.Duration, binary string, args ...string) (output string, code int, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = []string{}
	out := &capped{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for a grandchild that keeps the output open
	err = cmd.Run()
	if ctx.Err() != nil {
		return "", 0, fmt.Errorf("no end within %s: %w", limit, ctx.Err())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", 0, err
	}
	return out.String(), cmd.ProcessState.ExitCode(), nil
}

// capped keeps the first bytes and forgets the rest.
type capped struct{ bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	if room := maxOutput - c.Len(); room > 0 {
		c.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
