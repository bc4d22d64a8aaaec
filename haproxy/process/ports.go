package process

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
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
//     belongs to none of the pids, which are those of our HAProxy. An address in force itself is refused only when none of the pids
//     listens there: its socket is handed over, and no reload fails because of it.
//   - The same address twice is refused: the kernel would share its clients out at random.
//
// The error joins one *BindError for each refused address. What cannot be tried is returned: Unix sockets, other families, and
// what overlaps an address in force when we may not see the sockets of the pids.
func CheckBinds(inForce, wanted []conf.Bind, pids []int) (untried []conf.Bind, err error) {
	var errs []error
	seen := map[netip.AddrPort]conf.Bind{}
	t := trial{held: map[uint16][]netip.Addr{}, pids: pids}
	for _, b := range inForce {
		if b.Checkable {
			t.held[b.Port] = append(t.held[b.Port], bindAddr(b.IP))
		}
	}
	for _, b := range wanted {
		if !b.Checkable {
			untried = append(untried, b)
			continue
		}
		at := netip.AddrPortFrom(bindAddr(b.IP), b.Port)
		if first, twice := seen[at]; twice {
			errs = append(errs, &BindError{b, fmt.Sprintf("line %d listens there as well; remove one", first.No)})
			continue
		}
		seen[at] = b
		switch reason, err := t.try(at); {
		case errors.Is(err, errUnseen):
			untried = append(untried, b)
		case err != nil:
			return untried, err
		case reason != "":
			errs = append(errs, &BindError{b, reason})
		}
	}
	return untried, errors.Join(errs...)
}

// errUnseen: a HAProxy with file capabilities, for one, keeps even its own user from looking.
var errUnseen = errors.New("the sockets of our processes cannot be seen")

// trial is what one CheckBinds knows.
type trial struct {
	held    map[uint16][]netip.Addr // what is in force, by port
	pids    []int
	sockets *socketTable // read when it is needed
}

// try says why HAProxy cannot have an address, "" when it can.
func (t *trial) try(at netip.AddrPort) (reason string, err error) {
	held := t.held[at.Port()]
	overlaps := slices.ContainsFunc(held, func(ip netip.Addr) bool { return meet(ip, at.Addr()) })
	if !overlaps {
		err := tryBind(at)
		if err == nil {
			return "", nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return bindReason(err), nil
		}
	}
	if t.sockets == nil {
		if t.sockets, err = readSockets(t.pids); err != nil {
			return "", err
		}
	}
	ours, stranger, doubtful := t.sockets.at(at)
	if stranger == "" && !overlaps {
		stranger = doubtful // our bind has failed, so it is the one
	}
	switch {
	case ours && slices.Contains(held, at.Addr()), overlaps && stranger == "":
		return "", nil
	case overlaps && t.sockets.unseen:
		return "", errUnseen
	case stranger != "":
		return "the port is taken by " + holderOf(stranger) + "; free it or choose another", nil
	}
	return "the port is taken; free it or choose another", nil // by a connection of this host, or a `peer` line of ours
}

// bindAddr is what HAProxy binds to: without an address that is 0.0.0.0 (configuration manual, section 4.2, bind; seen for ":80" and
// "*:80" on 2.6, 3.0 and 3.2).
func bindAddr(ip netip.Addr) netip.Addr {
	if !ip.IsValid() {
		return netip.IPv4Unspecified()
	}
	return ip.Unmap()
}

// meet reports whether a client could come to either of two sockets.
func meet(a, b netip.Addr) bool { return a == b || covers(a, b) || covers(b, a) }

// covers reports whether a socket on all addresses takes connections to b. That of IPv6 takes those to IPv4 as well.
func covers(all, b netip.Addr) bool { return all.IsUnspecified() && (all.Is6() || b.Is4()) }

// tryBind binds and closes at once, with HAProxy's own options but for SO_REUSEPORT, which would let us pass beside a stranger of the
// same user. On [::] it takes IPv4 too, as HAProxy does without v6only or v4v6 (seen on 2.6, 3.0 and 3.2).
func tryBind(at netip.AddrPort) error {
	family := unix.AF_INET
	var sa unix.Sockaddr
	if ip := at.Addr(); ip.Is4() {
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
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	return errors.Join(err, unix.Close(fd))
}

func bindReason(err error) string {
	switch {
	case errors.Is(err, syscall.EACCES):
		return "this user may not listen below port 1024; give the capability NET_BIND_SERVICE (a container: --cap-add, and no --user), or choose another port"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "this host has no such address; choose one that it has"
	case errors.Is(err, syscall.EAFNOSUPPORT):
		return "this host has no IPv6; choose an IPv4 address"
	}
	return err.Error()
}

// socketTable is what listens on this host.
type socketTable struct {
	rows   []socketRow
	ours   map[string]bool // inodes
	unseen bool            // ours lacks some
}

// readSockets finds out who listens, and which sockets the processes hold.
func readSockets(pids []int) (*socketTable, error) {
	rows, err := listeners()
	if err != nil {
		return nil, err
	}
	t := &socketTable{rows: rows, ours: map[string]bool{}}
	for _, pid := range pids {
		found, err := inodes(pid)
		t.unseen = t.unseen || err != nil
		for _, inode := range found {
			t.ours[inode] = true
		}
	}
	return t, nil
}

// at tells whether one of ours listens where HAProxy would meet it, and the inode of a stranger that does. The kernel's table does not
// tell whether a socket on [::] takes IPv4 as well; many servers have one that does not, beside one on 0.0.0.0, so for an IPv4 address
// such a stranger is only doubtful: beside an address in force it does not count, or tryBind had refused that one.
func (t *socketTable) at(at netip.AddrPort) (ours bool, stranger, doubtful string) {
	for _, r := range t.rows {
		ip := r.at.Addr().Unmap()
		if r.at.Port() != at.Port() || !meet(ip, at.Addr()) {
			continue
		}
		switch {
		case t.ours[r.inode]:
			ours = true
		case ip.Is6() && at.Addr().Is4():
			doubtful = r.inode
		default:
			stranger = r.inode
		}
	}
	return ours, stranger, doubtful
}

// inodes lists the sockets of a process; one that has ended has none.
func inodes(pid int) ([]string, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, f := range files {
		to, err := os.Readlink(filepath.Join(dir, f.Name()))
		if errors.Is(err, fs.ErrPermission) {
			return nil, err // root in a container sees the names of another user's files, and not what they are
		}
		if err != nil {
			continue // it has just been closed
		}
		if inode, ok := strings.CutPrefix(to, "socket:["); ok {
			out = append(out, strings.TrimSuffix(inode, "]"))
		}
	}
	return out, nil
}

// holderOf looks for the process that has a socket.
func holderOf(inode string) string {
	for _, pid := range processes() {
		if found, err := inodes(pid); err != nil || !slices.Contains(found, inode) {
			continue
		}
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			return fmt.Sprintf("process %d", pid)
		}
		return fmt.Sprintf("%s (pid %d)", printable(string(name), maxLine), pid)
	}
	return "another process"
}
