package access

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// HostFlag is the flag that lists Rules.Hosts, for the message of a refusal.
const HostFlag = "--mgmt-hosts"

// ListenerKind is where a request comes in.
type ListenerKind uint8

// The kinds of listeners.
const (
	Traffic ListenerKind = iota // a port of HAProxy's: by its Unix socket, with the client's address in a PROXY header
	Port                        // a port of our own
	Admin                       // a Unix socket that only its owner may open
)

// Rules are who may use the management API. The zero value allows loopback and private ranges.
type Rules struct {
	// Allow are the peers that may. Nil and not AllowSet: Private.
	Allow []netip.Prefix
	// AllowSet says that somebody chose Allow: a request that came through another proxy is then judged by its peer alone.
	AllowSet bool
	// Token is the bearer token that every request needs; nil: none. An empty one that is not nil lets nobody in.
	Token []byte
	// Hosts are the names accepted as Host on loopback addresses, beside localhost; without a port.
	Hosts []string
}

// Private gives the ranges that may use the API when nobody says otherwise: loopback, RFC 1918 and RFC 4193.
func Private() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("fc00::/7"),
	}
}

// Path is the path as it was sent, which decides what a request means; nothing is decoded or cleaned, so that HAProxy, the
// rules and the handlers agree on every spelling (safety: who may do what, 5).
func Path(r *http.Request) string { return r.URL.EscapedPath() }

// Health reports whether path asks for liveness or readiness. The short forms exist only on listeners of our own: on a
// traffic port those paths are the nodes'.
func Health(path string, kind ListenerKind) bool {
	switch path {
	case "/1/lb/healthz", "/1/lb/readyz":
		return true
	case "/healthz", "/readyz":
		return kind != Traffic
	}
	return false
}

// Caller judges calls of another protocol than HTTP, on a port of our own: by the peer's address and by what the call has as
// Authorization. The error is a *Refusal.
func (r Rules) Caller() func(peer netip.Addr, authorization []string) error {
	g := newGuard(r, Port)
	return func(peer netip.Addr, authorization []string) error {
		switch {
		case !g.allowed(peer.Unmap().WithZone("")):
			return &Refusal{Msg: notAllowed(peer)}
		case !g.bears(authorization):
			return &Refusal{Token: true, Msg: needsToken}
		}
		return nil
	}
}

// Refusal is why a call may not be made.
type Refusal struct {
	Token bool // the right token would let it through
	Msg   string
}

func (r *Refusal) Error() string { return r.Msg }

const needsToken = "a bearer token is needed, that of --mgmt-token-file: Authorization: Bearer TOKEN"

func notAllowed(peer netip.Addr) string {
	return fmt.Sprintf("%s may not use the management API; --mgmt-allow lists who may", peer)
}

// refusal is an answer in place of next's.
type refusal struct {
	status int
	msg    string
}

// Wrap gives next to those whom the rules let through, and answers the others with {"msg": why}.
func (r Rules) Wrap(next http.Handler, kind ListenerKind) http.Handler {
	if kind == Admin {
		return next
	}
	g := newGuard(r, kind)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !Health(Path(req), kind) {
			if no := g.judge(req); no != nil {
				no.write(w, req)
				return
			}
		}
		next.ServeHTTP(w, req)
	})
}

func (no *refusal) write(w http.ResponseWriter, req *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if no.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="fnlb"`)
	}
	if req.ContentLength != 0 {
		h.Set("Connection", "close") // who is refused is answered now, not after a body
	}
	w.WriteHeader(no.status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	// A string always encodes; what else can fail is that the client has gone.
	_ = e.Encode(struct {
		Msg string `json:"msg"`
	}{no.msg})
}

// guard is Rules made ready.
type guard struct {
	kind    ListenerKind
	ranges  []netip.Prefix
	proxied bool // requests through another proxy are judged by their peer
	token   *[sha256.Size]byte
	hosts   map[string]bool
	origin  *http.CrossOriginProtection
}

func newGuard(r Rules, kind ListenerKind) *guard {
	g := &guard{kind: kind, ranges: r.Allow, proxied: kind != Traffic || r.AllowSet, hosts: map[string]bool{"localhost": true},
		origin: http.NewCrossOriginProtection()}
	if r.Allow == nil && !r.AllowSet {
		g.ranges = Private()
	}
	if r.Token != nil {
		sum := sha256.Sum256(r.Token)
		g.token = &sum
	}
	for _, h := range r.Hosts {
		g.hosts[fold(h)] = true
	}
	return g
}

// judge returns nil when the request may go on.
func (g *guard) judge(r *http.Request) *refusal {
	peer, ok := parseAddr(r.RemoteAddr)
	if !ok {
		return &refusal{http.StatusForbidden, "the client's address did not arrive, so nobody can say whether it may"}
	}
	if !g.allowed(peer) {
		return &refusal{http.StatusForbidden, notAllowed(peer)}
	}
	if !g.proxied {
		for _, h := range []string{"Forwarded", "X-Forwarded-For", "Via"} {
			if _, there := r.Header[h]; there {
				return &refusal{http.StatusForbidden, fmt.Sprintf("the request came through another proxy (header %s); ask directly, or say with --mgmt-allow who may", h)}
			}
		}
	}
	if host := hostname(r.Host); local(r).IsLoopback() && !g.named(host) {
		return &refusal{http.StatusForbidden, fmt.Sprintf("the Host %s is not accepted on a loopback address; use an IP address or localhost, or list the name with %s", short(r.Host), HostFlag)}
	}
	if !g.bears(r.Header["Authorization"]) {
		return &refusal{http.StatusUnauthorized, needsToken}
	}
	if err := g.origin.Check(r); err != nil {
		return &refusal{http.StatusForbidden, "the request comes from a page of another site; only pages of this one may write"}
	}
	return nil
}

func (g *guard) allowed(peer netip.Addr) bool {
	for _, p := range g.ranges {
		if p.Contains(peer) {
			return true
		}
	}
	return false
}

// bears compares digests, so that neither the token's bytes nor its length show in the time it takes.
func (g *guard) bears(values []string) bool {
	if g.token == nil {
		return true
	}
	if len(values) != 1 {
		return false
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	token = strings.TrimLeft(token, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return false
	}
	sum := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(sum[:], g.token[:]) == 1
}

// named reports whether host is an address or an accepted name.
func (g *guard) named(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return g.hosts[fold(host)]
}

// local is where the connection came in. What cannot be told counts as loopback, which asks for more.
func local(r *http.Request) netip.Addr {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if ip, ok := parseAddr(a.String()); ok {
			return ip
		}
	}
	return netip.IPv6Loopback()
}

// parseAddr reads IP:PORT, as connections give it; the zone goes, since ranges have none.
func parseAddr(s string) (netip.Addr, bool) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.Addr{}, false
	}
	return ap.Addr().Unmap().WithZone(""), true
}

// hostname is Host without its port and brackets.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}

func fold(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// short quotes a text of an outsider for a message.
func short(s string) string {
	if len(s) > 60 {
		s = s[:60] + "…"
	}
	return string(bytes.ToValidUTF8(fmt.Appendf(nil, "%q", s), []byte("?")))
}
