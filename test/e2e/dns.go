package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Zone is one name: what the DNS server answers.
type Zone struct {
	IP    string // IPv4 addresses, with commas between them
	Code  dnsmessage.RCode
	Delay time.Duration
	Hold  <-chan struct{} // nothing is answered before it is closed; nil: at once
	asked int             // answered since this was set
}

// Answers of a DNS server that has none.
var (
	ServerFailure = Zone{Code: dnsmessage.RCodeServerFailure}
	NoSuchName    = Zone{Code: dnsmessage.RCodeNameError}
)

// NameServer is a DNS server of the test's own.
type NameServer struct {
	Addr string // IP:53

	t *testing.T

	mu    sync.Mutex
	zones map[string]Zone // by name without the last dot
	wg    sync.WaitGroup
}

// NewNameServer is a server that Start opens, of which nobody gets an answer until then. Behind is what makes a process ask it.
func NewNameServer(t *testing.T, ip string) *NameServer {
	return &NameServer{t: t, Addr: net.JoinHostPort(ip, "53"), zones: map[string]Zone{}}
}

// Behind gives a process a mount namespace in which /etc/resolv.conf names this server alone, before it becomes fnlb; that must be told
// to use Go's own resolver, by GODEBUG=netdns=go.
func (s *NameServer) Behind() []string {
	s.t.Helper()
	resolv := filepath.Join(TempDir(s.t), "resolv.conf")
	host, _, _ := net.SplitHostPort(s.Addr) // it was joined above
	if err := os.WriteFile(resolv, []byte("nameserver "+host+"\noptions timeout:5 attempts:1\n"), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return []string{"unshare", "-m", "--propagation", "private", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, resolv}
}

// Set says what is answered about a name from now on.
func (s *NameServer) Set(name string, z Zone) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zones[name] = z
}

// Asked is how often the name was asked for since it was set.
func (s *NameServer) Asked(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.zones[name].asked
}

// Start opens the server; it ends with the test.
func (s *NameServer) Start() {
	s.t.Helper()
	conn, err := net.ListenPacket("udp", s.Addr)
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
			reply, z, err := s.reply(buf[:n])
			if err != nil {
				s.t.Errorf("DNS query %x: %v", buf[:n], err)
				continue
			}
			s.wg.Go(func() {
				if z.Hold != nil {
					select {
					case <-stop:
						return
					case <-z.Hold:
					}
				}
				select {
				case <-stop:
				case <-time.After(z.Delay): // the slowness is what is tested
					_, _ = conn.WriteTo(reply, from) // who asked may have gone
				}
			})
		}
	})
}

func (s *NameServer) reply(query []byte) ([]byte, Zone, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, Zone{}, err
	}
	if len(m.Questions) != 1 {
		return nil, Zone{}, fmt.Errorf("%d questions", len(m.Questions))
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
	m.Response, m.RecursionAvailable, m.RCode, m.Additionals = true, true, z.Code, nil
	if !ok {
		m.RCode = dnsmessage.RCodeNameError
	}
	if q.Type == dnsmessage.TypeA && m.RCode == dnsmessage.RCodeSuccess {
		m.Answers = nil
		for addr := range strings.SplitSeq(z.IP, ",") {
			ip, err := netip.ParseAddr(addr)
			if err != nil {
				return nil, Zone{}, err
			}
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: ip.As4()},
			})
		}
	}
	out, err := m.Pack()
	return out, z, err
}
