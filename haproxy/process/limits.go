package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

const (
	mostFiles = 1 << 20
	leastFile = 256
	// A busy connection costs HAProxy a buffer of 16 KiB and about 1 KiB of state on each side, and each side is one descriptor.
	// Measured per descriptor: idle clients 1.2 KiB, requests that wait for a server 2.5 KiB, requests stuck with full buffers 12.5 KiB
	// (3.0, 3.2) to 26.5 KiB (2.6), so that the worst still fits. The kernel's own socket buffers are bounded apart (tcp_mem).
	bytesPerFile = 18 << 10
)

// FileLimit says how many files HAProxy may open at most: the least of the hard limit, of what half of the memory bears when every
// descriptor is a busy connection, and of 1,048,576. HAProxy derives its maxconn from it, and its tables grow with it, so a limit
// of a thousand millions, as container engines set it, must not reach it.
func FileLimit() (uint64, error) {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return 0, fmt.Errorf("limit on open files: %w", err)
	}
	memory, err := memoryLimit()
	if err != nil {
		return 0, fmt.Errorf("limit on open files: %w", err)
	}
	return min(lim.Max, max(memory/2/bytesPerFile, leastFile), mostFiles), nil
}

// SetFileLimit sets the limit of this process, soft and hard: without a maxconn HAProxy raises its soft limit to the hard one and
// sizes everything by that (seen on 2.6, 3.0 and 3.2), so a soft one alone would bound nothing. Children inherit it: package syscall
// restores the limit from before the start of the program only for programs that never call Setrlimit.
func SetFileLimit(n uint64) error {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("limit on open files: %w", err)
	}
	lim.Max = min(n, lim.Max)
	lim.Cur = lim.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("limit on open files: %w", err)
	}
	return nil
}

// memoryLimit is the least of the host's memory and of our control groups' limits, in bytes.
func memoryLimit() (uint64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	total, err := memTotal(string(data))
	if err != nil {
		return 0, err
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	for _, file := range memoryFiles(string(groups)) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the other version of control groups, or none
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil { // else "max"
			total = min(total, n)
		}
	}
	return total, nil
}

func memTotal(meminfo string) (uint64, error) {
	for line := range strings.Lines(meminfo) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no MemTotal in /proc/meminfo")
}

// memoryFiles names the limits of a process's groups and of all groups above them, of both versions. In a container the paths
// are often those of the host, so the roots are always looked at.
func memoryFiles(groups string) []string {
	files := []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}
	for line := range strings.Lines(groups) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		var root, name string
		switch {
		case parts[0] == "0" && parts[1] == "":
			root, name = "/sys/fs/cgroup", "memory.max"
		case strings.Contains(","+parts[1]+",", ",memory,"):
			root, name = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		for path := parts[2]; path != "/" && path != "" && path != "."; path = path[:strings.LastIndexByte(path, '/')] {
			files = append(files, root+path+"/"+name)
			if !strings.Contains(path, "/") {
				break
			}
		}
	}
	return files
}
