package app

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor"
)

// notifyTime bounds one message to the service manager: a datagram waits while its queue is full.
const notifyTime = time.Second

// notifier tells the service manager how we are, by the protocol of sd_notify(3). Its watchdog is fed by the supervisor's owner
// alone: when that hangs, no message says that we are alive. A nil *notifier tells nobody, and all calls on it do nothing.
type notifier struct {
	send  func(state string) error
	every time.Duration // between two signs of life; 0: none are wanted
	log   *slog.Logger
	beats chan struct{} // of the owner

	mu     sync.Mutex // what is sent keeps its order
	ready  bool       // READY=1 was sent
	phase  model.Phase
	told   string // the last STATUS
	fed    time.Time
	broken bool // the last message was not sent
}

// newNotifier reads what the service manager has put into the environment; nil when there is none.
func newNotifier(env func(string) (string, bool), log *slog.Logger) *notifier {
	socket, _ := env("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	n := &notifier{send: func(state string) error { return notify(socket, state) }, log: log, beats: make(chan struct{}, 1), phase: model.Starting}
	usec, _ := env("WATCHDOG_USEC")
	if limit, err := strconv.ParseInt(usec, 10, 64); err == nil && limit > 0 {
		if pid, ok := env("WATCHDOG_PID"); !ok || pid == strconv.Itoa(os.Getpid()) {
			n.every = time.Duration(limit) * time.Microsecond / 4
		}
	}
	return n
}

// notify sends one message; a leading @ is an abstract socket, which package net knows as well.
func notify(socket, state string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(notifyTime)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(state))
	return err
}

// watch makes the supervisor feed the notifier.
func (n *notifier) watch(o *supervisor.Options) {
	if n == nil {
		return
	}
	o.Beat = func() {
		select {
		case n.beats <- struct{}{}:
		default:
		}
	}
	o.BeatEvery = n.every
}

// run tells what changes until ctx ends, and then a last time.
func (n *notifier) run(ctx context.Context, status func() *supervisor.Status) {
	if n == nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			n.beat(status())
			return
		case <-n.beats:
			n.beat(status())
		}
	}
}

// beat is one sign of life of the owner.
func (n *notifier) beat(st *supervisor.Status) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var lines []string
	switch {
	case st.Phase == model.Serving && !n.ready:
		n.ready = true
		lines = append(lines, "READY=1")
	case st.Phase == model.Stopping && n.phase != model.Stopping:
		lines = append(lines, "STOPPING=1")
	}
	n.phase = st.Phase
	if text := statusText(st); text != n.told {
		n.told = text
		lines = append(lines, "STATUS="+text)
	}
	if n.every > 0 && time.Since(n.fed) >= n.every {
		n.fed = time.Now()
		lines = append(lines, "WATCHDOG=1")
	}
	if len(lines) > 0 {
		n.tell(lines...)
	}
}

// reload tells that files are read again, does it, and tells that it is done.
func (n *notifier) reload(read func()) {
	if n == nil || !n.begin() {
		read()
		return
	}
	read()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tell("READY=1")
}

// begin reports whether a reload can be told: only who was ready can be again.
func (n *notifier) begin() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.ready || n.phase == model.Stopping {
		return false
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		n.log.Warn("the monotonic clock cannot be read", "error", err)
		return false
	}
	n.tell("RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(now.Nano()/1000, 10))
	return true
}

// tell sends; that nobody hears it is logged once.
func (n *notifier) tell(lines ...string) {
	err := n.send(strings.Join(lines, "\n"))
	if err != nil && !n.broken {
		n.log.Warn("the service manager cannot be told how we are", "error", err)
	}
	n.broken = err != nil
}

// statusText is one line for `systemctl status`.
func statusText(st *supervisor.Status) string {
	switch st.Phase {
	case model.Starting:
		return "starting"
	case model.Broken:
		return "haproxy is down and is started again"
	case model.Stopping:
		return "stopping: running requests finish"
	}
	up := 0
	for i := range st.Servers {
		if st.Servers[i].Health == model.Up {
			up++
		}
	}
	text := fmt.Sprintf("serving, %d of %d servers are up", up, len(st.Servers))
	if len(st.Degraded) > 0 {
		text += "; degraded: " + strings.ToValidUTF8(strings.Join(strings.Fields(st.Degraded[0]), " "), "?")
	}
	return text
}
