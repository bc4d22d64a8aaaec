package model

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Owner is whom a Problem names and a quarantine leaves out: one flag, node, container, pool or pod.
type Owner struct {
	Source string `json:"source"`
	Name   string `json:"name"`
}

func (o Owner) String() string { return o.Source + " " + o.Name }

// Rows are the tables of the model: routes name services, servers name services.
type Rows struct {
	Listeners []Listener `json:"listeners,omitempty"`
	Routes    []Route    `json:"routes,omitempty"`
	Services  []Service  `json:"services,omitempty"`
	Servers   []Server   `json:"servers,omitempty"`
}

// Offer is everything one owner asks for; it is accepted whole or left out whole.
type Offer struct {
	Owner  Owner     `json:"owner"`
	Since  time.Time `json:"since"`        // in a conflict the older stays, ties go by Owner
	Yields bool      `json:"yields"`       // a default nobody asked for: loses every conflict
	By     string    `json:"by,omitempty"` // who asked for it, where a person or a program did: "API from 10.0.0.1"
	Rows
}

// Snapshot is the whole truth of one source, storable as JSON.
type Snapshot struct {
	Source   string    `json:"source"`
	Offers   []Offer   `json:"offers"`
	Problems []Problem `json:"problems,omitempty"` // owners that could not be read at all
	Asked    []Asked   `json:"asked,omitempty"`    // owners that went lately because somebody asked for it, sorted by name
	Found    []Found   `json:"found,omitempty"`    // what was made of everything that was looked at, sorted by name
	Away     string    `json:"-"`                  // why the source cannot see its world now, though it has this to say; empty: it sees it
}

// Asked is an owner that was taken away on purpose, by a call or by a stop. That it is listed no more is not to be doubted.
type Asked struct {
	Owner Owner  `json:"owner"`
	By    string `json:"by,omitempty"`
}

// Bind is an address to listen on. Without IP it means all addresses of both families.
type Bind struct {
	IP   netip.Addr `json:"ip"`
	Port uint16     `json:"port"`
}

// String gives HOST:PORT, or :PORT for all addresses.
func (b Bind) String() string {
	if !b.IP.IsValid() {
		return ":" + strconv.Itoa(int(b.Port))
	}
	return netip.AddrPortFrom(b.IP, b.Port).String()
}

// Overlaps reports whether one connection could arrive at both.
func (b Bind) Overlaps(c Bind) bool {
	if b.Port != c.Port {
		return false
	}
	if !b.IP.IsValid() || !c.IP.IsValid() || b.IP == c.IP {
		return true
	}
	// [::] accepts both families, 0.0.0.0 only its own.
	wild := func(x, y netip.Addr) bool { return x.IsUnspecified() && (x.Is6() || y.Is4()) }
	return wild(b.IP, c.IP) || wild(c.IP, b.IP)
}

func (b Bind) compare(c Bind) int {
	if n := b.IP.Compare(c.IP); n != 0 {
		return n
	}
	return int(b.Port) - int(c.Port)
}

// Listener is a port that accepts clients; its key is Bind. Offers that name one Bind must agree on the rest; certificates
// stand in routes, so they can differ.
type Listener struct {
	Bind           Bind           `json:"bind"`
	Name           string         `json:"name,omitempty"` // HAProxy's frontend of that name; empty: one that its address gives
	TLS            bool           `json:"tls,omitempty"`
	Management     bool           `json:"management,omitempty"` // the known paths below /1/lb/ go to fnlb
	Routed         bool           `json:"routed,omitempty"`     // it has the maps for routes by host and path although there may be none, so that the first one is no reload
	Statistics     bool           `json:"statistics,omitempty"` // HAProxy's statistics page and nothing else; no Route may lead from it
	MaxConn        uint32         `json:"max_conn,omitempty"`   // connections at a time; 0: HAProxy's own limit
	ClientTimeout  time.Duration  `json:"client_timeout"`       // inactivity of a client during a request or an answer
	TrustedProxies []netip.Prefix `json:"trusted_proxies,omitempty"`
}

// Route leads from a listener to a service. Its key is Bind with the Host, Path and Match of its pattern.
type Route struct {
	Bind Bind `json:"bind"`
	Pattern
	Service string `json:"service"`
	Cert    string `json:"cert,omitempty"` // name of the certificate in the run directory; needs a listener with TLS
}

// RouteKey is the identity of a route.
type RouteKey struct {
	Bind       Bind
	Host, Path string
	Match      Match
}

// Key is the route's identity.
func (r Route) Key() RouteKey { return RouteKey{r.Bind, r.Host, r.Path, r.Match} }

func (r Route) compare(q Route) int {
	return cmp.Or(r.Bind.compare(q.Bind), strings.Compare(r.Host, q.Host), strings.Compare(r.Path, q.Path), cmp.Compare(r.Match, q.Match))
}

// Algorithm is how a service chooses among its servers.
type Algorithm uint8

// The algorithms (HAProxy's configuration manual, "balance").
const (
	PathHash   Algorithm = iota // by a consistent hash of the path without the query
	TwoRandom                   // of two servers drawn at random the one with fewer requests
	LeastConn                   // the one with the fewest connections
	RoundRobin                  // each in turn
	Source                      // by a consistent hash of the client's address
)

var algorithms = [...]string{"path-hash", "two-random", "least-conn", "round-robin", "source"}

func (a Algorithm) String() string { return name(algorithms[:], a) }

// MarshalText gives the algorithm's name.
func (a Algorithm) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads the algorithm's name.
func (a *Algorithm) UnmarshalText(b []byte) error { return unname(algorithms[:], a, b) }

// Service is a set of servers under one policy, HAProxy's backend of that name. Its key is Name, which must pass ValidName.
type Service struct {
	Name          string    `json:"name"`
	Algorithm     Algorithm `json:"algorithm,omitzero"`
	BalanceFactor uint16    `json:"balance_factor,omitempty"` // of PathHash and Source: hash-balance-factor in percent, above 100; 0 off
	Feedback      bool      `json:"feedback,omitempty"`       // of PathHash: what servers say in XXX-FXLB-WAIT spreads a path over more of them
	BasePath      string    `json:"base_path,omitempty"`      // put before the path of each request, which its servers then see and the hash goes by; must pass ValidBasePath
	Sticky        Sticky    `json:"sticky,omitzero"`
	Compress      bool      `json:"compress,omitempty"`    // answers with text are sent as gzip to clients that take it
	OriginalTo    bool      `json:"original_to,omitempty"` // servers are told in X-Original-To to which address a client connected
	MaxConn       uint32    `json:"max_conn,omitempty"`    // concurrent requests a server takes; 0 no limit
	Check         Check     `json:"check"`
	Timeouts      Timeouts  `json:"timeouts"`
}

// Equal reports whether two rows are the same.
func (s Service) Equal(t Service) bool {
	return s.Name == t.Name && s.Algorithm == t.Algorithm && s.BalanceFactor == t.BalanceFactor && s.Feedback == t.Feedback && s.BasePath == t.BasePath && s.Sticky == t.Sticky &&
		s.Compress == t.Compress && s.OriginalTo == t.OriginalTo && s.MaxConn == t.MaxConn && s.Timeouts == t.Timeouts && s.Check.Equal(t.Check)
}

// Sticky keeps a client, known by its address, with the server that it had first, whatever the hash says (HAProxy's configuration
// manual, "stick on"). The zero value is off.
type Sticky struct {
	Size   uint32        `json:"size"`   // addresses that are remembered
	Expire time.Duration `json:"expire"` // for so long after the last request
}

// Timeouts are those of the server's side, HAProxy's timeout connect, server and queue.
type Timeouts struct {
	Connect time.Duration `json:"connect"`
	Server  time.Duration `json:"server"`
	Queue   time.Duration `json:"queue"`
}

// Server is one address of a service. Its key is Service and Name: the name is the identity (a container's, a node's), the
// address is not.
type Server struct {
	Service string     `json:"service"`
	Name    string     `json:"name"` // must pass ValidName, behind the star that Many puts before it
	IP      netip.Addr `json:"ip"`   // invalid where Host is set and not resolved yet
	Host    string     `json:"host,omitempty"`
	Many    bool       `json:"many,omitempty"` // of Host: one server for each of its addresses
	Port    uint16     `json:"port"`
	Weight  Weight     `json:"weight,omitzero"`
	Admin   Admin      `json:"admin,omitzero"`
	Owner   Owner      `json:"owner"` // set by Merge
	// Instance tells apart what had the name one after the other, such as two starts of a container: nothing that was found of
	// one holds for the next, which may have taken another's address. Empty where a name means always the same.
	Instance string `json:"instance,omitempty"`
	// DrainFor is how long its requests may go on after it was removed, before they are cut; 0: the default limit.
	DrainFor time.Duration `json:"drain_for,omitempty"`
}

// Addr is where the server listens; it is not valid while its Host is not resolved.
func (s Server) Addr() netip.AddrPort { return netip.AddrPortFrom(s.IP, s.Port) }

// Share is the weight to be rendered: a server that drains has none.
func (s Server) Share() int {
	if s.Admin == Drain {
		return 0
	}
	return s.Weight.Int()
}

// At is the row of a server that comes from a name, as it is rendered: at one address, which its name ends with, so that another address
// is another server.
func (s Server) At(at netip.AddrPort) Server {
	s.IP, s.Port = at.Addr(), at.Port()
	if s.Host != "" {
		s.Name, s.Many = strings.TrimPrefix(s.Name, star)+"_"+at.Addr().String(), false
	}
	return s
}

func (s Server) validName() bool {
	name := s.Name
	if s.Many {
		name = strings.TrimPrefix(name, star)
	}
	return ValidName(name)
}

// Key is the server's identity.
func (s Server) Key() ServerKey { return ServerKey{s.Service, s.Name} }

// ServerKey is the identity of a server.
type ServerKey struct{ Service, Name string }

// CheckKind is what a health check does.
type CheckKind uint8

// The kinds of checks.
const (
	CheckHTTP CheckKind = iota // GET of a path
	CheckTCP                   // a connection, nothing more
	CheckOff                   // none: the server counts as healthy
)

var checkKinds = [...]string{"http", "tcp", "off"}

func (k CheckKind) String() string { return name(checkKinds[:], k) }

// MarshalText gives the kind's name.
func (k CheckKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the kind's name.
func (k *CheckKind) UnmarshalText(b []byte) error { return unname(checkKinds[:], k, b) }

// Check is one health-check rule with two renderings (package check): our probe and HAProxy's directives.
type Check struct {
	Kind     CheckKind     `json:"kind,omitzero"`
	Interval time.Duration `json:"interval"`
	Timeout  time.Duration `json:"timeout"`
	Rise     uint8         `json:"rise"`           // consecutive successes that bring a server up
	Fall     uint8         `json:"fall"`           // consecutive failures that take it down
	Asks     []Ask         `json:"asks,omitempty"` // of CheckHTTP alone: all must pass, one after another
}

// Ask is one question of a check: GET of a path. Without MinVersion and Bodies any 2xx or 3xx passes.
type Ask struct {
	Path       string   `json:"path"`
	MinVersion string   `json:"min_version,omitempty"` // least semantic version in the JSON body of a 200
	Bodies     []string `json:"bodies,omitempty"`      // the body, without white space around it, is one of them, whatever the status
}

// Equal reports whether two rules are the same.
func (c Check) Equal(d Check) bool {
	return c.Kind == d.Kind && c.Interval == d.Interval && c.Timeout == d.Timeout && c.Rise == d.Rise && c.Fall == d.Fall &&
		slices.EqualFunc(c.Asks, d.Asks, func(a, b Ask) bool {
			return a.Path == b.Path && a.MinVersion == b.MinVersion && slices.Equal(a.Bodies, b.Bodies)
		})
}

// ValidBasePath says what is wrong with a base path: it is a path as clients send it, without a slash at its end.
func ValidBasePath(s string) error {
	if strings.HasSuffix(s, "/") {
		return errors.New("it ends in /; leave that out, and none at all where nothing is to be put before the path")
	}
	return validRoutePath(s)
}

// ValidName reports whether s may stand as a name in HAProxy's text: letters, digits and _ . : - as in HAProxy's
// configuration manual, section 2.1 (proxy and server names), at most 255 of them.
func ValidName(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.', c == ':', c == '-':
		default:
			return false
		}
	}
	return true
}
