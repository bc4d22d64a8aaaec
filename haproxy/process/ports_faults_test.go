package process

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// listenOn listens with both options that HAProxy sets; only6 keeps IPv4 out of a socket on [::].
func listenOn(t *testing.T, addr string, only6 bool) {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var errs []error
		errs = append(errs, c.Control(func(fd uintptr) {
			errs = append(errs, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
			if ip := netip.MustParseAddrPort(addr).Addr(); ip.Is6() {
				v := 0
				if only6 {
					v = 1
				}
				errs = append(errs, unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, v))
			}
		}))
		return errors.Join(errs...)
	}}
	network := "tcp4"
	if strings.HasPrefix(addr, "[") {
		network = "tcp6"
	}
	l, err := lc.Listen(t.Context(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// freeEverywhere is a port that is free on all addresses of both families.
func freeEverywhere(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return port
}

// spawnListener lets another process listen on [::]:port of IPv6 alone, as nginx does beside its 0.0.0.0:port; it returns its pid.
func spawnListener(t *testing.T, mode string, port int) int {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "PROCESS_TEST_CHILD="+mode, fmt.Sprintf("PROCESS_TEST_PORT=%d", port))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	ready := make([]byte, 6)
	if n, err := stdout.Read(ready); string(ready[:n]) != "ready\n" {
		t.Fatalf("%q, %v", ready[:n], err)
	}
	return cmd.Process.Pid
}

// TestWildcards: [::] means both families to HAProxy, ":80" only IPv4, and a stranger on [::] alone harms no IPv4 address.
func TestWildcards(t *testing.T) {
	t.Run("IPv4 taken, IPv6 wanted", func(t *testing.T) {
		port := freeEverywhere(t)
		listenOn(t, fmt.Sprintf("127.0.0.1:%d", port), false)
		if _, err := CheckBinds(nil, []conf.Bind{bindOf("::", port)}, nil); err == nil {
			t.Error("[::] is let in where HAProxy could not bind it")
		}
	})
	t.Run("the holder is on both families", func(t *testing.T) {
		port := freeEverywhere(t)
		listenOn(t, fmt.Sprintf("[::]:%d", port), false)
		for _, ip := range []string{"", "127.0.0.1", "::", "::1"} {
			_, err := CheckBinds(nil, []conf.Bind{bindOf(ip, port)}, nil)
			if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
				t.Errorf("%q: %v", ip, err)
			}
		}
	})
	t.Run("a stranger on IPv6 alone", func(t *testing.T) {
		port := freeEverywhere(t)
		pid := spawnListener(t, "only6", port)
		four, six := bindOf("", port), bindOf("::", port)
		if _, err := CheckBinds(nil, []conf.Bind{four}, nil); err != nil {
			t.Errorf("first start: %v", err)
		}
		listenOn(t, fmt.Sprintf("0.0.0.0:%d", port), false) // now it is in force, by us
		ours := []int{os.Getpid()}
		for _, wanted := range []conf.Bind{four, bindOf("0.0.0.0", port), bindOf("127.0.0.1", port)} {
			if _, err := CheckBinds([]conf.Bind{four}, []conf.Bind{wanted}, ours); err != nil {
				t.Errorf("beside it, %s: %v", wanted.Raw, err)
			}
		}
		if _, err := CheckBinds([]conf.Bind{four}, []conf.Bind{four, six}, ours); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", pid)) {
			t.Errorf("its own address: %v", err)
		}
	})
	t.Run("one address in two spellings", func(t *testing.T) {
		port := freeEverywhere(t)
		_, err := CheckBinds(nil, []conf.Bind{bindOf("", port), bindOf("0.0.0.0", port)}, nil)
		if err == nil || !strings.Contains(err.Error(), "listens there as well") {
			t.Errorf("got %v", err)
		}
	})
}

// TestSharedInForce: a stranger that shares an address in force fails no reload, so it does not stop changes for ever; a new address
// that he holds is refused.
func TestSharedInForce(t *testing.T) {
	port := freeEverywhere(t)
	listenOn(t, fmt.Sprintf("127.0.0.1:%d", port), false)
	pid := spawnListener(t, "share", port) // 127.0.0.1:port as well
	in := []conf.Bind{bindOf("127.0.0.1", port)}
	if _, err := CheckBinds(in, in, []int{os.Getpid()}); err != nil {
		t.Errorf("unchanged: %v", err)
	}
	_, err := CheckBinds(in, append(in, bindOf("", port)), []int{os.Getpid()})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", pid)) {
		t.Errorf("new wildcard: %v", err)
	}
	var be *BindError
	if !errors.As(err, &be) || be.Bind.IP.IsValid() {
		t.Errorf("blamed %+v", be)
	}
}

// TestPortInUse: a connection without a listener holds a port as well, and one that lingers does not.
func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	port := out.LocalAddr().(*net.TCPAddr).Port
	if _, err := CheckBinds(nil, []conf.Bind{bindOf("127.0.0.1", port)}, nil); err == nil || !strings.Contains(err.Error(), "the port is taken;") {
		t.Errorf("a connection's port: %v", err)
	}
	served := l.Addr().(*net.TCPAddr).Port
	if err := errors.Join(in.Close(), out.Close(), l.Close()); err != nil { // the server's side lingers
		t.Fatal(err)
	}
	if _, err := CheckBinds(nil, []conf.Bind{bindOf("127.0.0.1", served)}, nil); err != nil {
		t.Errorf("a lingering connection is in the way: %v", err)
	}
}

// TestUnreadableProcesses: when HAProxy's sockets cannot be told from a stranger's, nothing is refused and nothing is claimed.
func TestUnreadableProcesses(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root")
	}
	port := freeEverywhere(t)
	listenOn(t, fmt.Sprintf("127.0.0.1:%d", port), false)
	tab := &trial{held: map[uint16][]netip.Addr{uint16(port): {netip.MustParseAddr("127.0.0.2")}}}
	var err error
	if tab.sockets, err = readSockets(nil); err != nil {
		t.Fatal(err)
	}
	tab.sockets.unseen = true
	at := netip.MustParseAddrPort(fmt.Sprintf("0.0.0.0:%d", port))
	if reason, err := tab.try(at); !errors.Is(err, errUnseen) {
		t.Errorf("%q, %v", reason, err)
	}
	if reason, err := tab.try(netip.MustParseAddrPort(fmt.Sprintf("127.0.0.1:%d", port))); err != nil || reason == "" {
		t.Errorf("what a bind can tell: %q, %v", reason, err)
	}
}

// TestReloadKeepsPorts: what CheckBinds says of a real HAProxy's new addresses is what its reload does.
func TestReloadKeepsPorts(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		b := newBed(t, h, "", teapot)
		id := b.start()
		pids := []int{id.Master, id.Worker}
		text, err := os.ReadFile(filepath.Join(b.dir, "haproxy.cfg"))
		if err != nil {
			t.Fatal(err)
		}
		ours, err := conf.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		in := ours.Binds()
		wide := in[0]
		wide.IP, wide.Raw = netip.Addr{}, fmt.Sprintf(":%d", wide.Port)
		if _, err := CheckBinds(in, []conf.Bind{in[0], wide}, pids); err != nil {
			t.Errorf("a wildcard over our own address: %v", err)
		}
		b.write("haproxy.cfg", strings.Replace(string(text), "bind "+b.addr, "bind "+b.addr+"\n  bind "+wide.Raw, 1))
		b.write("own.cfg", "global\n  httpclient.ssl.verify none\n  setenv FNLB_REVISION r2\n")
		worker, err := b.reload("r2")
		if err != nil {
			t.Fatalf("reload: %v", err)
		}
		both := []conf.Bind{in[0], wide}
		if _, err := CheckBinds(both, both, []int{id.Master, worker}); err != nil {
			t.Errorf("after the reload: %v", err)
		}
	})
}
