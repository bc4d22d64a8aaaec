package templates

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// holdPorts are n ports of 127.0.0.1 on which HAProxy can listen, and that nobody else is given until the test ends: they stay
// bound by sockets that never listen. Ports that are only free for the moment will not do, because HAProxy shares a port with
// other HAProxys without a word, and these tests run side by side.
func holdPorts(t *testing.T, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Close(fd); err != nil {
				t.Error(err)
			}
		})
		for _, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr("127.0.0.1").As4()}); err != nil {
			t.Fatal(err)
		}
		name, err := unix.Getsockname(fd)
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = name.(*unix.SockaddrInet4).Port
	}
	return ports
}

func holdPort(t *testing.T) int {
	t.Helper()
	return holdPorts(t, 1)[0]
}
