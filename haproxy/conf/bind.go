package conf

import (
	"net/netip"
	"slices"
	"strings"
)

// maxBinds bounds what port ranges expand to, over a whole text.
const maxBinds = 1 << 16

// Bind is one address that a text listens on.
type Bind struct {
	Section   string     // name of the section, "" for global
	No        int        // line number
	Raw       string     // as it is written, one element of a list
	IP        netip.Addr // invalid: all addresses ("*:80", ":80")
	Port      uint16
	Checkable bool // IP and Port hold, and a plain bind of ours means the same as HAProxy's
}

// Binds lists what the text listens on, in its order: bind lines of frontend, listen, peers and log-forward sections, each element
// of a list and each port of a range, and TCP addresses of `stats socket`. Not Checkable are sockets that are not TCP, host names,
// variables, addresses of another namespace, interface or transparent proxying, and ports beyond 65,536 in all. (A peers
// section's `peer` line listens too, where it is the local one, which the text does not say.)
func (t Text) Binds() []Bind {
	var all []Bind
	for _, s := range t.Sections {
		for _, l := range s.Lines {
			words := l.Words
			switch s.Kind {
			case "frontend", "listen", "peers", "log-forward":
				if words[0] != "bind" {
					continue
				}
			case "global":
				if words[0] != "stats" || len(words) < 3 || words[1] != "socket" {
					continue
				}
				words = words[1:]
			default:
				continue
			}
			if len(words) < 2 {
				continue
			}
			plain := !slices.ContainsFunc(words[2:], func(w string) bool {
				return w == "namespace" || w == "interface" || w == "transparent"
			})
			for raw := range strings.SplitSeq(words[1], ",") {
				all = appendBinds(all, Bind{Section: s.Name, No: l.No, Raw: raw}, plain)
			}
		}
	}
	return all
}

// appendBinds adds b once for each of its ports.
func appendBinds(all []Bind, b Bind, plain bool) []Bind {
	a := parseAddress(b.Raw)
	first, last, isRange := strings.Cut(a.port, "-")
	low, ok := parsePort(first)
	high := low
	if isRange {
		var okHigh bool
		high, okHigh = parsePort(last)
		ok = ok && okHigh && low <= high
	}
	if !a.stream || !ok || !a.any && !a.ip.IsValid() || len(all)+int(high-low) >= maxBinds {
		return append(all, b)
	}
	b.IP, b.Checkable = a.ip, plain
	for port := int(low); port <= int(high); port++ {
		b.Port = uint16(port)
		all = append(all, b)
	}
	return all
}
