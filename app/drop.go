package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/haproxy/process"
)

// dropVariable has the user that a process of root becomes before it does anything else, by number, with the group of the same number.
// The image sets it. It is no flag, because the defaults of flags depend on who we are.
const dropVariable = "FNLB_DROP_TO"

// dropNeeds is what dropRoot cannot do without: without CAP_KILL the first process of the container, which stays root, could not signal us any more.
var dropNeeds = []struct {
	capability int
	name       string
}{{unix.CAP_SETUID, "SETUID"}, {unix.CAP_SETGID, "SETGID"}, {unix.CAP_KILL, "KILL"}}

// dropRoot gives root up for the user of FNLB_DROP_TO when we were started by root with that user's group, as the image is (USER
// root:99). Whoever asks an engine for --user root gets root's own group with it, and stays root. The note tells when that is so
// for another reason.
//
// What is left is that user with the group of the engine's socket, and two capabilities: NET_BIND_SERVICE, and SETGID, by which
// HAProxy is started without that group (haproxy/process). Nobody gets more by exec(2) any more, and HAProxy, which is the same user,
// cannot look into us: who holds a capability that it does not hold is out of reach for it (ptrace(2)).
func (p Program) dropRoot(in config.Input) (note string, err error) {
	text, _ := p.Env(dropVariable)
	if text == "" {
		return "", nil
	}
	if os.Getuid() != 0 {
		return p.sharedGroup(in)
	}
	id, err := strconv.ParseUint(text, 10, 31)
	if err != nil || id == 0 {
		return "", fmt.Errorf("%s=%q is no user by number above 0; make it empty to stay root", dropVariable, text)
	}
	if os.Getgid() != int(id) {
		return "", nil
	}
	own, err := process.Capabilities()
	if err != nil {
		return "", err
	}
	for _, need := range dropNeeds {
		if !own.Effective.Has(need.capability) {
			return fmt.Sprintf("root is not given up, because the capability %s is missing; start the container with --user %d to be no root at all", need.name, id), nil
		}
	}
	groups, err := os.Getgroups()
	if err != nil {
		return "", fmt.Errorf("read our groups: %w", err)
	}
	groups = slices.DeleteFunc(groups, func(gid int) bool { return gid == 0 })
	if gid, ok := p.engineGroup(in); ok && !slices.Contains(groups, gid) {
		groups = append(groups, gid)
	}
	if err := become(int(id), groups, own); err != nil {
		return "", fmt.Errorf("become user %d: %w; make %s empty to stay root", id, err, dropVariable)
	}
	return "", nil
}

// sharedGroup tells when HAProxy inherits the way to the engine from us. Only root could have taken it away.
func (p Program) sharedGroup(in config.Input) (note string, err error) {
	gid, ok := p.engineGroup(in)
	if !ok {
		return "", nil
	}
	groups, err := os.Getgroups()
	if err != nil {
		return "", fmt.Errorf("read our groups: %w", err)
	}
	if os.Getegid() != gid && !slices.Contains(groups, gid) {
		return "", nil
	}
	return "HAProxy can reach the Docker Engine as we can; start the container without --user, or put a socket proxy between", nil
}

// become changes all threads, and for good.
func become(id int, groups []int, own process.Held) error {
	var kept process.CapabilitySet
	for _, n := range []int{unix.CAP_NET_BIND_SERVICE, unix.CAP_SETGID} {
		if own.Permitted.Has(n) {
			kept |= 1 << n
		}
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"set groups", func() error { return syscall.Setgroups(groups) }},
		{"set group", func() error { return syscall.Setgid(id) }},
		{"keep capabilities", func() error { return prctl(unix.PR_SET_KEEPCAPS, 1) }},
		{"set user", func() error { return syscall.Setuid(id) }}, // after it the kernel writes no core of ours, and hides /proc/self from others
		{"set capabilities", func() error { return setCapabilities(process.Held{Permitted: kept, Effective: kept}) }},
		{"forbid new privileges", func() error { return prctl(unix.PR_SET_NO_NEW_PRIVS, 1) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// setCapabilities sets those of all threads. With cgo Go does not know all threads; a binary of compile.sh has none.
func setCapabilities(h process.Held) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		shift := 32 * i
		data[i] = unix.CapUserData{Effective: uint32(h.Effective >> shift), Permitted: uint32(h.Permitted >> shift), Inheritable: uint32(h.Inheritable >> shift)}
	}
	_, _, errno := syscall.AllThreadsSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	return allThreads(errno)
}

func prctl(option int, value uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall6(syscall.SYS_PRCTL, uintptr(option), value, 0, 0, 0, 0)
	return allThreads(errno)
}

func allThreads(errno syscall.Errno) error {
	switch errno {
	case 0:
		return nil
	case syscall.ENOTSUP:
		return errors.New("this binary was built with cgo; build it with compile.sh")
	}
	return errno
}

// engineGroup is the group of the Docker Engine's socket, when we shall use one and its group may. It is asked before flags are read.
func (p Program) engineGroup(in config.Input) (gid int, ok bool) {
	path, ok := in.EngineSocket(p.Env)
	if !ok {
		return 0, false
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Type() != fs.ModeSocket || info.Mode().Perm()&0o060 != 0o060 {
		return 0, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Gid), true
}
