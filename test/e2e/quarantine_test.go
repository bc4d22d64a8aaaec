package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// TestOneBadOf200 is fault row 2: for one of 200 new nodes the template makes a line that HAProxy refuses. 199 are applied, the one
// is named, and not one request is lost.
func TestOneBadOf200(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		first := NewNode(t, "a")
		many := manyNodes(t, 200)
		bad := many[137]
		_, port, err := net.SplitHostPort(bad)
		if err != nil {
			t.Fatal(err)
		}
		builtin, err := os.ReadFile("../../templates/haproxy.tmpl")
		if err != nil {
			t.Fatal(err)
		}
		tmpl := filepath.Join(TempDir(t), "haproxy.tmpl")
		text := string(builtin) + "\n{{range .Pools}}{{range .Servers}}{{if eq .Port " + port + "}}\nlisten x\n  bogus 1\n{{end}}{{end}}{{end}}\n"
		if err := os.WriteFile(tmpl, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		b := Start(t, h, "--nodes", first.Addr, "--template", tmpl, "--hc-interval", "5")
		b.WaitOnline(first)
		b.WaitApplied()
		worker := b.Status().HAProxy.Worker
		underLoad(t, b.Traffic, func() {
			mark := len(b.Log())
			for _, n := range many {
				b.Put(n)
			}
			b.WaitLog(mark, "level=WARN", "left out", bad, "bogus")
			b.Eventually(func() string {
				nodes, err := b.Nodes()
				if err != nil {
					return err.Error()
				}
				online := 0
				for _, state := range nodes {
					if state == "online" {
						online++
					}
				}
				if online != 200 || nodes[bad] != "offline" {
					return fmt.Sprintf("%d are online, the bad one is %s", online, nodes[bad])
				}
				return ""
			})
		})
		st := b.WaitApplied()
		named := 0
		for _, p := range st.Problems {
			if p.Owner.Name == bad && strings.Contains(p.Reason, "bogus") {
				named++
			}
		}
		if named != 1 || len(st.Degraded) != 1 || st.HAProxy.Worker != worker {
			t.Errorf("problems %+v, degraded %v", st.Problems, st.Degraded)
		}
		longest := 0.0
		for _, c := range b.changes() {
			longest = max(longest, c.Millis)
			if c.Error != "" {
				t.Errorf("refused: %+v", c)
			}
		}
		t.Logf("the longest apply took %.0f ms", longest)

		// With its offer goes the problem.
		b.Delete(bad)
		b.WaitStatus(func(st model.Status) bool { return len(st.Problems) == 0 && len(st.Degraded) == 0 })
		if !strings.Contains(b.config(), many[0]) {
			t.Error("others are gone")
		}
	})
}

// manyNodes starts so many nodes and gives their addresses.
func manyNodes(t *testing.T, n int) []string {
	t.Helper()
	var addrs []string
	for i := range n {
		addrs = append(addrs, NewNode(t, fmt.Sprintf("m%d", i)).Addr)
	}
	return addrs
}

// TestBadAtOnce: all 200 come in one State, as when fnlb starts beside a HAProxy that serves them.
func TestBadAtOnce(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		many := manyNodes(t, 200)
		bad := many[61]
		_, port, err := net.SplitHostPort(bad)
		if err != nil {
			t.Fatal(err)
		}
		builtin, err := os.ReadFile("../../templates/haproxy.tmpl")
		if err != nil {
			t.Fatal(err)
		}
		tmpl := filepath.Join(TempDir(t), "haproxy.tmpl")
		text := string(builtin) + "\n{{range .Pools}}{{range .Servers}}{{if eq .Port " + port + "}}\n  bogus {{.Nothing}}\n{{end}}{{end}}{{end}}\n"
		if err := os.WriteFile(tmpl, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		b := Start(t, h, "--nodes", strings.Join(many, ","), "--template", tmpl, "--hc-interval", "5", "--wait", "500ms:2s")
		b.WaitLog(0, "level=WARN", "left out", bad, "Nothing")
		b.WaitLog(0, "changed at run time")
		t.Logf("199 of 200 serve %s after the start", time.Since(began))
		for _, c := range b.changes() {
			t.Logf("%s took %.0f ms", c.Method, c.Millis)
		}
	})
}
