package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// last is the last byte of a name server's address, for each version.
var last = map[string]int{"2.6": 26, "3.0": 30, "3.2": 32}

// TestNames is fault row 26: no DNS at the start, a name whose address changes, one that DNS forgets, a slow one, and one that
// leads where no node may be. All others are served all the time.
func TestNames(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test gives fnlb a resolv.conf of its own and needs root")
	}
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		dns := NewNameServer(t, fmt.Sprintf("127.0.77.%d", last[h.Version]))
		plain := NewNode(t, "plain")
		old := NewNode(t, "old")
		_, port, _ := strings.Cut(old.Addr, ":")
		NewNodeAt(t, "new", "127.0.0.2:"+port)
		name := func(s string) string { return s + ".fnlb.test:" + port }
		names := []string{name("moves"), name("kept"), name("slow"), name("evil"), name("rebound")}

		b := New(t, TempDir(t))
		b.Behind, b.Env = dns.Behind(), []string{"GODEBUG=netdns=go"}
		b.Run(h, "--nodes", plain.Addr+","+strings.Join(names, ","))
		state := func(want string, nodes ...string) {
			t.Helper()
			b.Eventually(func() string {
				list, err := b.Nodes()
				if err != nil {
					return err.Error()
				}
				for _, n := range nodes {
					if list[n] != want {
						return fmt.Sprintf("%s is not %s in %v", n, want, list)
					}
				}
				return ""
			})
		}
		server := func(node string) model.ServerStatus {
			t.Helper()
			for _, s := range b.Status().Servers {
				if s.Name == node {
					return s
				}
			}
			t.Fatalf("%s is not in the status", node)
			return model.ServerStatus{}
		}
		told := func(node string, parts ...string) {
			t.Helper()
			b.Eventually(func() string {
				if said := server(node).LastCheck + fmt.Sprint(b.Status().Problems); !containsAll(said, parts) {
					return fmt.Sprintf("the status says of %s %q, wanted is %q", node, said, parts)
				}
				return ""
			})
		}
		asked := func(name string, times int) {
			t.Helper()
			b.Eventually(func() string {
				if got := dns.Asked(strings.Split(name, ":")[0]); got < times {
					return fmt.Sprintf("DNS was asked for %s %d times", name, got)
				}
				return ""
			})
		}
		set := func(node string, z Zone) { dns.Set(strings.Split(node, ":")[0], z) }

		// No DNS: it starts, and the node that has an address serves.
		state("online", plain.Addr)
		state("offline", names...)
		told(names[0], "resolve", "moves.fnlb.test")
		underLoad(t, b.Traffic, func() {
			// DNS comes.
			for _, n := range names {
				set(n, Zone{IP: "127.0.0.1"})
			}
			hold := make(chan struct{})
			set(names[2], Zone{IP: "127.0.0.1", Hold: hold})
			set(names[3], Zone{IP: "169.254.169.254"})
			dns.Start()
			state("online", names[0], names[1], names[4])
			if s := server(names[2]); s.Health == model.Up {
				t.Error("the slow name has no answer yet")
			}
			close(hold)
			told(names[3], "refused", "169.254.169.254", "link-local")
			set(names[0], Zone{IP: "127.0.0.2"})
			set(names[1], Zone{Code: dnsmessage.RCodeServerFailure})
			set(names[4], Zone{IP: "169.254.169.254"})
			state("online", names[2])
			asked(names[1], 1)
			set(names[1], Zone{Code: dnsmessage.RCodeNameError})
			b.Eventually(func() string {
				if s := server(names[0]); s.Address != "127.0.0.2:"+port {
					return "the name that moved is at " + s.Address
				}
				return ""
			})
			b.WaitApplied()
			asked(names[4], 1)
			asked(names[1], 1)
			for _, n := range []string{names[1], names[4]} {
				if s := server(n); s.Health != model.Up || s.Address != "127.0.0.1:"+port {
					t.Errorf("%s is %s at %s, and should be kept", n, s.Health, s.Address)
				}
			}
			if s := server(names[3]); s.Health != model.Pending {
				t.Errorf("%s is %s", names[3], s.Health)
			}
		})
		// What DNS says now about a node that is kept is told as well.
		told(names[1], "kept.fnlb.test")
		told(names[4], "169.254.169.254")
	})
}
