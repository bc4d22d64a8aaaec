package process

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestListeners: sock_diag and the kernel's table say the same of what we listen on, and of nothing else.
func TestListeners(t *testing.T) {
	for name, c := range map[string]struct {
		family        uint8
		table         string
		network, addr string
	}{
		"IPv4":            {unix.AF_INET, "/proc/net/tcp", "tcp4", "127.0.0.1:0"},
		"IPv4 everywhere": {unix.AF_INET, "/proc/net/tcp", "tcp4", "0.0.0.0:0"},
		"IPv6":            {unix.AF_INET6, "/proc/net/tcp6", "tcp6", "[::1]:0"},
		"both":            {unix.AF_INET6, "/proc/net/tcp6", "tcp", "[::]:0"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen(c.network, c.addr)
			if err != nil {
				t.Fatal(err)
			}
			client, err := net.Dial(c.network, l.Addr().String()) // which has the same local port, and does not listen
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			at := l.Addr().(*net.TCPAddr).AddrPort()
			of := func(read func() ([]socketRow, error)) (found []socketRow) {
				t.Helper()
				rows, err := read()
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range rows {
					if r.at.Port() == at.Port() {
						found = append(found, r)
					}
				}
				return found
			}
			diag := of(func() ([]socketRow, error) { return diagnose(c.family) })
			table := of(func() ([]socketRow, error) { return readTable(c.table) })
			if len(diag) != 1 || !slices.Equal(diag, table) || diag[0].at != at {
				t.Errorf("sock_diag says %v, the table %v, and we listen on %s", diag, table, at)
			}
			if all := of(listeners); !slices.Equal(all, diag) {
				t.Errorf("together they say %v", all)
			}
			refused := func(uint8) ([]socketRow, error) { return nil, errors.New("no module tcp_diag") }
			if all := of(func() ([]socketRow, error) { return listenersBy(refused) }); !slices.Equal(all, diag) {
				t.Errorf("without sock_diag they say %v", all)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if left := of(listeners); len(left) > 0 {
				t.Errorf("%v after the end", left)
			}
		})
	}
	if rows, err := readTable("/proc/net/none"); err != nil || rows != nil {
		t.Errorf("without the table: %v, %v", rows, err)
	}
}

// TestDiagnosis: an answer that is none is an error, which makes us read the table.
func TestDiagnosis(t *testing.T) {
	message := func(kind uint16, data ...byte) []byte {
		m := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(data)))
		m = binary.NativeEndian.AppendUint16(m, kind)
		return append(append(m, make([]byte, 10)...), data...)
	}
	code := func(n int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }
	socket := make([]byte, diagReply)
	socket[0] = unix.AF_INET
	copy(socket[diagPort:], []byte{0x1f, 0x90})
	copy(socket[diagAddr:], []byte{127, 0, 0, 1})
	binary.NativeEndian.PutUint32(socket[diagInode:], 12345)
	want := socketRow{netip.MustParseAddrPort("127.0.0.1:8080"), "12345"}
	rows, done, err := parseDiagnosis(append(message(unix.SOCK_DIAG_BY_FAMILY, socket...), message(unix.NLMSG_DONE, code(0)...)...))
	if err != nil || !done || !slices.Equal(rows, []socketRow{want}) {
		t.Errorf("%v %t %v", rows, done, err)
	}
	if rows, done, err := parseDiagnosis(message(unix.SOCK_DIAG_BY_FAMILY, socket...)); err != nil || done || len(rows) != 1 {
		t.Errorf("more is to come: %v %t %v", rows, done, err)
	}
	if _, _, err := parseDiagnosis(message(unix.NLMSG_ERROR, code(-int32(unix.ENOENT))...)); !errors.Is(err, unix.ENOENT) {
		t.Errorf("refused: %v", err)
	}
	for name, part := range map[string][]byte{
		"a short socket": message(unix.SOCK_DIAG_BY_FAMILY, socket[:diagReply-4]...),
		"another type":   message(99, socket...),
		"cut":            message(unix.SOCK_DIAG_BY_FAMILY, socket...)[:40],
		"no code":        message(unix.NLMSG_DONE),
	} {
		if _, _, err := parseDiagnosis(part); err == nil {
			t.Errorf("%s is no error", name)
		}
	}
}

func FuzzParseSockets(f *testing.F) {
	f.Add("  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1\n")
	f.Add("  0: 00000000000000000000000001000000:0050 0:0 0A 0 0 0 0 0 7\n")
	f.Fuzz(func(t *testing.T, table string) {
		for _, r := range parseSockets(table) {
			if !r.at.IsValid() {
				t.Fatalf("%+v", r)
			}
		}
	})
}

func TestParseSockets(t *testing.T) {
	rows := parseSockets("  sl  local_address\n" +
		"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1\n" +
		"   1: 0100007F:1F91 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 12346 1\n" +
		"   2: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 777 1\n")
	want := []socketRow{{netip.MustParseAddrPort("127.0.0.1:8080"), "12345"}, {netip.MustParseAddrPort("[::1]:80"), "777"}}
	if !slices.Equal(rows, want) {
		t.Errorf("got %v", rows)
	}
}
