package process

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/fnlb/fnlb/haproxy/conf"
)

// Sharing looks for other processes on the ports of a running HAProxy: the kernel lets a process of the same user listen there as well
// (SO_REUSEPORT), without a word to either, and shares the clients out at random. It remembers which sockets are ours, so that a look
// that finds nothing new costs one question to the kernel. It is not safe for concurrent use.
type Sharing struct{ ours map[string]bool }

// Look names each stranger, "ADDRESS: NAME (pid N)", sorted. The pids are those of our HAProxy; what we may not see is not looked for.
func (s *Sharing) Look(inForce []conf.Bind, pids []int) ([]string, error) {
	t, err := readSockets(nil)
	if err != nil {
		return nil, err
	}
	t.ours = s.ours
	found := strangers(t, inForce)
	if len(found) == 0 {
		return nil, nil
	}
	if t, err = readSockets(pids); err != nil || t.unseen {
		return nil, err
	}
	s.ours = map[string]bool{}
	for _, row := range t.rows { // connections of ours, which may be many, are of no interest
		if t.ours[row.inode] {
			s.ours[row.inode] = true
		}
	}
	var out []string
	for at, inode := range strangers(t, inForce) {
		out = append(out, fmt.Sprintf("%s: %s", at, holderOf(inode)))
	}
	slices.Sort(out)
	return out, nil
}

func strangers(t *socketTable, inForce []conf.Bind) map[netip.AddrPort]string {
	out := map[netip.AddrPort]string{}
	for _, b := range inForce {
		if !b.Checkable {
			continue
		}
		at := netip.AddrPortFrom(bindAddr(b.IP), b.Port)
		if _, stranger, _ := t.at(at); stranger != "" {
			out[at] = stranger
		}
	}
	return out
}
