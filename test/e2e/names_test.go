package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// zone is one name: what the DNS server answers.
type zone struct {
	ip    string // IPv4
	code  dnsmessage.RCode
	delay time.Duration
	asked int // answered since this was set
}

// nameServer is a DNS server of the test's own.
type nameServer struct {
	t    *testing.T
	addr string

	mu    sync.Mutex
	zones map[string]zone // by name without the last dot
	wg    sync.WaitGroup
}

func (s *nameServer) set(name string, z zone) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zones[name] = z
}

func (s *nameServer) asked(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.zones[name].asked
}

// start opens the server; it ends with the test.
func (s *nameServer) start() {
	s.t.Helper()
	conn, err := net.ListenPacket("udp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	stop := make(chan struct{})
	s.t.Cleanup(func() {
		close(stop)
		if err := conn.Close(); err != nil {
			s.t.Error(err)
		}
		s.wg.Wait()
	})
	s.wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // an answer to somebody who has gone
			}
			reply, delay, err := s.reply(buf[:n])
			if err != nil {
				s.t.Errorf("DNS query %x: %v", buf[:n], err)
				continue
			}
			s.wg.Go(func() {
				select {
				case <-stop:
				case <-time.After(delay): // the slowness is what is tested
					_, _ = conn.WriteTo(reply, from)
				}
			})
		}
	})
}

func (s *nameServer) reply(query []byte) ([]byte, time.Duration, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, 0, err
	}
	if len(m.Questions) != 1 {
		return nil, 0, fmt.Errorf("%d questions", len(m.Questions))
	}
	q := m.Questions[0]
	name := strings.TrimSuffix(q.Name.String(), ".")
	s.mu.Lock()
	z, ok := s.zones[name]
	if ok && q.Type == dnsmessage.TypeA {
		z.asked++
		s.zones[name] = z
	}
	s.mu.Unlock()
	m.Response, m.RecursionAvailable, m.RCode, m.Additionals = true, true, z.code, nil
	if !ok {
		m.RCode = dnsmessage.RCodeNameError
	}
	if q.Type == dnsmessage.TypeA && m.RCode == dnsmessage.RCodeSuccess {
		ip, err := netip.ParseAddr(z.ip)
		if err != nil {
			return nil, 0, err
		}
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: ip.As4()},
		}}
	}
	out, err := m.Pack()
	return out, z.delay, err
}

// TestNames is fault row 26: no DNS at the start, a name whose address changes, one that DNS forgets, a slow one, and one that
// leads where no node may be. All others are served all the time.
func TestNames(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test gives fnlb a resolv.conf of its own and needs root")
	}
	last := map[string]int{"2.6": 26, "3.0": 30, "3.2": 32}
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		dns := &nameServer{t: t, addr: fmt.Sprintf("127.0.77.%d:53", last[h.Version]), zones: map[string]zone{}}
		resolv := filepath.Join(TempDir(t), "resolv.conf")
		host, _, _ := strings.Cut(dns.addr, ":")
		if err := os.WriteFile(resolv, []byte("nameserver "+host+"\noptions timeout:5 attempts:1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		plain := NewNode(t, "plain")
		old := NewNode(t, "old")
		_, port, _ := strings.Cut(old.Addr, ":")
		NewNodeAt(t, "new", "127.0.0.2:"+port)
		name := func(s string) string { return s + ".fnlb.test:" + port }
		names := []string{name("moves"), name("kept"), name("slow"), name("evil"), name("rebound")}

		ports := haproxytest.FreePorts(t, 2)
		b := &Balancer{T: t, Dir: TempDir(t), Traffic: fmt.Sprintf("127.0.0.1:%d", ports[0]), Mgmt: fmt.Sprintf("127.0.0.1:%d", ports[1])}
		b.Cmd = exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, resolv,
			Binary(t), "--listen", b.Traffic, "--mgmt-listen", b.Mgmt, "--run-dir", b.Dir, "--haproxy", h.Path, "--hc-interval", "200ms",
			"--hc-timeout", "1", "--haproxy-config", filepath.Join(b.Dir, "haproxy.cfg"), "--nodes", plain.Addr+","+strings.Join(names, ","))
		b.Cmd.Env = append(os.Environ(), "GODEBUG=netdns=go")
		b.start()
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
				if got := dns.asked(strings.Split(name, ":")[0]); got < times {
					return fmt.Sprintf("DNS was asked for %s %d times", name, got)
				}
				return ""
			})
		}
		set := func(node string, z zone) { dns.set(strings.Split(node, ":")[0], z) }

		// No DNS: it starts, and the node that has an address serves.
		state("online", plain.Addr)
		state("offline", names...)
		told(names[0], "resolve", "moves.fnlb.test")
		underLoad(t, b.Traffic, func() {
			// DNS comes.
			for _, n := range names {
				set(n, zone{ip: "127.0.0.1"})
			}
			set(names[2], zone{ip: "127.0.0.1", delay: 3 * time.Second})
			set(names[3], zone{ip: "169.254.169.254"})
			dns.start()
			state("online", names[0], names[1], names[4])
			if s := server(names[2]); s.Health == model.Up {
				t.Error("the slow name did not take its time, so nothing was shown about the others")
			}
			told(names[3], "refused", "169.254.169.254", "link-local")
			set(names[0], zone{ip: "127.0.0.2"})
			set(names[1], zone{code: dnsmessage.RCodeServerFailure})
			set(names[4], zone{ip: "169.254.169.254"})
			state("online", names[2])
			asked(names[1], 1)
			set(names[1], zone{code: dnsmessage.RCodeNameError})
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
