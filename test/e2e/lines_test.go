package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// TestLogIsFollowed: fnlb follows the log into which HAProxy writes, also after the next fnlb has adopted that HAProxy, and a node that dies
// is found by it.
func TestLogIsFollowed(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n, m := NewNode(t, "n"), NewNode(t, "m")
		b := Start(t, h, "--nodes", n.Addr+","+m.Addr)
		b.WaitOnline(n, m)
		b.Eventually(b.unfollowed)
		b.Signal(syscall.SIGKILL)
		b.WaitExit()
		b.Run(h, "--nodes", n.Addr+","+m.Addr)
		b.WaitOnline(n, m)
		b.Eventually(b.unfollowed)
		m.Close()
		b.Eventually(func() string {
			list, err := b.Nodes()
			if err != nil || list[m.Addr] != "offline" || list[n.Addr] != "online" {
				return fmt.Sprint(list, err)
			}
			return ""
		})
	})
}

// unfollowed says why fnlb does not follow HAProxy's log by inotify (proc(5), fdinfo); empty: it does.
func (b *Balancer) unfollowed() string {
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(b.Dir, "haproxy.log"), &st); err != nil {
		return err.Error()
	}
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", b.Cmd.Process.Pid))
	if err != nil {
		return err.Error()
	}
	for _, info := range infos {
		text, err := os.ReadFile(info)
		if err != nil {
			continue // it was closed meanwhile
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "inotify ") && strings.Contains(line, fmt.Sprintf(" ino:%x ", st.Ino)) {
				return ""
			}
		}
	}
	return "fnlb does not watch haproxy.log"
}
