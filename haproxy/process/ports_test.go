package process

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

func bindOf(ip string, port int) conf.Bind {
	b := conf.Bind{Section: "f", No: 3, Raw: fmt.Sprintf("%s:%d", ip, port), Port: uint16(port), Checkable: true}
	if ip != "" {
		b.IP = netip.MustParseAddr(ip)
	}
	return b
}

// listenReuse listens as HAProxy does, so that another such socket would be let in beside it.
func listenReuse(t *testing.T, addr string) int {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var opt error
		err := c.Control(func(fd uintptr) { opt = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return errors.Join(err, opt)
	}}
	l, err := lc.Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l.Addr().(*net.TCPAddr).Port
}

func TestCheckBinds(t *testing.T) {
	// Not a port of the kernel's choice: somebody may have that one of 127.0.0.2, which has to be free here.
	plain, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", haproxytest.FreePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := plain.Close(); err != nil {
			t.Error(err)
		}
	}()
	taken := plain.Addr().(*net.TCPAddr).Port
	shared := listenReuse(t, "127.0.0.1:0")
	free := haproxytest.FreePort(t)
	me := fmt.Sprintf("(pid %d)", os.Getpid())
	tests := map[string]struct {
		inForce, wanted []conf.Bind
		pids            []int
		want            string // part of the error; "" none
	}{
		"free":                                {wanted: []conf.Bind{bindOf("127.0.0.1", free)}},
		"free on all addresses":               {wanted: []conf.Bind{bindOf("", free)}},
		"free on IPv6":                        {wanted: []conf.Bind{bindOf("::1", free)}},
		"both families":                       {wanted: []conf.Bind{bindOf("", free), bindOf("::", free)}},
		"taken":                               {wanted: []conf.Bind{bindOf("127.0.0.1", taken)}, want: me},
		"taken below a wildcard":              {wanted: []conf.Bind{bindOf("", taken)}, want: me},
		"a stranger that shares":              {wanted: []conf.Bind{bindOf("127.0.0.1", shared)}, want: me},
		"a stranger beside ours":              {inForce: []conf.Bind{bindOf("127.0.0.1", shared)}, wanted: []conf.Bind{bindOf("127.0.0.1", shared)}, want: me},
		"ours already":                        {inForce: []conf.Bind{bindOf("127.0.0.1", shared)}, wanted: []conf.Bind{bindOf("127.0.0.1", shared)}, pids: []int{os.Getpid()}},
		"ours, and now on all addresses":      {inForce: []conf.Bind{bindOf("127.0.0.1", shared)}, wanted: []conf.Bind{bindOf("", shared)}, pids: []int{os.Getpid()}},
		"a stranger below our new wildcard":   {inForce: []conf.Bind{bindOf("127.0.0.2", taken)}, wanted: []conf.Bind{bindOf("", taken)}, want: me},
		"twice":                               {wanted: []conf.Bind{bindOf("127.0.0.1", free), bindOf("127.0.0.1", free)}, want: "listens there as well"},
		"an address that the host has not":    {wanted: []conf.Bind{bindOf("192.0.2.1", free)}, want: "no such address"},
		"another address of the port is fine": {wanted: []conf.Bind{bindOf("127.0.0.2", taken)}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			untried, err := CheckBinds(test.inForce, test.wanted, test.pids)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			var be *BindError
			if err != nil && !errors.As(err, &be) {
				t.Errorf("%T", err)
			}
			if len(untried) != 0 {
				t.Errorf("untried %v", untried)
			}
		})
	}
	unixBind := conf.Bind{Raw: "unix@/x"}
	if untried, err := CheckBinds(nil, []conf.Bind{unixBind}, nil); err != nil || len(untried) != 1 {
		t.Errorf("%v, %v", untried, err)
	}
	if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", free)); err != nil {
		t.Errorf("the trial left something behind: %v", err)
	} else if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestCheckBindsOfHAProxy: the sockets of a running HAProxy are its own, in whichever of its processes they are.
func TestCheckBindsOfHAProxy(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		id := b.start()
		text, err := os.ReadFile(b.c.o.Files[0])
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := conf.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		binds := parsed.Binds()
		if len(binds) != 1 {
			t.Fatalf("binds %v", binds)
		}
		if _, err := CheckBinds(binds, binds, []int{id.Master, id.Worker}); err != nil {
			t.Errorf("its own: %v", err)
		}
		if _, err := CheckBinds(binds, binds, []int{os.Getpid()}); err == nil || !strings.Contains(err.Error(), "haproxy") {
			t.Errorf("a HAProxy that is not ours: %v", err)
		}
	})
}
