package process

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

type socketRow struct {
	at    netip.AddrPort
	inode string
}

// listeners lists what listens by TCP in our network namespace.
//
// The kernel is asked by sock_diag for these alone, in a tenth of a millisecond. /proc/net/tcp, where there is no sock_diag, has every
// connection as well, and the kernel walks the whole table of connections for it, whose size follows the memory of the host: 10 ms of
// the processor and more, seen with 24 GB.
func listeners() ([]socketRow, error) { return listenersBy(diagnose) }

func listenersBy(ask func(family uint8) ([]socketRow, error)) ([]socketRow, error) {
	var rows []socketRow
	for _, family := range []struct {
		number uint8
		table  string
	}{{unix.AF_INET, "/proc/net/tcp"}, {unix.AF_INET6, "/proc/net/tcp6"}} {
		found, err := ask(family.number)
		if err != nil {
			var errTable error
			if found, errTable = readTable(family.table); errTable != nil {
				return nil, fmt.Errorf("who listens: %w", errors.Join(err, errTable))
			}
		}
		rows = append(rows, found...)
	}
	return rows, nil
}

// What sock_diag(7) asks and answers, in the host's byte order where it is not said otherwise.
const (
	diagLimit     = 2 * time.Second
	diagListening = 1 << 10 // 1 << TCP_LISTEN
	diagRequest   = 56      // family, protocol, extensions, padding, states (u32), and the socket (48 bytes) that is asked for: none
	diagReply     = 72      // family, state, timer, retransmissions, the socket, expires, queues, uid (u32 each), inode (u32)
	diagPort      = 4       // big-endian; the other end's port follows
	diagAddr      = 8       // 16 bytes, of which IPv4 takes the first four
	diagInode     = 68
)

// diagnose asks the kernel for the listening sockets of a family.
func diagnose(family uint8) (rows []socketRow, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	limit := unix.NsecToTimeval(diagLimit.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	ask := make([]byte, unix.SizeofNlMsghdr+diagRequest)
	binary.NativeEndian.PutUint32(ask[0:], uint32(len(ask)))
	binary.NativeEndian.PutUint16(ask[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(ask[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	ask[unix.SizeofNlMsghdr], ask[unix.SizeofNlMsghdr+1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(ask[unix.SizeofNlMsghdr+4:], diagListening)
	if err := unix.Sendto(fd, ask, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("sock_diag: %w", err)
	}
	buf := make([]byte, 64<<10) // the kernel fills at most 32 KiB at a time
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("sock_diag: %w", err)
		}
		found, done, err := parseDiagnosis(buf[:n])
		if err != nil {
			return nil, fmt.Errorf("sock_diag: %w", err)
		}
		if rows = append(rows, found...); done {
			return rows, nil
		}
	}
}

// parseDiagnosis reads a part of the kernel's answer; done says that it was the last one.
func parseDiagnosis(part []byte) (rows []socketRow, done bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(part)
	if err != nil {
		return nil, false, err
	}
	for _, m := range messages {
		switch {
		case (m.Header.Type == unix.NLMSG_DONE || m.Header.Type == unix.NLMSG_ERROR) && len(m.Data) >= 4: // both begin with 0 or -errno
			if code := int32(binary.NativeEndian.Uint32(m.Data)); code != 0 {
				return nil, false, syscall.Errno(-code)
			}
			return rows, true, nil
		case m.Header.Type != unix.SOCK_DIAG_BY_FAMILY || len(m.Data) < diagReply:
			return nil, false, fmt.Errorf("message of type %d with %d bytes", m.Header.Type, len(m.Data))
		}
		size := 16
		if m.Data[0] == unix.AF_INET {
			size = 4
		}
		ip, _ := netip.AddrFromSlice(m.Data[diagAddr : diagAddr+size])
		rows = append(rows, socketRow{
			at:    netip.AddrPortFrom(ip, binary.BigEndian.Uint16(m.Data[diagPort:])),
			inode: strconv.FormatUint(uint64(binary.NativeEndian.Uint32(m.Data[diagInode:])), 10),
		})
	}
	return rows, false, nil
}

// readTable reads the listening ones of the kernel's table of all; without IPv6 there is none of it.
func readTable(name string) ([]socketRow, error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseSockets(string(data)), nil
}

// parseSockets reads the listening ones of the kernel's table: "sl local_address rem_address st … uid timeout inode", the address as
// words of four bytes in the host's order, the state 0A.
func parseSockets(table string) []socketRow {
	var rows []socketRow
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != "0A" {
			continue
		}
		host, port, ok := strings.Cut(f[1], ":")
		raw, err := hex.DecodeString(host)
		p, errPort := strconv.ParseUint(port, 16, 16)
		if !ok || err != nil || errPort != nil || len(raw)%4 != 0 {
			continue
		}
		for i := 0; i < len(raw); i += 4 {
			slices.Reverse(raw[i : i+4])
		}
		if ip, ok := netip.AddrFromSlice(raw); ok {
			rows = append(rows, socketRow{netip.AddrPortFrom(ip, uint16(p)), f[9]})
		}
	}
	return rows
}
