package conf

import (
	"net/netip"
	"strconv"
	"strings"
)

// address is one address of a bind or server line as HAProxy cuts it (configuration manual 11).
type address struct {
	stream     bool // a plain TCP address; the rest is only known then
	host, port string
	any        bool       // "" or "*": all addresses
	ip         netip.Addr // invalid for a name, and for any
}

// parseAddress cuts an address. The last colon separates the port, even without brackets.
func parseAddress(raw string) address {
	var a address
	family := ""
	rest := raw
	if head, tail, ok := strings.Cut(raw, "@"); ok {
		switch head {
		case "ipv4", "tcp4", "stream+ipv4":
			family = "4"
		case "ipv6", "tcp6", "stream+ipv6":
			family = "6"
		case "ip", "tcp", "stream+ip":
		default:
			return a // unix, abns, fd, sockpair, udp, quic, …
		}
		rest = tail
	}
	if strings.HasPrefix(rest, "/") || strings.IndexByte(rest, '$') >= 0 || strings.IndexByte(rest, ' ') >= 0 { // a path, a variable
		return a
	}
	a.stream = true
	a.host = rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		a.host, a.port = rest[:i], rest[i+1:]
	}
	host := a.host
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	switch {
	case host == "" || host == "*":
		a.any = family != "6"
		if family == "6" {
			a.ip = netip.IPv6Unspecified()
		}
	default:
		if ip, err := netip.ParseAddr(host); err == nil {
			a.ip = ip
		}
	}
	return a
}

// parsePort reads a decimal port number from 1 to 65535.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0
}
