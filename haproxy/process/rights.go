package process

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// attributes are how every HAProxy is started: in a process group of its own, and with less than we have where we have more than
// its user. HAProxy talks to strangers, so it gets what it needs of that and no more:
//
//   - The right to listen below port 1024, which would not outlive exec(2) by itself. It is handed on where we hold it without being
//     root: kept when root was given up, or a file capability of ours.
//   - None of our supplementary groups, where we may take them away (CAP_SETGID without being root, which somebody has given us for
//     this): one may be that of the Docker Engine's socket.
func attributes() (*syscall.SysProcAttr, error) {
	a := &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		return a, nil
	}
	own, err := Capabilities()
	if err != nil {
		return nil, err
	}
	if own.Permitted.Has(unix.CAP_NET_BIND_SERVICE) {
		a.AmbientCaps = []uintptr{unix.CAP_NET_BIND_SERVICE}
	}
	if own.Effective.Has(unix.CAP_SETGID) {
		a.Credential = &syscall.Credential{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}
	}
	return a, nil
}

// CapabilitySet is a set of capabilities (capabilities(7)), bit n for number n.
type CapabilitySet uint64

// Has reports whether capability n is in the set.
func (s CapabilitySet) Has(n int) bool { return s&(1<<n) != 0 }

// Held are the capabilities of a thread, and with Go of all threads of a process.
type Held struct{ Permitted, Effective, Inheritable CapabilitySet }

// Capabilities reads our own.
func Capabilities() (Held, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return Held{}, fmt.Errorf("read our capabilities: %w", err)
	}
	join := func(low, high uint32) CapabilitySet { return CapabilitySet(high)<<32 | CapabilitySet(low) }
	return Held{
		Permitted:   join(data[0].Permitted, data[1].Permitted),
		Effective:   join(data[0].Effective, data[1].Effective),
		Inheritable: join(data[0].Inheritable, data[1].Inheritable),
	}, nil
}
