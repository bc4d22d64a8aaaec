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
	// With less HAProxy does not start, whatever its text: "Cannot raise FD limit to 238" (2.6), 249 (3.0), 246 (3.2), and up to three more
	// for each thread. The exact number is its own to tell.
	leastFiles = 238
	// EnoughFiles is what HAProxy can be reloaded with as well: that takes more than a start, for the ports that are handed over, and is
	// refused else ("Cannot raise FD limit to 257" of a 3.0 that had started with 256 and one port). It is also the least that memory alone
	// makes of the limit: a small memory limit with many cores must not keep HAProxy from starting.
	EnoughFiles = 320
	// A busy connection costs HAProxy a buffer of 16 KiB and about 1 KiB of state on each side, and each side is one descriptor.
	// Measured per descriptor: idle clients 1.2 KiB, requests that wait for a server 2.5 KiB, requests stuck with full buffers 12.5 KiB
	// (3.0, 3.2) to 26.5 KiB (2.6), so that the worst still fits. The kernel's own socket buffers are bounded apart (tcp_mem).
	bytesPerFile = 18 << 10
	// fnlb, HAProxy's master, two workers and a haproxy -c at a reload, with next to no connections. The most that a control group
	// counted while that was done: 15.5 MB (2.6), 21.3 MB (3.0), 26.4 MB (3.2); with less than that the kernel kills one of them.
	baseMemory  = 28 << 20
	leastMemory = 32 << 20
)

// FileLimit says how many files HAProxy may open at most: the least of the hard limit, of what half of the memory bears when every
// descriptor is a busy connection (less than half when that leaves too little for the processes themselves), and of 1,048,576.
// HAProxy derives its maxconn from it, and its tables grow with it, so a limit of a thousand millions, as container engines set it,
// must not reach it. A limit with which HAProxy cannot run is an error that says which to raise.
func FileLimit() (uint64, error) {
	hard, err := OpenFiles()
	if err != nil {
		return 0, err
	}
	memory, err := MemoryLimit()
	if err != nil {
		return 0, err
	}
	return fileLimit(hard, memory)
}

// OpenFiles is how many files this process may open at most.
func OpenFiles() (uint64, error) {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return 0, fmt.Errorf("limit on open files: %w", err)
	}
	return lim.Max, nil
}

func fileLimit(hard, memory uint64) (uint64, error) {
	if hard < leastFiles {
		return 0, fmt.Errorf("limit on open files: HAProxy does not start with %d, it needs at least %d and 3 for each core; raise it (ulimit -n, docker run --ulimit nofile=, LimitNOFILE=)", hard, leastFiles)
	}
	if memory < leastMemory {
		return 0, fmt.Errorf("limit on memory: %d MiB are too few for HAProxy and its reloads, which need %d MiB; raise it (docker run --memory, MemoryMax=)", memory>>20, leastMemory>>20)
	}
	return min(hard, max(min(memory/2, memory-baseMemory)/bytesPerFile, EnoughFiles), mostFiles), nil
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

// MemoryLimit is the least of the host's memory and of our control groups' limits, in bytes.
func MemoryLimit() (uint64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("limit on memory: %w", err)
	}
	total, err := memTotal(string(data))
	if err != nil {
		return 0, fmt.Errorf("limit on memory: %w", err)
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("limit on memory: %w", err)
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
