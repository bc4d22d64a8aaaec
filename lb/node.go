package lb

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
)

// node is one place that requests go to. What stands in it never changes, but for who stands in while it is away, and its load. A node that
// is in two lists, one after the other, is the same value in both.
type node struct {
	key  string   // the URL in its one spelling: what is hashed and compared
	name string   // the same without the query, for logs and observers
	url  *url.URL // with host and port
	hash uint64   // of the key
	bare bool     // no base path and no query: nothing is to be joined

	away atomic.Pointer[outage] // nil while it serves
	load atomic.Int64           // requests at it, counted where loads are bounded
	gone atomic.Bool            // no longer in the list; set with the mutex of the round tripper
}

// outage says who stands in for a node.
type outage struct {
	fallback *node
	stop     func() // ends the watch
}

// serving is who gets the requests of n.
func (n *node) serving() *node {
	if o := n.away.Load(); o != nil {
		return o.fallback
	}
	return n
}

// parse reads HOST:PORT or a URL.
func parse(text string) (*node, error) {
	u, err := parseURL(text)
	if err == nil {
		if u, err = url.Parse(u.String()); err != nil { // so that all that means the same is spelled the same
			err = errors.New("cannot be spelled as a URL")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", quoted(text), err)
	}
	n := &node{url: u, bare: u.Path == "" && u.RawQuery == ""}
	named := *u
	named.RawQuery = ""
	n.key, n.name = u.String(), named.String()
	n.hash = sum64(n.key)
	return n, nil
}

// quoted shows what is no node, less what may be a secret in it.
func quoted(text string) string {
	if at := strings.LastIndexByte(text, '@'); at >= 0 {
		text = "…" + text[at:]
	}
	text, _, _ = strings.Cut(text, "?")
	if len(text) > 200 {
		text = text[:200] + "…"
	}
	return strconv.Quote(text)
}

func parseURL(text string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		var why *url.Error
		if errors.As(err, &why) { // its own text repeats the URL, secrets included
			err = why.Err
		}
		return nil, err
	}
	u.Scheme = strings.ToLower(u.Scheme)
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("the scheme is neither http nor https")
	case u.User != nil:
		return nil, errors.New("has a user, which does not belong into a node")
	case u.Fragment != "" || u.RawFragment != "" || strings.HasSuffix(text, "#"):
		return nil, errors.New("has a fragment")
	}
	if u.Host, err = hostPort(u); err != nil {
		return nil, err
	}
	// With and without a slash at the end the same requests come out; two are meant as they stand.
	path := u.EscapedPath()
	if rest, ok := strings.CutSuffix(path, "/"); ok && !strings.HasSuffix(rest, "/") {
		path = rest
	}
	if u.Path, err = url.PathUnescape(path); err != nil {
		return nil, err
	}
	u.RawPath, u.ForceQuery = path, false
	return u, nil
}

// hostPort gives the host of u in its one spelling, with the port.
func hostPort(u *url.URL) (string, error) {
	host, port := u.Hostname(), u.Port()
	switch {
	case host == "":
		return "", errors.New("has no host")
	case strings.HasPrefix(u.Host, "["):
		ip, err := netip.ParseAddr(host)
		if err != nil || !ip.Is6() {
			return "", errors.New("what stands in brackets is no IPv6 address")
		}
		host = ip.String()
	case strings.Contains(host, ":"):
		return "", errors.New("an IPv6 address needs brackets")
	default:
		host = strings.ToLower(host)
		for _, c := range []byte(host) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
				return "", fmt.Errorf("host has %q in it", c)
			}
		}
	}
	if port == "" {
		if strings.HasSuffix(u.Host, ":") {
			return "", errors.New("has a colon and no port")
		}
		port = "80"
		if u.Scheme == "https" {
			port = "443"
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", errors.New("port is not from 1 to 65535")
	} else if spelled := strconv.FormatUint(n, 10); spelled != port {
		port = spelled
	}
	return net.JoinHostPort(host, port), nil
}

// point makes out a request to the node at base for what a client asked with in. The Host header stays.
func point(out *http.Request, in, base *url.URL) {
	host := out.Host
	u := *in
	out.URL = &u
	u.User = nil
	if base.Path == "" && base.RawQuery == "" {
		u.Scheme, u.Host = base.Scheme, base.Host
		return
	}
	(&httputil.ProxyRequest{Out: out}).SetURL(base)
	out.Host = host
}

// strip is the inverse of point: what a client asked with, when u leads to n.
func (n *node) strip(u *url.URL) *url.URL {
	if n.bare {
		return u
	}
	in := *u
	rest, ok := strings.CutPrefix(in.Path, n.url.Path)
	if !ok {
		return u
	}
	if in.RawPath != "" {
		if raw, ok := strings.CutPrefix(in.RawPath, n.url.EscapedPath()); ok {
			in.RawPath = raw
		} else {
			in.RawPath = ""
		}
	}
	in.Path = rest
	if strings.HasSuffix(n.url.EscapedPath(), "/") { // it was joined with one slash for two
		in.Path = "/" + rest
		if in.RawPath != "" {
			in.RawPath = "/" + in.RawPath
		}
	}
	if q, ok := strings.CutPrefix(in.RawQuery, n.url.RawQuery); ok {
		in.RawQuery = strings.TrimPrefix(q, "&")
	}
	return &in
}

// below says whether u may have been made by point.
func (n *node) below(u *url.URL) bool {
	rest, ok := strings.CutPrefix(u.Path, n.url.Path)
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(n.url.Path, "/"))
}
