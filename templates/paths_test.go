package templates

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// probe is one entry of testdata/probes.txt.
type probe struct {
	line    int
	name    string
	request string
	want    string // outcome in every version, unless other has it
	other   map[string]string
}

// readProbes reads lines "want[ VERSION=want…] | name | request", with the request as a Go string without quotes.
func readProbes(t *testing.T) []probe {
	t.Helper()
	b, err := os.ReadFile("testdata/probes.txt")
	if err != nil {
		t.Fatal(err)
	}
	var list []probe
	for i, line := range strings.Split(string(b), "\n") {
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		part := strings.SplitN(line, " | ", 3)
		if len(part) != 3 {
			t.Fatalf("probes.txt:%d: three parts are needed", i+1)
		}
		request, err := strconv.Unquote(`"` + strings.TrimSpace(part[2]) + `"`)
		if err != nil {
			t.Fatalf("probes.txt:%d: %v", i+1, err)
		}
		p := probe{line: i + 1, name: strings.TrimSpace(part[1]), request: request, other: map[string]string{}}
		for _, w := range strings.Fields(part[0]) {
			if version, want, ok := strings.Cut(w, "="); ok {
				p.other[version] = want
			} else {
				p.want = w
			}
		}
		list = append(list, p)
	}
	return list
}

// outcome says who answered, in order: a node, management, or HAProxy by a status. A request that arrived and was answered by
// nobody is said as well.
func outcome(answer string, heads []string) string {
	var list []string
	arrived := len(heads)
	r := bufio.NewReader(strings.NewReader(answer))
	for {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			break
		}
		who := strconv.Itoa(resp.StatusCode)
		if name := resp.Header.Get("X-Node"); name != "" {
			who = name
			arrived--
		}
		list = append(list, who)
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			break
		}
	}
	if arrived != 0 {
		list = append(list, fmt.Sprintf("(%d more arrived)", arrived))
	}
	if len(list) == 0 {
		return "closed"
	}
	return strings.Join(list, "+")
}

// TestPaths sends each probe to each HAProxy: the same path policy decides the management match, the hash and what the node
// gets (safety: who may do what, rule 5).
func TestPaths(t *testing.T) {
	t.Parallel()
	list := readProbes(t)
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		node := startNode(t, "node")
		management, socket := startManagement(t)
		g := sampleGlobals()
		g.ManagementSocket = socket
		port := holdPort(t)
		start(t, h, sample(port, node.addr), g)
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		for _, p := range list {
			want := p.want
			if other, ok := p.other[h.Version]; ok {
				want = other
			}
			answer := exchange(t, addr, p.request)
			heads := append(node.take(), management.take()...)
			if got := outcome(answer, heads); got != want {
				t.Errorf("probes.txt:%d: %s: %s, want %s\nanswer %q\narrived %q", p.line, p.name, got, want, answer, heads)
				continue
			}
			// What arrives is the request line as it was sent, but for spaces between its words.
			if sent, _, _ := strings.Cut(p.request, "\r\n"); len(heads) == 1 && strings.HasPrefix(sent, "GET /") {
				if got := strings.Fields(heads[0]); got[1] != strings.Fields(sent)[1] {
					t.Errorf("probes.txt:%d: %s: sent %q, %q arrived", p.line, p.name, sent, got[1])
				}
			}
		}
	})
}
