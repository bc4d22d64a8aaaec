package docker

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// rtMin is the first real-time signal, as C's library numbers them; systemd in a container is stopped by SIGRTMIN+3.
const rtMin = 34

// stops reports whether the signal, a number as events have it, tells a container to end whose stop signal is own. Others may mean
// anything: a new log file, a thread dump, a graceful reload.
func stops(signal, own string) bool {
	n, err := strconv.Atoi(signal)
	if err != nil {
		n = signalNumber(signal)
	}
	return n == int(syscall.SIGTERM) || n == int(syscall.SIGKILL) || n != 0 && n == signalNumber(own)
}

// signalNumber reads SIGTERM, TERM, 15 or SIGRTMIN+3; 0 is none of them.
func signalNumber(s string) int {
	if n, err := strconv.Atoi(s); err == nil {
		return n
	}
	s = "SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if after, ok := strings.CutPrefix(s, "SIGRTMIN"); ok {
		n, err := strconv.Atoi(after) // Atoi takes the plus sign
		if after != "" && err != nil {
			return 0
		}
		return rtMin + n
	}
	return int(unix.SignalNum(s))
}
