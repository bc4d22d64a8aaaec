package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

var hotRow = regexp.MustCompile(`key=/hot .*gpt0=[0-9]{5,}`)

// TestLoadFeedback: while nodes say that calls of a path wait it is at several of them, also after a reload; then it comes home. Other paths
// stay where they are, and with --load-feedback off all do.
func TestLoadFeedback(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		builtin, err := os.ReadFile(filepath.Join("..", "..", "templates", "haproxy.tmpl"))
		if err != nil {
			t.Fatal(err)
		}
		tmpl := filepath.Join(TempDir(t), "haproxy.tmpl")
		write := func(more string) {
			if err := os.WriteFile(tmpl, append(builtin, more...), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("")
		var hot atomic.Bool
		says := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/hot" && hot.Load() {
				w.Header().Set("XXX-FXLB-WAIT", "3.5s")
			}
		})
		nodes := make([]*Node, 5)
		for i := range nodes {
			nodes[i] = NewNode(t, fmt.Sprintf("n%d", i))
			nodes[i].Handler.Store(&says)
		}
		b := Start(t, h, "--nodes", list(nodes...), "--template", tmpl)
		b.WaitOnline(nodes...)
		at := func(path string) string {
			status, node, text := fetch(t, b.Traffic, path)
			if status != http.StatusOK {
				t.Fatalf("%s: status %d, %s", path, status, text)
			}
			return node
		}
		spread := func(requests int) map[string]int {
			seen := map[string]int{}
			for range requests {
				seen[at("/hot")]++
			}
			return seen
		}
		home, other := at("/hot"), at("/other")
		if seen := spread(30); len(seen) != 1 || seen[home] != 30 {
			t.Errorf("a path that is not hot is at %v", seen)
		}
		hot.Store(true)
		if seen := spread(200); len(seen) < 2 {
			t.Errorf("a hot path is at %v", seen)
		}
		if now := at("/other"); now != other {
			t.Errorf("another path was at %s and is at %s", other, now)
		}
		b.WaitTables()
		reloads := b.reloads()
		write("# another text\n")
		b.Eventually(func() string {
			if b.reloads() == reloads {
				return "the template is not reloaded"
			}
			return ""
		})
		b.Eventually(func() string {
			if table := b.AskWorker("show table nodes"); !hotRow.MatchString(table) {
				return "the new worker does not know that the path is hot: " + table
			}
			return ""
		})
		hot.Store(false)
		b.Eventually(func() string { // each of its keys cools with the requests that it gets
			if seen := spread(50); len(seen) != 1 || seen[home] != 50 {
				return fmt.Sprintf("a path that has cooled is at %v, its home is %s", seen, home)
			}
			return ""
		})
		b.Signal(syscall.SIGTERM)
		b.WaitExit()
		b.Run(h, "--nodes", list(nodes...), "--load-feedback", "off")
		b.WaitOnline(nodes...)
		hot.Store(true)
		if seen := spread(50); len(seen) != 1 || seen[home] != 50 {
			t.Errorf("without feedback the path is at %v, its home is %s", seen, home)
		}
	})
}
