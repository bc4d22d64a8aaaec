package process

import (
	"strings"
	"syscall"
	"testing"
)

// TestFileLimit: what becomes of the hard limit and of memory.
func TestFileLimit(t *testing.T) {
	const mib = 1 << 20
	for _, test := range []struct {
		hard, memory, want uint64
		refused            string
	}{
		{1 << 30, 1 << 40, mostFiles, ""},            // "unlimited", and memory without end
		{^uint64(0), 64 * mib, 1820, ""},             // half of the memory
		{1 << 20, 48 * mib, 1137, ""},                // the processes need more than half
		{1 << 20, 32 * mib, EnoughFiles, ""},         // almost all of it
		{256, 1 << 40, 256, ""},                      // few files
		{leastFiles, 32 * mib, leastFiles, ""},       // the least of both
		{leastFiles - 1, 1 << 40, 0, "LimitNOFILE="}, // one less
		{1 << 20, 32*mib - 1, 0, "MemoryMax="},
		{1 << 20, 0, 0, "MemoryMax="},
	} {
		n, err := fileLimit(test.hard, test.memory)
		if n != test.want || (err == nil) != (test.refused == "") || err != nil && !strings.Contains(err.Error(), test.refused) {
			t.Errorf("%d files, %d bytes: %d, %v", test.hard, test.memory, n, err)
		}
	}
}

// TestExitHints: what a person can do about it stands behind how it ended.
func TestExitHints(t *testing.T) {
	for _, test := range []struct {
		e    ExitError
		want string
	}{
		{ExitError{Code: 137}, "out of memory?"},
		{ExitError{Code: -1, Signal: syscall.SIGKILL}, "out of memory?"},
		{ExitError{Code: 1, Output: "[haproxy.main()] Cannot raise FD limit to 246, limit is 100."}, "LimitNOFILE="},
	} {
		if got := test.e.Error(); !strings.Contains(got, test.want) {
			t.Errorf("%q says nothing of %q", got, test.want)
		}
	}
	if got := (&ExitError{Code: 139}).Error(); strings.Contains(got, "memory") {
		t.Errorf("a crash is %q", got)
	}
}
