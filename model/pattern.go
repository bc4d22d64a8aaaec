package model

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// Match is what of a request's path a route looks at.
type Match uint8

// The sorts of matches.
const (
	Rest   Match = iota // every request that no other route of the listener takes
	Prefix              // the path, and what lies below it in whole segments: /a takes /a and /a/b, and not /ab
	Exact               // the path alone
)

var matches = [...]string{"rest", "prefix", "exact"}

func (m Match) String() string { return name(matches[:], m) }

// MarshalText gives the sort's name.
func (m Match) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads the sort's name.
func (m *Match) UnmarshalText(b []byte) error { return unname(matches[:], m, b) }

// Pattern is which requests a route takes. The zero value is the rest.
type Pattern struct {
	Host  string `json:"host,omitempty"` // lower case, without port and closing dot, an IPv6 address in brackets; empty: any
	Path  string `json:"path,omitempty"` // as clients send it; of a Prefix without the slash at its end, but for "/"
	Match Match  `json:"match,omitzero"`
	// Slash redirects a request for Path without its slash to Path with it, where no route takes it exactly: the /a of Prefix /a, which is
	// ServeMux's "/a/", and the /a of Exact /a/, which is its "/a/{$}".
	Slash bool `json:"slash,omitempty"`
}

// The longest host name (RFC 1035, 2.3.4), and the longest path that a route may have, in bytes.
const (
	maxHost      = 253
	maxRoutePath = 1024
)

// ParsePattern reads a pattern of Go's http.ServeMux (the rules of 1.22): [HOST]/PATH, where a path that ends in / takes all below it, and one
// that ends in /{$} nothing below it. Methods and other wildcards are refused, because they are not routed by host and path alone, and so are
// paths that no client sends. An error says what to write.
func ParsePattern(s string) (Pattern, error) {
	switch {
	case s == "":
		return Pattern{}, errors.New("pattern must not be empty")
	case strings.ContainsAny(s, " \t"):
		return Pattern{}, patternError(s, "it has a method or a space; write [HOST]/PATH, which takes all methods")
	}
	slash := strings.IndexByte(s, '/')
	if slash < 0 {
		return Pattern{}, patternError(s, "it has no /; a pattern is [HOST]/PATH, such as example.org/")
	}
	host, err := parseHost(s[:slash])
	if err != nil {
		return Pattern{}, patternError(s, err.Error())
	}
	if err := validRoutePath(strings.TrimSuffix(s[slash:], "{$}")); err != nil {
		return Pattern{}, patternError(s, err.Error())
	}
	p := Pattern{Host: host, Path: s[slash:], Match: Exact}
	if rest, ends := strings.CutSuffix(p.Path, "/{$}"); ends {
		p.Path, p.Slash = rest+"/", rest != ""
	} else if rest, ends := strings.CutSuffix(p.Path, "/"); ends {
		p.Match, p.Path, p.Slash = Prefix, rest, rest != ""
		if rest == "" {
			p.Path = "/"
		}
	}
	if err := p.Validate(); err != nil {
		return Pattern{}, patternError(s, err.Error())
	}
	return p, nil
}

func patternError(s, why string) error {
	return fmt.Errorf("pattern %s: %s", shorten(s), why)
}

// String is the pattern as ParsePattern reads it, where ServeMux can say it.
func (p Pattern) String() string {
	switch {
	case p.Match == Rest:
		return "(rest)"
	case p.Match == Exact && strings.HasSuffix(p.Path, "/"):
		return p.Host + p.Path + "{$}"
	case p.Match == Prefix && p.Path != "/":
		if !p.Slash {
			return p.Host + p.Path + "[/…]"
		}
		return p.Host + p.Path + "/"
	}
	return p.Host + p.Path
}

// Validate says what is wrong with a pattern, by whatever it was made. What passes is one key without spaces in a map of HAProxy's.
func (p Pattern) Validate() error {
	if p.Match == Rest {
		if p != (Pattern{}) {
			return errors.New("the rest has no host and no path")
		}
		return nil
	}
	if host, err := parseHost(p.Host); err != nil || host != p.Host {
		return fmt.Errorf("host %s is not as it has to be: lower case, without port and closing dot", shorten(p.Host))
	}
	switch {
	case p.Match > Exact:
		return fmt.Errorf("there is no match %d", p.Match)
	case p.Match == Prefix && p.Path != "/" && strings.HasSuffix(p.Path, "/"):
		return errors.New("a prefix has no slash at its end")
	case p.Slash && (p.Path == "/" || p.Match == Exact && !strings.HasSuffix(p.Path, "/")):
		return errors.New("there is nothing to redirect to a slash")
	}
	return validRoutePath(p.Path)
}

// validRoutePath accepts the paths that a client may send (RFC 3986, 3.3) and that have one way to be written.
func validRoutePath(s string) error {
	if !strings.HasPrefix(s, "/") {
		return errors.New("its path does not start with /")
	}
	if len(s) > maxRoutePath {
		return fmt.Errorf("its path has %d bytes, at most %d are accepted", len(s), maxRoutePath)
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '{' || c == '}':
			return errors.New("it has a wildcard; of these only {$} at the end is accepted, behind a /")
		case c == '?':
			return errors.New("the query is no part of a pattern; leave out what begins with ?")
		case c == '%':
			b, err := strconv.ParseUint(s[min(i+1, len(s)):min(i+3, len(s))], 16, 8)
			if err != nil || i+2 >= len(s) {
				return errors.New("a % must be followed by two hexadecimal digits; write %25 for a % itself")
			}
			if unreserved(byte(b)) {
				return fmt.Errorf("write %c in place of %s: clients send it so", rune(b), s[i:i+3])
			}
			i += 2
		case c == '/', unreserved(c), strings.IndexByte("!$&'()*+,;=:@", c) >= 0:
		default:
			return fmt.Errorf("%+q is no character of a path; write it as %%%02X", string(s[i]), c)
		}
	}
	clean := path.Clean(s)
	if strings.HasSuffix(s, "/") && clean != "/" {
		clean += "/"
	}
	if clean != s {
		return errors.New("its path has an empty segment, or . or .., which is not looked at as it is meant; write " + shorten(clean))
	}
	return nil
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// parseHost reads the host of a pattern; empty means any.
func parseHost(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	bare := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	if ip, err := netip.ParseAddr(bare); err == nil {
		switch {
		case ip.Zone() != "":
			return "", errors.New("its host has a zone; leave out what begins with %")
		case ip.Is4() && bare == s:
			return bare, nil
		case ip.Is6():
			return "[" + ip.String() + "]", nil
		}
	}
	host := strings.ToLower(strings.TrimSuffix(s, "."))
	switch {
	case strings.ContainsAny(host, "{}*"):
		return "", errors.New("its host has a wildcard; write the whole name, or none for any host")
	case strings.ContainsAny(host, ":[]"):
		return "", errors.New("its host has a port; leave it out, the listener decides it")
	case len(host) > maxHost:
		return "", fmt.Errorf("its host has %d bytes, at most %d are accepted", len(host), maxHost)
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "", errors.New("its host is no name of letters, digits, - and _ with dots between; write names of other scripts as xn--…")
		}
	}
	return host, nil
}

// HostOf is the host of a request as routes compare it, from its Host header: HAProxy's host_only, lower and rtrim(.). It is empty where
// there is none; a port, letters in upper case and dots at the end make no difference.
func HostOf(header string) string {
	h := header
	if strings.HasPrefix(h, "[") {
		if i := strings.IndexByte(h, ']'); i >= 0 {
			h = h[:i+1]
		}
	} else if i := strings.LastIndexByte(h, ':'); i >= 0 {
		h = h[:i]
	}
	return strings.TrimRight(strings.ToLower(h), ".")
}
