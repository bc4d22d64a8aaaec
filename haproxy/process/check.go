package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fnlb/fnlb/haproxy/conf"
)

// Limits of one run of the binary that is no server: reading 10,000 checked servers takes 0.2 s (haproxy -c).
const (
	checkLimit  = 5 * time.Second
	checkPerMiB = 5 * time.Second // more for large texts
	maxOutput   = 64 << 10        // bytes
	// A text may run code (lua-load) when it is checked. 10,000 checked servers take 80 MB, so this hinders nobody's text.
	maxMemory = 4 << 30 // bytes of address space
)

// CheckError says that HAProxy refuses a text.
type CheckError struct{ Output string } // its ALERT lines, or all of what it said

func (e *CheckError) Error() string { return "haproxy refuses the text: " + e.Output }

// Checker asks the real HAProxy about a text (management manual, section 3, option -c).
type Checker struct{ Binary string }

// Check runs haproxy -c on the files, with the identity and the empty environment that HAProxy itself will have, bounded in time,
// memory and output; what it starts is killed at its end. It gives the warnings. A *CheckError says that the text is refused, or
// crashes HAProxy; any other error, that nothing is known: the time limit, a missing binary, no memory, the end of ctx.
func (c Checker) Check(ctx context.Context, files ...string) (warnings string, err error) {
	size := int64(0)
	args := []string{"-c"}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return "", fmt.Errorf("check: %w", err)
		}
		size += info.Size()
		args = append(args, "-f", f)
	}
	limit := checkLimit + checkPerMiB*time.Duration(size>>20)
	out, state, err := runBounded(ctx, limit, c.Binary, args...)
	if err != nil {
		return "", fmt.Errorf("check with haproxy -c: %w", err)
	}
	if !state.Success() {
		words := complaints(out)
		if words == "" {
			words = strings.TrimSuffix(ending(state)+": "+printable(out, maxOutput), ": ")
		}
		if signalOf(state) == syscall.SIGKILL { // not by us, and no text does that
			return "", fmt.Errorf("check with haproxy -c: %s; is the host short of memory?", words)
		}
		return "", &CheckError{Output: words}
	}
	return said(out, "WARNING"), nil
}

// ReadAbilities asks a binary what it is (haproxy -vv). Versions before 2.6 are refused.
func ReadAbilities(ctx context.Context, binary string) (conf.Abilities, error) {
	out, state, err := runBounded(ctx, checkLimit, binary, "-vv")
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, exec.ErrNotFound):
		return conf.Abilities{}, fmt.Errorf("haproxy: %w; install it (apt-get install haproxy) or name it with --haproxy", err)
	case err != nil:
		return conf.Abilities{}, fmt.Errorf("ask %s for its version: %w; name another with --haproxy", binary, err)
	case !state.Success():
		return conf.Abilities{}, fmt.Errorf("ask %s for its version: %s; name another with --haproxy", binary, ending(state))
	}
	a, err := parseAbilities(out)
	if err != nil {
		return a, fmt.Errorf("%s: %w; name another with --haproxy", binary, err)
	}
	return a, nil
}

// parseAbilities reads the lines "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - …" "Available services : prometheus-exporter" and
// "Feature list : … +OPENSSL …".
func parseAbilities(out string) (conf.Abilities, error) {
	var a conf.Abilities
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, "HAProxy version "); ok && a.Version == "" {
			fields := strings.Fields(rest)
			if len(fields) == 0 {
				break
			}
			var err error
			if a, err = conf.VersionAbilities(printable(fields[0], maxLine)); err != nil {
				return a, err
			}
		}
		if rest, ok := strings.CutPrefix(line, "Available services :"); ok {
			a.Prometheus = strings.Contains(rest, "prometheus-exporter")
		}
		if rest, ok := strings.CutPrefix(line, "Feature list :"); ok {
			a.OpenSSL = slices.Contains(strings.Fields(rest), "+OPENSSL")
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

// runBounded runs a program that serves nobody to its end. At the limit its whole process group is killed, and at its own end what
// it left there. The error says that it did not run to its end; how that was is in the state.
func runBounded(ctx context.Context, limit time.Duration, binary string, args ...string) (output string, state *os.ProcessState, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return "", nil, err
	}
	attributes, err := attributes()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.Command(binary, args...)
	cmd.Env = []string{}
	out := &capped{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = attributes
	cmd.WaitDelay = time.Second // for a grandchild that left the group and keeps the output open
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	pid := cmd.Process.Pid
	confine(pid)
	ended := make(chan error, 1)
	go func() { ended <- awaitExit(pid) }()
	var late error
	select {
	case err = <-ended:
	case <-ctx.Done():
		late = fmt.Errorf("no end within %s: %w", limit, ctx.Err())
	}
	err = errors.Join(err, signalGroup(pid, unix.SIGKILL)) // not reaped yet, so the group is its own
	if late != nil {
		err = errors.Join(err, <-ended)
	}
	errWait := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(errWait, &exit) || errors.Is(errWait, exec.ErrWaitDelay) {
		errWait = nil // the state tells
	}
	if err := errors.Join(late, err, errWait); err != nil {
		return "", nil, err
	}
	return out.buf.String(), cmd.ProcessState, nil
}

// confine bounds the memory of a run, and lets it be the first to go when the host is short of memory: what serves is more important.
// A host that forbids either (a filter of system calls) only loses that: time and output stay bounded. The run may have ended.
func confine(pid int) {
	var lim unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_AS, nil, &lim); err == nil && lim.Max > maxMemory {
		lim = unix.Rlimit{Cur: min(lim.Cur, maxMemory), Max: maxMemory}
		_ = unix.Prlimit(pid, unix.RLIMIT_AS, &lim, nil)
	}
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("1000"), 0)
}

// capped keeps the first bytes and forgets the rest. The buffer is no embedded one: its ReadFrom would go round the cap.
type capped struct{ buf bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	if room := maxOutput - c.buf.Len(); room > 0 {
		c.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
