package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// TestFirstScreen: once the start has settled the log has a table of what is served and what is not; then changes have their lines, and
// the table does not come again.
func TestFirstScreen(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n, later := NewNode(t, "a"), NewNode(t, "b")
		absent := fmt.Sprintf("127.0.0.1:%d", haproxytest.FreePort(t))
		b := New(t, TempDir(t))
		b.Env = []string{"FNLB_FIRST_SCREEN=on", "NO_COLOR=1"}
		b.Run(h, "--nodes", list(n)+","+absent)
		mark := b.WaitLog(0, "fnlb ", " with HAProxy "+h.Version, " serves:")
		mark = b.WaitLog(mark, "LISTEN", "HOST/PATH", "SERVICE", "SERVERS")
		mark = b.WaitLog(mark, b.Traffic, "all", "nodes", "1 of 2 up")
		mark = b.WaitLog(mark, "Not served:")
		mark = b.WaitLog(mark, "nodes "+absent+":", "it has not passed its first check")
		b.Put(later.Addr)
		b.WaitLog(mark, "is healthy", "node="+later.Addr)
		if times := strings.Count(b.Log(), "LISTEN"); times != 1 {
			t.Errorf("%d tables:\n%s", times, b.Log())
		}
		for line := range strings.Lines(b.Log()) {
			if !strings.HasPrefix(line, "time=") && len([]rune(line)) > 81 {
				t.Errorf("wider than 80 columns: %s", line)
			}
		}
	})
}
