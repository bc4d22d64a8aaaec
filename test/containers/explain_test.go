package containers

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/test/dockertest"
	"github.com/fnlb/fnlb/test/e2e"
)

// TestExplain asks for the reason of each container that is there or is not.
func TestExplain(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := start(t, h)
		v := strings.ReplaceAll(h.Version, ".", "")
		name := func(n string) string { return "x-" + n + "-" + v }
		without := b.labels("lb.pubish", fmt.Sprint(b.port))
		delete(without, "lb.publish")
		for _, c := range []dockertest.Options{
			{Name: name("good"), Labels: b.labels("lb.check", "/healthz", "lb.weight", "3", "lb.wieght", "5")},
			{Name: name("typo"), Labels: without},
			{Name: name("bad"), Labels: b.labels("lb.target", "80 # \nglobal")},
			{Name: name("port"), Labels: b.labels("lb.publish", "1")},
			{Name: name("off"), Labels: b.labels("lb.enable", "N")},
			{Name: name("tls"), Labels: b.labels("lb.ssl", "/etc/passwd")},
			{Name: name("sick"), Labels: b.labels("lb.check", "/healthz"), Cmd: []string{"--port", "9"}},
			{Name: name("address"), Labels: b.labels("lb.dst_addr", "127.0.0.1")},
		} {
			b.engine.Run(t, c)
		}
		b.waitServers(name("good"))
		for n, words := range map[string][]string{
			"good":    {"state      up", "server     port__", `there is no label "lb.wieght": did you mean lb.weight?`},
			"typo":    {"state      left out", "has no label lb.publish", "did you mean lb.publish?", "mend       add lb.publish=PORT"},
			"bad":     {"state      left out", `label lb.target="80 # \nglobal": it is no port`},
			"port":    {"port 1 may not be published", "--publish-allow"},
			"off":     {"state      ignored", "its label lb.enable says no"},
			"tls":     {"in none of the folders", "--cert-dir"},
			"sick":    {"state      pending", "refused"},
			"address": {"state      left out", fmt.Sprintf("listener 127.0.0.1:%d overlaps :%d of docker %s", b.port, b.port, name("good"))},
		} {
			b.Eventually(func() string {
				out := b.explain(name(n))
				for _, w := range words {
					if !strings.Contains(out, w) {
						return fmt.Sprintf("%s: %q is not in\n%s", n, w, out)
					}
				}
				return ""
			})
		}
		for line := range strings.Lines(b.explain("")) {
			if strings.Contains(line, "  ") && len(line) > 81 {
				t.Errorf("wider than 80 columns: %s", line)
			}
		}
	})
}

// explain is what the command says of a container, or of all.
func (b *bench) explain(container string) string {
	out, err := exec.Command(e2e.Binary(b.T), "explain", "--run-dir", b.Dir, "--container", container).CombinedOutput()
	if err != nil {
		return err.Error() + " " + string(out)
	}
	return string(out)
}
