package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// groupPoll is how often the processes of a group are looked at: those that lost their leader are not ours to wait for.
const groupPoll = 5 * time.Millisecond

// awaitExit waits until a child has ended and does not reap it: as a zombie it keeps its pid and its process group from being given
// to a stranger until everything that must be signalled was signalled.
func awaitExit(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("waitid", err)
		}
	}
}

// signalGroup signals a process group whose leader is an unreaped child of ours.
func signalGroup(pgid int, sig unix.Signal) error {
	if err := unix.Kill(-pgid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %s to process group %d: %w", unix.SignalName(sig), pgid, err)
	}
	return nil
}

// endRest ends what is left of a group whose leader has ended; that of a child is not reaped yet. Workers whose master was killed end by
// themselves within some 20 ms, with all connections (2.6, 3.0, 3.2, former workers too), so there is nothing to spare; only one
// that is stopped or stuck stays, and would go on sharing its ports with the next HAProxy. It says which had to be killed.
func endRest(r *run, patience time.Duration) (killed []int, err error) {
	rest := r.members()
	if len(rest) == 0 {
		return nil, nil
	}
	if err := errors.Join(r.signalRest(unix.SIGTERM), r.signalRest(unix.SIGCONT)); err != nil {
		return nil, err
	}
	if rest = awaitNone(r, patience); len(rest) == 0 {
		return nil, nil
	}
	if err := r.signalRest(unix.SIGKILL); err != nil {
		return nil, err
	}
	if stay := awaitNone(r, patience); len(stay) > 0 {
		return rest, fmt.Errorf("processes %v of haproxy %d survive SIGKILL", stay, r.pid)
	}
	return rest, nil
}

// awaitNone waits until the leader is alone, or for limit; it returns who is still there.
func awaitNone(r *run, limit time.Duration) []int {
	timer, tick := time.NewTimer(limit), time.NewTicker(groupPoll)
	defer timer.Stop()
	defer tick.Stop()
	for {
		rest := r.members()
		if len(rest) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-timer.C:
			return rest
		}
	}
}

// members lists the living processes of a group without its leader. Zombies have closed their sockets and do not count; those
// that became children of ours (as process 1 of a container we inherit orphans) are reaped here.
func members(pgid int) []int {
	var pids []int
	for _, pid := range processes() {
		if pid == pgid {
			continue
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has just ended
		}
		st, ok := parseStat(data)
		if !ok || st.group != pgid {
			continue
		}
		if !st.ended() {
			pids = append(pids, pid)
		} else if st.parent == os.Getpid() {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // it stays a zombie when that fails, which is harmless
		}
	}
	return pids
}

// processes lists all pids that /proc shows.
func processes() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer func() { _ = dir.Close() }()   // it was only read
	names, _ := dir.Readdirnames(-1)     // what could be read
	pids := make([]int, 0, len(names)/2) // the other half is no process
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// procStat is what we need of /proc/PID/stat (proc(5)).
type procStat struct {
	state                  byte
	parent, group, threads int
	ticks                  uint64 // when it was started, in the kernel's clock; exec does not change it
}

// ended: of a process of several threads the first may be a zombie while others still hold its files.
func (s procStat) ended() bool { return (s.state == 'Z' || s.state == 'X') && s.threads <= 1 }

// clockTick is how many ticks a second has on all of Linux's platforms that Go knows (USER_HZ).
const clockTick = 100

// startTime turns ticks since the host's start into a time; it is for people.
func startTime(ticks uint64) time.Time {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return time.Time{}
	}
	up := time.Duration(now.Nano())
	return time.Now().Add(time.Duration(ticks)*(time.Second/clockTick) - up)
}

// parseStat reads "PID (NAME) STATE PPID PGRP … THREADS … START …"; the name may hold anything, brackets and spaces too.
func parseStat(data []byte) (procStat, bool) {
	f := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(f) < 20 || len(f[0]) != 1 {
		return procStat{}, false
	}
	s := procStat{state: f[0][0]}
	for _, n := range []struct {
		field int
		to    *int
	}{{1, &s.parent}, {2, &s.group}, {17, &s.threads}} {
		var err error
		if *n.to, err = strconv.Atoi(string(f[n.field])); err != nil {
			return procStat{}, false
		}
	}
	var err error
	if s.ticks, err = strconv.ParseUint(string(f[19]), 10, 64); err != nil {
		return procStat{}, false
	}
	return s, true
}
