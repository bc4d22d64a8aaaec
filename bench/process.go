package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ticks is the unit of CPU time in /proc: USER_HZ, 100 a second on every Linux that Go runs on.
const ticks = 100

// process is a child of the bench, in a process group of its own, so that Ctrl-C reaches only the bench, which then ends it.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how, after done
	log  string
	over bool // stop was called
}

// spawn starts a command pinned to a core (-1: any), its output in a log file.
func spawn(dir, name string, core int, env []string, args ...string) (*process, error) {
	if core >= 0 {
		args = append([]string{"taskset", "-c", strconv.Itoa(core)}, args...)
	}
	p := &process{name: name, done: make(chan struct{}), log: dir + "/" + name + ".log"}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	p.cmd = exec.Command(args[0], args[1:]...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the process with a signal, and with SIGKILL where that takes longer than the limit.
// A second call does nothing.
func (p *process) stop(signal os.Signal, limit time.Duration) error {
	if p.over {
		return nil
	}
	p.over = true
	select {
	case <-p.done:
		return fmt.Errorf("%s had ended by itself: %w\n%s", p.name, p.err, p.tail())
	default:
	}
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
	}
	err := syscall.Kill(-p.pid(), syscall.SIGKILL)
	<-p.done
	return errors.Join(fmt.Errorf("%s did not end within %s of %s:\n%s", p.name, limit, signal, p.tail()), err)
}

// tail is the end of its output.
func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

// until waits for a condition, looking at it in an interval, while the process lives.
func (p *process) until(ctx context.Context, limit, interval time.Duration, is func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	look := time.NewTicker(interval)
	defer look.Stop()
	for !is() {
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %w\n%s", p.name, p.err, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not as wanted after %s: %w\n%s", p.name, limit, ctx.Err(), p.tail())
		case <-look.C:
		}
	}
	return nil
}

// cpuTime is what a process has used, in user and system mode, with all its threads (proc(5), stat: utime and stime).
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // the name before may hold anything
	if len(fields) < 13 {
		return 0, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(fields))
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
	}
	return time.Duration(user+system) * time.Second / ticks, nil
}

// hostTime is the CPU time that everything on the host has used (proc(5), stat): all but idle, iowait and guests.
func hostTime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	var user, nice, system, idle, wait, irq, softirq, steal int64
	if _, err := fmt.Sscanf(string(text), "cpu %d %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &wait, &irq, &softirq, &steal); err != nil {
		return 0, fmt.Errorf("read /proc/stat: %w", err)
	}
	return time.Duration(user+nice+system+irq+softirq+steal) * time.Second / ticks, nil
}

// memory is a size of a process in kB (proc(5), status), as VmRSS or VmHWM.
func memory(pid int, field string) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if f := strings.Fields(line); len(f) == 3 && f[0] == field+":" && f[2] == "kB" {
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("read /proc/%d/status: no %s", pid, field)
}

// children are the direct children of a process that has one thread.
func children(pid int) ([]int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil, err
	}
	var pids []int
	for word := range strings.FieldsSeq(string(text)) {
		child, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("read children of %d: %w", pid, err)
		}
		pids = append(pids, child)
	}
	return pids, nil
}

// ports gives free ones. They are held together, so that they differ.
func ports(n int) ([]int, error) {
	held := make([]net.Listener, 0, n)
	defer func() {
		for _, l := range held {
			l.Close()
		}
	}()
	found := make([]int, n)
	for i := range found {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		held = append(held, l)
		found[i] = l.Addr().(*net.TCPAddr).Port
	}
	return found, nil
}
