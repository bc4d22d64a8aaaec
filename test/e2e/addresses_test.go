package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// TestAddresses: names whose addresses come, go and change, of one server and of several, under load: no request is lost and nothing is
// reloaded; what is served outlives DNS and a kill of fnlb.
func TestAddresses(t *testing.T) {
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		dns := NewNameServer(t, fmt.Sprintf("127.0.78.%d", last[h.Version]))
		dns.Start()
		first := NewNodeAt(t, "1", "127.0.1.1:0")
		_, port, _ := strings.Cut(first.Addr, ":")
		nodes := map[string]*Node{"127.0.1.1": first}
		for i := range 6 {
			ip := fmt.Sprintf("127.0.1.%d", i+2)
			nodes[ip] = NewNodeAt(t, fmt.Sprint(i+2), ip+":"+port)
		}
		many, plain := "*many.fnlb.test:"+port, "plain.fnlb.test:"+port
		dns.Set("many.fnlb.test", Zone{IP: "127.0.1.1,127.0.1.2"})
		dns.Set("plain.fnlb.test", Zone{IP: "127.0.1.6"})
		b := New(t, TempDir(t))
		b.Behind, b.Env = dns.Behind(), []string{"GODEBUG=netdns=go"}
		b.Run(h, "--nodes", many+","+plain)
		served := func(node string, ips ...string) {
			t.Helper()
			b.Eventually(func() string {
				var st model.Status
				if err := b.Get("/1/lb/status", &st); err != nil {
					return err.Error() // it has just been started
				}
				var up []string
				for _, s := range st.Servers {
					if s.Name == node && s.Health == model.Up {
						up = append(up, strings.TrimSuffix(s.Address, ":"+port))
					}
				}
				if !slices.Equal(up, ips) {
					return fmt.Sprintf("%s is served at %q, wanted is %q", node, up, ips)
				}
				// The State is the same whatever DNS says: that it is applied shows in the text in force.
				text, name := b.config(), " "+strings.TrimPrefix(node, "*")+"_"
				for _, ip := range ips {
					if !strings.Contains(text, name+ip+" ") || strings.Count(text, name) != len(ips) {
						return fmt.Sprintf("%s is wanted at %q, and the text is\n%s", node, ips, text)
					}
				}
				return ""
			})
			b.WaitApplied()
		}
		// idle: no new request arrives at what left. One that was on its way may.
		idle := func(ip string) {
			t.Helper()
			name := nodes[ip].Name
			for i := range 100 {
				if status, node, _ := fetch(t, b.Traffic, fmt.Sprintf("/idle/%d", i)); status != 200 || node == name {
					t.Fatalf("request %d: %d from %q", i, status, node)
				}
			}
		}
		served(many, "127.0.1.1", "127.0.1.2")
		served(plain, "127.0.1.6")
		worker, master := b.Status().HAProxy.Worker, b.Status().HAProxy.Master
		if list, err := b.Nodes(); err != nil || len(list) != 2 || list[many] != "online" || list[plain] != "online" {
			t.Errorf("the list is %v, %v", list, err)
		}
		if text := b.config(); !strings.Contains(text, " plain.fnlb.test:"+port+"_127.0.1.6 127.0.1.6:"+port+" ") || strings.Contains(text, "*many") {
			t.Errorf("servers in\n%s", text)
		}
		underLoad(t, b.Traffic, func() {
			dns.Set("many.fnlb.test", Zone{IP: "127.0.1.3,127.0.1.2,127.0.1.1,169.254.169.254"}) // one comes, and one that may not
			dns.Set("plain.fnlb.test", Zone{IP: "127.0.1.7"})
			served(many, "127.0.1.1", "127.0.1.2", "127.0.1.3")
			served(plain, "127.0.1.7")
			idle("127.0.1.6")
			dns.Set("many.fnlb.test", Zone{IP: "127.0.1.2,127.0.1.3"}) // one goes
			served(many, "127.0.1.2", "127.0.1.3")
			idle("127.0.1.1")
			dns.Set("many.fnlb.test", Zone{IP: "127.0.1.4,127.0.1.5"}) // all change
			served(many, "127.0.1.4", "127.0.1.5")
			dns.Set("many.fnlb.test", ServerFailure)
			b.WaitLog(0, "is kept at its last addresses", "node="+many)
			served(many, "127.0.1.4", "127.0.1.5")
			b.waitFiles()
			b.Signal(syscall.SIGKILL)
			b.WaitExit()
			mark := len(b.Log())
			b.Behind = []string{"nsenter", "--mount", "--target", strconv.Itoa(master)} // where the HAProxy lives that the first one left
			b.Run(h, "--nodes", many+","+plain)
			b.WaitLog(mark, "adopted the HAProxy", "reload=false")
			served(many, "127.0.1.4", "127.0.1.5")
			served(plain, "127.0.1.7")
		})
		if st := b.Status(); st.HAProxy.Worker != worker || b.reloads() != 0 {
			t.Errorf("worker %d where %d was, %d reloads", st.HAProxy.Worker, worker, b.reloads())
		}
		if n := strings.Count(b.Log(), "msg=reloaded"); n != 0 {
			t.Errorf("%d reloads", n)
		}
	})
}
