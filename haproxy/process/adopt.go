package process

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ownerPatience is how long Adopt waits for the one of several masters that has the socket: 2.6 is away while it re-executes itself.
const ownerPatience = 2 * time.Second

// OtherArgs says that the HAProxy of the master socket was started in another way than we would start it. It was left alone.
type OtherArgs struct {
	Master     int
	Have, Want []string // from -W on
}

// Config is the first configuration file of its command line, "" when there is none.
func (e *OtherArgs) Config() string {
	if i := slices.Index(e.Have, "-f"); i >= 0 && i+1 < len(e.Have) {
		return e.Have[i+1]
	}
	return ""
}

func (e *OtherArgs) Error() string {
	return fmt.Sprintf("haproxy %d was started with %q, not with %q", e.Master, strings.Join(e.Have, " "), strings.Join(e.Want, " "))
}

// Adopt takes charge of the HAProxy that an earlier process of ours started with this master socket, as if Start had returned it:
// Exited and Stop hold for it, and its death is seen by a pidfd, because it is no child. It asks HAProxy nothing and changes nothing,
// so it also finds one that has only just been forked. Without one the result is nil. *OtherArgs says that there is one that we
// would have started otherwise.
//
// A master that does not have the socket any more was superseded and finishes its last requests; it is told so again, and Stop waits
// for it as well.
func (c *Child) Adopt() (*Identity, error) {
	c.acting.Lock()
	defer c.acting.Unlock()
	masters, _ := processesOf(c.o.Socket)
	if len(masters) == 0 {
		return nil, nil
	}
	serves, err := c.serves(masters)
	if err != nil {
		return nil, fmt.Errorf("adopt: %w", err)
	}
	var id *Identity
	for _, m := range masters {
		r, err := c.hold(m)
		if err != nil {
			return nil, fmt.Errorf("adopt haproxy %d: %w", m, err)
		}
		if r == nil {
			continue // it has just ended
		}
		if m != serves {
			c.former = append(c.former, r)
			if err := r.signal(unix.SIGUSR1); err != nil {
				return nil, fmt.Errorf("adopt: %w", err)
			}
			continue
		}
		if have := fromMode(r.args); !isPart(c.args(), have) {
			return nil, &OtherArgs{Master: m, Have: have, Want: c.args()}
		}
		c.mu.Lock()
		c.run = r
		c.mu.Unlock()
		id = &Identity{Master: m, Ticks: r.ticks, Started: startTime(r.ticks)}
	}
	return id, nil
}

// Supersede gives up the HAProxy in charge, because it has closed its ports and only finishes its last requests: the next Start may
// start another beside it. Stop waits for it as well.
func (c *Child) Supersede() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run != nil {
		c.former = append(c.former, c.run)
		c.run = nil
	}
}

// serves picks the master that has the socket. A single one needs none: it may be about to open it.
func (c *Child) serves(masters []int) (int, error) {
	if len(masters) == 1 {
		return masters[0], nil
	}
	for end := time.Now().Add(ownerPatience); ; time.Sleep(groupPoll) {
		if pid, err := SocketOwner(c.o.Socket); err == nil && slices.Contains(masters, pid) {
			return pid, nil
		}
		if time.Now().After(end) {
			return 0, fmt.Errorf("processes %v are HAProxy masters of %s, and none of them answers; end them with kill -USR1", masters, c.o.Socket)
		}
	}
}

// hold opens a master that is no child. It gives nil when that has ended, or when its pid means another process by now.
func (c *Child) hold(pid int) (*run, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	switch {
	case errors.Is(err, unix.ESRCH):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("watch it by a pidfd, which needs Linux 5.3 and a container engine that allows it: %w", err)
	}
	// From here on the pid cannot come to mean another process unnoticed: what is read next is told by a living one.
	args, st, ok := describe(pid)
	if !ok || !isOurs(pid, args, c.o.Socket) {
		return nil, unix.Close(fd)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // for the runtime's poller
		return nil, errors.Join(err, unix.Close(fd))
	}
	from := int64(0)
	if info, err := os.Stat(c.o.Log); err == nil {
		from = info.Size()
	}
	r := &run{
		pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd"), fd: fd, socket: c.o.Socket, args: args, ticks: st.ticks, logFrom: from,
		exited: make(chan error, 1), done: make(chan struct{}),
	}
	go r.watchAdopted(c.o.Log, c.patience) // ends with the process
	return r, nil
}

// watchAdopted sees the end of a process that is no child, and ends what it left behind.
func (r *run) watchAdopted(log string, patience time.Duration) {
	err := awaitPidfd(r.pidfd)
	var killed []int
	if err == nil {
		killed, err = endRest(r, patience)
	}
	r.mu.Lock()
	r.reaped = true
	err = errors.Join(err, r.pidfd.Close())
	r.mu.Unlock()
	words := lastWords(log, r.logFrom)
	if err != nil {
		words = strings.TrimPrefix(words+"; "+err.Error(), "; ")
	}
	r.err = &ExitError{Code: -1, Adopted: true, Output: words, Killed: killed}
	close(r.done)
	r.exited <- r.err
}

// awaitPidfd waits until the process has ended: then its pidfd is readable (pidfd_open(2)).
func awaitPidfd(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch a process: %w", err)
	}
	var errPoll error
	err = conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			errPoll = err
		}
		return n > 0 || errPoll != nil
	})
	if err := errors.Join(err, errPoll); err != nil {
		return fmt.Errorf("watch a process: %w", err)
	}
	return nil
}

// processesOf lists the living processes that were started with a master socket: the masters, which lead the process group that they
// were started in, and the processes whose master is gone.
func processesOf(socket string) (masters, orphans []int) {
	groups := map[int]int{}
	for _, pid := range processes() {
		args, st, ok := describe(pid)
		if !ok || !isOurs(pid, args, socket) {
			continue
		}
		if st.group == pid {
			masters = append(masters, pid)
		} else {
			groups[pid] = st.group
		}
	}
	for pid, group := range groups {
		if !slices.Contains(masters, group) {
			orphans = append(orphans, pid)
		}
	}
	slices.Sort(masters)
	slices.Sort(orphans)
	return masters, orphans
}

// describe reads a living process's command line and state.
func describe(pid int) (args []string, st procStat, ok bool) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(line) == 0 { // it has ended, or is a kernel's own
		return nil, st, false
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, st, false
	}
	st, ok = parseStat(data)
	return strings.Split(string(bytes.TrimRight(line, "\x00")), "\x00"), st, ok && !st.ended()
}

// isOurs reports whether a process was started with this master socket. The same path in another mount namespace, such as a
// container's, is another socket.
func isOurs(pid int, args []string, socket string) bool {
	i := slices.Index(args, "-S")
	if i < 0 || i+1 >= len(args) || !strings.HasPrefix(args[i+1], socket+",") {
		return false
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return true // we may not look: then it cannot be told apart, and is better left running
	}
	own, err := os.Readlink("/proc/self/ns/mnt")
	return err != nil || own == theirs
}

// SocketOwner is the process that listens on a Unix socket, in our own numbering; 0 when it lives where we cannot see it.
func SocketOwner(path string) (pid int, err error) {
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("%s is no Unix socket", path)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var errCred error
	err = raw.Control(func(fd uintptr) { cred, errCred = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, errCred); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// fromMode cuts off what stands before -W: the program, and what a reload puts there ("-sf PID… -x sockpair@N", seen on 2.6, 3.0 and
// 3.2).
func fromMode(args []string) []string { return args[max(0, slices.Index(args, "-W")):] }

// isPart reports whether all of want stands in have, side by side.
func isPart(want, have []string) bool {
	for i := 0; i+len(want) <= len(have); i++ {
		if slices.Equal(want, have[i:i+len(want)]) {
			return true
		}
	}
	return false
}

// clear makes sure that nothing of an earlier HAProxy is in the way of a new one: a master is never started beside another that is in
// charge. What a dead master left behind (a worker that was stopped) would go on sharing the ports, and is ended.
func (c *Child) clear() error {
	masters, orphans := processesOf(c.o.Socket)
	former := map[int]bool{}
	for _, r := range c.former {
		former[r.pid] = true
	}
	for _, m := range masters {
		if !former[m] {
			return fmt.Errorf("haproxy %d has the same master socket; end it with kill -USR1 %d", m, m)
		}
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGCONT, unix.SIGKILL} {
		for _, pid := range orphans {
			if err := signalOurs(pid, c.o.Socket, sig); err != nil {
				return err
			}
		}
		if sig == unix.SIGTERM {
			continue // one that is stopped hears nothing before it goes on
		}
		for end := time.Now().Add(c.patience); len(orphans) > 0 && time.Now().Before(end); time.Sleep(groupPoll) {
			_, orphans = processesOf(c.o.Socket)
		}
	}
	if len(orphans) > 0 {
		return fmt.Errorf("processes %v of an earlier haproxy survive SIGKILL", orphans)
	}
	return c.removeSocket()
}

// signalOurs signals a process that is no child, if it is still what it was.
func signalOurs(pid int, socket string, sig unix.Signal) (err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if args, _, ok := describe(pid); !ok || !isOurs(pid, args, socket) {
		return nil
	}
	return send(fd, pid, sig)
}

func send(fd, pid int, sig unix.Signal) error {
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %s to haproxy %d: %w", unix.SignalName(sig), pid, err)
	}
	return nil
}
