package process

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fnlb/fnlb/haproxy/conf"
)

// BindError is one address that HAProxy cannot have.
type BindError struct {
	Bind   conf.Bind
	Reason string
}

func (e *BindError) Error() string {
	return fmt.Sprintf("listen on %s (line %d, %s): %s", e.Bind.Raw, e.Bind.No, e.Bind.Section, e.Reason)
}

// CheckBinds finds out whether HAProxy can have the wanted addresses, which haproxy -c does not: a reload onto a taken port fails
// and stops unrelated ports for seconds.
//
//   - An address that nothing in force overlaps is tried with a bind of ours, without SO_REUSEPORT, that never listens.
//   - One that overlaps an address in force (wildcards included) cannot be tried so; it is refused when a listening socket there
//     belongs to none of the pids, which are those of our HAProxy.
//   - The same address twice is refused: the kernel would share its clients out at random.
//
// The error joins one *BindError for each refused address. What cannot be tried (Unix sockets, other families) is returned.
func CheckBinds(inForce, wanted []conf.Bind, pids []int) (untried []conf.Bind, err error) {
	var errs []error
	seen := map[netip.AddrPort]conf.Bind{}
	var sockets *socketTable
	for _, b := range wanted {
		if !b.Checkable {
			untried = append(untried, b)
			continue
		}
		key := netip.AddrPortFrom(b.IP, b.Port)
		if first, twice := seen[key]; twice {
			errs = append(errs, &BindError{b, fmt.Sprintf("line %d listens there as well; remove one", first.No)})
			continue
		}
		seen[key] = b
		overlaps := slices.ContainsFunc(inForce, func(o conf.Bind) bool { return o.Checkable && overlap(o, b) })
		if !overlaps {
			if err := tryBind(key); err == nil {
				continue
			} else if !errors.Is(err, syscall.EADDRINUSE) {
				errs = append(errs, &BindError{b, bindReason(err)})
				continue
			}
		}
		if sockets == nil {
			if sockets, err = readSockets(pids); err != nil {
				return untried, err
			}
		}
		if stranger := sockets.stranger(key); stranger != "" {
			errs = append(errs, &BindError{b, "the port is taken by " + stranger + "; free it or choose another"})
		} else if !overlaps {
			errs = append(errs, &BindError{b, "the port is taken; free it or choose another"})
		}
	}
	return untried, errors.Join(errs...)
}

func overlap(a, b conf.Bind) bool {
	return a.Port == b.Port && (covers(a.IP, b.IP) || covers(b.IP, a.IP))
}

// covers reports whether a socket on a takes connections to b; the invalid address is that of both families.
func covers(a, b netip.Addr) bool {
	a, b = a.Unmap(), b.Unmap()
	return !a.IsValid() || a == b || a.IsUnspecified() && (!b.IsValid() || a.Is6() || b.Is4())
}

// tryBind binds and closes at once, with HAProxy's own options but for SO_REUSEPORT, which would let us pass beside a stranger of the
// same user. All addresses means 0.0.0.0 to HAProxy (configuration manual, section 4.2, bind).
func tryBind(at netip.AddrPort) error {
	if !at.Addr().IsValid() {
		at = netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())
	}
	family := unix.AF_INET
	var sa unix.Sockaddr
	if ip := at.Addr().Unmap(); ip.Is4() {
		sa = &unix.SockaddrInet4{Port: int(at.Port()), Addr: ip.As4()}
	} else {
		family = unix.AF_INET6
		sa = &unix.SockaddrInet6{Port: int(at.Port()), Addr: ip.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil && family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	return errors.Join(err, unix.Close(fd))
}

func bindReason(err error) string {
	switch {
	case errors.Is(err, syscall.EACCES):
		return "this user may not listen below port 1024; give the capability NET_BIND_SERVICE or choose another port"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "this host has no such address; choose one that it has"
	case errors.Is(err, syscall.EAFNOSUPPORT):
		return "this host has no IPv6; choose an IPv4 address"
	}
	return err.Error()
}

// socketTable is what listens on this host.
type socketTable struct {
	rows []socketRow
	ours map[string]bool // inodes
}

type socketRow struct {
	at    netip.AddrPort
	inode string
}

// readSockets reads /proc/net/tcp and tcp6, and which sockets the processes hold.
func readSockets(pids []int) (*socketTable, error) {
	t := &socketTable{ours: map[string]bool{}}
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("who listens: %w", err)
		}
		t.rows = append(t.rows, parseSockets(string(data))...)
	}
	for _, pid := range pids {
		for _, inode := range inodes(pid) {
			t.ours[inode] = true
		}
	}
	return t, nil
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

// inodes lists the sockets of a process; one that has ended, or may not be looked at, has none.
func inodes(pid int) []string {
	var out []string
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return nil
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil {
			if inode, ok := strings.CutPrefix(to, "socket:["); ok {
				out = append(out, strings.TrimSuffix(inode, "]"))
			}
		}
	}
	return out
}

// stranger names a process that is none of ours and listens where it would meet HAProxy; "" when there is none.
func (t *socketTable) stranger(at netip.AddrPort) string {
	for _, r := range t.rows {
		if r.at.Port() != at.Port() || t.ours[r.inode] || !covers(r.at.Addr(), at.Addr()) && !covers(at.Addr(), r.at.Addr()) {
			continue
		}
		return holderOf(r.inode)
	}
	return ""
}

// holderOf looks for the process that has a socket.
func holderOf(inode string) string {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return "another process"
	}
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || !slices.Contains(inodes(pid), inode) {
			continue
		}
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			return fmt.Sprintf("process %d", pid)
		}
		return fmt.Sprintf("%s (pid %d)", strings.TrimSpace(string(name)), pid)
	}
	return "another process"
}

// zombies reports whether a process group has no member that still runs.
func zombies(pgid int) bool {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return false
	}
	for _, p := range procs {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join("/proc", p.Name(), "stat"))
		if err != nil {
			continue // it has just ended
		}
		// "PID (NAME) STATE PPID PGRP …"; the name may have anything in it.
		f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		if len(f) > 2 && f[2] == strconv.Itoa(pgid) && f[0] != "Z" && f[0] != "X" {
			return false
		}
	}
	return true
}
