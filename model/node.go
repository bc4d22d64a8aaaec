package model

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Node is a parsed HOST:PORT: an IP address or a DNS name, never both; or *NAME:PORT, all addresses of the name.
type Node struct {
	IP   netip.Addr
	Host string // lower case, without a trailing dot
	Many bool   // one server for each address of Host
	Port uint16
}

// star stands before a name all of whose addresses are meant.
const star = "*"

// String gives the canonical HOST:PORT, the node's identity; IPv6 addresses stand in brackets.
func (n Node) String() string {
	if n.IP.IsValid() {
		return netip.AddrPortFrom(n.IP, n.Port).String()
	}
	s := n.Host + ":" + strconv.Itoa(int(n.Port))
	if n.Many {
		s = star + s
	}
	return s
}

// ServerName is the name of the node's server. HAProxy's text knows no brackets; it is as unique as String, because the port is always
// there. What comes from a name is rendered with its address behind it (Server.At).
func (n Node) ServerName() string {
	return strings.NewReplacer("[", "", "]", "").Replace(n.String())
}

// ParseNode reads HOST:PORT. The error is one line that quotes the input and says what is wrong with it.
func ParseNode(s string) (Node, error) {
	bad := func(why string) (Node, error) { return Node{}, fmt.Errorf("node %s: %s", shorten(s), why) }
	switch {
	case s == "":
		return bad("it is empty; write HOST:PORT")
	case len(s) > 260:
		return bad(fmt.Sprintf("it has %d characters; a DNS name has at most 253", len(s)))
	case strings.Contains(s, "://"):
		return bad("a URL is no node; write HOST:PORT")
	case strings.ContainsAny(s, "@/"):
		return bad("socket paths and HAProxy's address families are refused; write HOST:PORT")
	}
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 || strings.HasSuffix(s, "]") {
		return bad("the port is missing; write HOST:PORT")
	}
	host, port := s[:colon], s[colon+1:]
	p, err := strconv.ParseUint(port, 10, 32)
	if err != nil || port[0] == '+' {
		return bad("the port is no number; write HOST:PORT")
	}
	if p == 0 || p > 65535 {
		return bad("the port must be between 1 and 65535")
	}
	n := Node{Port: uint16(p)}
	if host, n.Many = strings.CutPrefix(host, star); n.Many {
		if _, err := netip.ParseAddr(host); err == nil || strings.HasPrefix(host, "[") {
			return bad("the * stands before a DNS name, for all of its addresses; an address is one already")
		}
	}
	if strings.HasPrefix(host, "[") {
		if !strings.HasSuffix(host, "]") {
			return bad("the bracket is not closed")
		}
		ip, err := netip.ParseAddr(host[1 : len(host)-1])
		if err != nil || !ip.Is6() {
			return bad("in brackets stands no IPv6 address")
		}
		if ip.Zone() != "" {
			return bad("an address with a zone is refused")
		}
		n.IP = ip.Unmap()
		return n, nil
	}
	if strings.Contains(host, ":") {
		return bad("an IPv6 address stands in brackets: [ADDRESS]:PORT")
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		n.IP = ip
		return n, nil
	}
	n.Host = strings.ToLower(strings.TrimSuffix(host, "."))
	if why := badHost(n.Host); why != "" {
		return bad(why)
	}
	return n, nil
}

// badHost says why h is no host name by RFC 1123, section 2.1; underscores are accepted, because containers have them. A name
// whose last label is a number is an address in another notation (127.1, 0x7f.1), which some resolvers accept: refused.
func badHost(h string) string {
	if h == "" {
		return "the host is missing; write HOST:PORT"
	}
	if len(h) > 209 { // with the port and an IPv6 address it is a server's name, which has 255
		return "a DNS name has at most 209 characters here"
	}
	labels := strings.Split(h, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return "the host is neither an address nor a DNS name"
		}
		for i := range len(l) {
			if c := l[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return "the host is neither an address nor a DNS name"
			}
		}
	}
	last := labels[len(labels)-1]
	if _, err := strconv.ParseUint(last, 0, 64); err == nil || strings.Trim(last, "0123456789") == "" {
		return "the host is an address in a notation that is not accepted"
	}
	return ""
}

// Policy says which addresses may be nodes. The zero value allows what is neither link-local, multicast nor unspecified.
type Policy struct {
	Allow []netip.Prefix // empty: all
	Deny  []netip.Prefix // beats Allow
	Own   []Bind         // our own ports: a node there would be a loop
	Local []netip.Addr   // addresses of this host
}

// Check returns nil or a reason that ends in what to do. Names are checked again after each resolution (safety: who may do
// what, rule 3).
func (p Policy) Check(at netip.AddrPort) error {
	ip := at.Addr().Unmap()
	switch {
	case ip.IsUnspecified():
		return fmt.Errorf("%s is the unspecified address; name the node's own", at)
	case ip.IsLinkLocalUnicast():
		return fmt.Errorf("%s is a link-local address, where clouds keep their metadata; use another address of the node", at)
	case ip.IsMulticast(), ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s is a multicast or broadcast address; name one node", at)
	}
	for _, own := range p.Own {
		here := own.IP == ip
		if !own.IP.IsValid() || own.IP.IsUnspecified() {
			here = ip.IsLoopback() || contains(p.Local, ip)
		}
		if here && own.Port == at.Port() {
			return fmt.Errorf("%s is the balancer's own address: requests would go round for ever; name the node's", at)
		}
	}
	for _, d := range p.Deny {
		if d.Contains(ip) {
			return fmt.Errorf("%s lies in %s, which --node-deny refuses", at, d)
		}
	}
	for _, a := range p.Allow {
		if a.Contains(ip) {
			return nil
		}
	}
	if len(p.Allow) > 0 {
		return fmt.Errorf("%s lies outside of what --node-allow lists", at)
	}
	return nil
}

func contains(list []netip.Addr, ip netip.Addr) bool {
	for _, l := range list {
		if l == ip {
			return true
		}
	}
	return false
}

// shorten quotes s for an error, cut to a length that a person reads.
func shorten(s string) string {
	if len(s) > 60 {
		return strconv.Quote(s[:60]) + "…"
	}
	return strconv.Quote(s)
}
