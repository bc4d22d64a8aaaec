package templates

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/model"
)

// Data is what a template sees as its dot. The first five fields are those that users' templates of docker-loadbalancer rely
// on; the built-in template reads the others. Every string is safe to stand as one word through the function quote; those of
// Publish and Backend are safe without it.
type Data struct {
	Services  []Service // one for each listener that leads somewhere, by address and port
	Stats     string    // "Y" where a statistics page is wanted, else empty
	StatsPort int       // its port, on all addresses; -1 where it is off
	PidFile   string    // file in the run directory that the template may use for HAProxy's pid
	SockFile  string    // socket in the run directory that the template may use for statistics

	Process    Process
	Management Management
	Statistics []Listener // listeners of HAProxy's statistics page, by address and port
	Listeners  []Listener // HAProxy's other frontends, by address and port
	Pools      []Pool     // HAProxy's backends, by name
}

// Service is a published port and the servers behind it.
type Service struct {
	Publish  Publish
	Backends []Backend // its servers, by name
}

// Publish is where a service is reached.
type Publish struct {
	Port int    // port to listen on
	IP   string // address to listen on; empty: all addresses
	Ssl  string // PEM file with certificate and key; empty: the port speaks no TLS
}

// Backend is one server (the word is docker-loadbalancer's).
type Backend struct {
	Name string // unique within its service; for a node HOST:PORT without brackets, then _ and the address where HOST is a name
	IP   string // without brackets
	Port int    // of the server

	Address  string // IP:Port, with brackets where HAProxy needs them
	ID       int    // explicit id, which is the server's place on the ring of HAProxy before 3.0
	Weighted bool   // Weight is not 1
	Weight   int    // 0 to 256, 1 where nobody asked for another; 0 for a node that drains
}

// Process is what the whole of HAProxy is.
type Process struct {
	User      string // whom workers become; empty: HAProxy does not change its identity
	Group     string // their group; empty likewise
	HardStop  string // hard-stop-after; empty: none
	StateFile string // server-state-file, written before each reload; empty: none
	AccessLog bool   // the HTTP log goes to file descriptor 3
	TLS       bool   // a listener speaks TLS
	HashKey   bool   // servers can have hash-key addr-port
	PassesH2C bool   // HAProxy lets upgrades to h2c through, as 2.6 does; 3.0 stops them by itself (tried)
	OpenSSL   bool   // HAProxy is built with OpenSSL, so that it has all directives of TLS
	Peers     string // Unix socket by which a worker hands its stick tables to the next one; empty: they are lost at a reload
}

// Management is how HAProxy reaches fnlb itself.
type Management struct {
	Used   bool     // a listener hands paths over
	Name   string   // name of the backend for them
	Socket string   // Unix socket of fnlb; it wants send-proxy-v2
	Paths  []string // the exact paths
}

// Listener is one port, HAProxy's frontend.
type Listener struct {
	Name           string   // name of the frontend
	Binds          []string // what follows bind: an address with its options, not to be quoted
	Cert           string   // PEM file; empty: no TLS
	Timeout        string   // timeout client
	MaxConn        int      // connections at a time; 0: no limit of its own
	Pool           string   // name of the Pool that takes what no route does; empty: there is none, and such requests get 404 where it is Routed, else 503
	Routed         bool     // hosts and paths are looked up in its maps
	ExactMap       string   // map file from HOST/PATH, or /PATH for any host, to the name of a Pool, or to / for a redirect to the path with a slash at its end
	PrefixMap      string   // likewise by the beginning of HOST/PATH, of which the longest counts
	Management     bool     // the management paths go to fnlb
	TrustedProxies []string // networks whose X-Forwarded-For is believed
}

// Pool is a set of servers under one policy, HAProxy's backend.
type Pool struct {
	Name           string     // name of the backend; that of the node pool is nodes
	Servers        []Backend  // by name
	Check          [][]string // lines of the health check; write each with words
	ServerCheck    []string   // words of the check for a default-server line
	Balance        string     // words behind balance
	Hash           bool       // it needs hash-type consistent
	SetPath        string     // what http-request set-path takes to put a base path before the path of each request, a format to be quoted; empty: none
	BalanceFactor  int        // hash-balance-factor; 0: off
	Feedback       bool       // the wait that servers tell in XXX-FXLB-WAIT spreads a path over more of them
	MaxConn        int        // of each server; 0: no limit
	StickySize     int        // addresses of clients that stay with their server; 0: none does
	StickyExpire   string     // how long after its last request a client's address is remembered
	Compress       bool       // text is sent as gzip to clients that take it
	OriginalTo     bool       // servers learn in X-Original-To to which address the client connected
	TimeoutConnect string     // timeout connect
	TimeoutServer  string     // timeout server
	TimeoutQueue   string     // timeout queue
	Trusts         bool       // a listener that leads here has TrustedProxies
}

// managementName is the backend of the management API; no service may have it.
const managementName = "fnlb_management"

// maxTime is the longest time that HAProxy reads (configuration manual, 2.5).
const maxTime = (1<<31 - 1) * time.Millisecond

// newData turns typed rows into what templates see, and refuses what could mean something else in HAProxy's text.
func newData(s model.State, g Globals, a conf.Abilities, known []mapped) (Data, []mapped, error) {
	d := Data{StatsPort: -1, PidFile: g.PidFile, SockFile: g.SockFile}
	d.Process = Process{User: g.User, Group: g.Group, StateFile: g.StateFile, AccessLog: g.AccessLog, HashKey: a.HashKey(), PassesH2C: !a.AtLeast(3, 0), OpenSSL: a.OpenSSL, Peers: g.PeersSocket}
	if g.HardStop != 0 {
		var err error
		if d.Process.HardStop, err = duration("hard-stop-after", g.HardStop); err != nil {
			return Data{}, nil, err
		}
	}
	d.Management = Management{Name: managementName, Socket: g.ManagementSocket, Paths: g.ManagementPaths}
	index := map[string]int{} // pool by name
	for _, svc := range s.Services {
		p, err := newPool(svc)
		if err != nil {
			return Data{}, nil, fmt.Errorf("render service %q: %w", svc.Name, err)
		}
		if _, twice := index[svc.Name]; twice || svc.Name == managementName {
			return Data{}, nil, fmt.Errorf("render service %q: the name is taken", svc.Name)
		}
		index[svc.Name] = len(d.Pools)
		d.Pools = append(d.Pools, p)
	}
	count := map[string]int{}
	for i := range s.Servers {
		count[s.Servers[i].Service]++
	}
	for _, srv := range s.Servers {
		at, ok := index[srv.Service]
		b, err := newBackend(srv)
		if err == nil && !ok {
			err = fmt.Errorf("there is no service %q", srv.Service)
		}
		if err != nil {
			return Data{}, nil, fmt.Errorf("render server %q: %w", srv.Name, err)
		}
		if d.Pools[at].Servers == nil {
			d.Pools[at].Servers = make([]Backend, 0, count[srv.Service])
		}
		d.Pools[at].Servers = append(d.Pools[at].Servers, b)
	}
	for i := range d.Pools {
		if err := arrange(d.Pools[i].Servers); err != nil {
			return Data{}, nil, fmt.Errorf("render service %q: %w", d.Pools[i].Name, err)
		}
	}
	maps, err := d.addListeners(s, g, index, known)
	if err != nil {
		return Data{}, nil, err
	}
	slices.SortFunc(d.Pools, func(p, q Pool) int { return strings.Compare(p.Name, q.Name) })
	return d, maps, d.quotable()
}

// balance gives HAProxy's words for an algorithm, and whether it goes by a hash.
var balance = map[model.Algorithm]struct {
	words string
	hash  bool
}{
	model.PathHash: {"uri path-only", true}, model.TwoRandom: {"random(2)", false}, model.LeastConn: {"leastconn", false},
	model.RoundRobin: {"roundrobin", false}, model.Source: {"source", true},
}

func newPool(svc model.Service) (Pool, error) {
	if !model.ValidName(svc.Name) {
		return Pool{}, fmt.Errorf("its name has characters other than A-Z a-z 0-9 _ . : -")
	}
	if svc.BalanceFactor > 0 && svc.BalanceFactor <= 100 {
		return Pool{}, fmt.Errorf("balance factor %d: it must be above 100 (percent of the average), or 0 for off", svc.BalanceFactor)
	}
	if svc.MaxConn > 1<<31-1 {
		return Pool{}, fmt.Errorf("max conn %d: it must be below 2147483648", svc.MaxConn)
	}
	algorithm, ok := balance[svc.Algorithm]
	if !ok {
		return Pool{}, fmt.Errorf("there is no algorithm %s", svc.Algorithm)
	}
	if svc.BasePath != "" {
		if err := model.ValidBasePath(svc.BasePath); err != nil {
			return Pool{}, fmt.Errorf("base path %q: %w", svc.BasePath[:min(len(svc.BasePath), 60)], err)
		}
	}
	if svc.BalanceFactor > 0 && !algorithm.hash {
		return Pool{}, fmt.Errorf("balance factor %d: the algorithm %s has none", svc.BalanceFactor, svc.Algorithm)
	}
	if svc.Feedback && (svc.Algorithm != model.PathHash || svc.Sticky != (model.Sticky{})) {
		return Pool{}, fmt.Errorf("load feedback: it needs the hash of the path, and no stickiness")
	}
	p := Pool{Name: svc.Name, Balance: algorithm.words, Hash: algorithm.hash, BalanceFactor: int(svc.BalanceFactor), Feedback: svc.Feedback, MaxConn: int(svc.MaxConn), Compress: svc.Compress, OriginalTo: svc.OriginalTo}
	if svc.BasePath != "" {
		p.SetPath = strings.ReplaceAll(svc.BasePath, "%", "%%") + "%[path]"
	}
	var err error
	if svc.Sticky != (model.Sticky{}) {
		if svc.Sticky.Size == 0 || svc.Sticky.Size > 1<<31-1 {
			return Pool{}, fmt.Errorf("sticky size %d: it must be between 1 and 2147483647", svc.Sticky.Size)
		}
		p.StickySize = int(svc.Sticky.Size)
		if p.StickyExpire, err = duration("sticky expire", svc.Sticky.Expire); err != nil {
			return Pool{}, err
		}
	}
	if p.Check, err = check.Directives(svc.Check); err != nil {
		return Pool{}, err
	}
	p.ServerCheck = check.ServerWords(svc.Check)
	for _, t := range []struct {
		name string
		d    time.Duration
		to   *string
	}{
		{"timeout connect", svc.Timeouts.Connect, &p.TimeoutConnect},
		{"timeout server", svc.Timeouts.Server, &p.TimeoutServer},
		{"timeout queue", svc.Timeouts.Queue, &p.TimeoutQueue},
	} {
		if *t.to, err = duration(t.name, t.d); err != nil {
			return Pool{}, err
		}
	}
	return p, nil
}

func newBackend(srv model.Server) (Backend, error) {
	switch {
	case !model.ValidName(srv.Name):
		return Backend{}, fmt.Errorf("its name has characters other than A-Z a-z 0-9 _ . : -")
	case !srv.IP.IsValid() || srv.IP.Zone() != "":
		return Backend{}, fmt.Errorf("address %q cannot be rendered", srv.IP.String())
	case srv.Port == 0:
		return Backend{}, fmt.Errorf("it has no port")
	}
	at := netip.AddrPortFrom(srv.IP.Unmap(), srv.Port)
	return Backend{Name: srv.Name, IP: at.Addr().String(), Port: int(at.Port()), Address: at.String(), Weight: srv.Share(), Weighted: srv.Share() != 1}, nil
}

// arrange sorts the servers of one pool by name and gives them their places on the ring.
func arrange(servers []Backend) error {
	slices.SortFunc(servers, func(b, c Backend) int { return strings.Compare(b.Name, c.Name) })
	addrs := make([]netip.AddrPort, len(servers))
	for i, b := range servers {
		if i > 0 && servers[i-1].Name == b.Name {
			return fmt.Errorf("it has two servers %q", b.Name)
		}
		at, err := netip.ParseAddrPort(b.Address)
		if err != nil {
			return fmt.Errorf("server %q: %w", b.Name, err)
		}
		addrs[i] = at
	}
	for i, id := range conf.RingIDs(addrs) {
		servers[i].ID = int(id)
	}
	return nil
}

func (d *Data) addListeners(s model.State, g Globals, index map[string]int, known []mapped) ([]mapped, error) {
	routes, err := byListener(s.Routes)
	if err != nil {
		return nil, err
	}
	var maps []mapped
	seen := map[string]bool{}
	for _, row := range slices.SortedFunc(slices.Values(s.Listeners), compareListeners) {
		l, pub, err := newListener(row, routes[row.Bind].rest.Service, routes[row.Bind].cert, g)
		if err == nil && seen[l.Name] {
			err = fmt.Errorf("it is there twice")
		}
		if err != nil {
			return nil, fmt.Errorf("render listener %q: %w", row.Bind.String(), err)
		}
		seen[l.Name] = true
		here := routes[row.Bind]
		if row.Statistics {
			if l.Pool != "" || l.Management || l.Cert != "" || row.Routed || len(here.others) > 0 {
				return nil, fmt.Errorf("render listener %s: the statistics page leads nowhere else, and has no TLS", row.Bind)
			}
			d.Stats, d.StatsPort = "Y", pub.Port
			d.Statistics = append(d.Statistics, l)
			continue
		}
		if l.Pool != "" {
			at, ok := index[l.Pool]
			if !ok {
				return nil, fmt.Errorf("render listener %s: there is no service %q", row.Bind, l.Pool)
			}
			p := &d.Pools[at]
			p.Trusts = p.Trusts || len(l.TrustedProxies) > 0
			d.Services = append(d.Services, Service{Publish: pub, Backends: p.Servers})
		}
		if row.Routed || len(here.others) > 0 {
			m, err := addRoutes(&l, here.others, index, g, known)
			if err != nil {
				return nil, fmt.Errorf("render listener %s: %w", row.Bind, err)
			}
			maps = append(maps, m)
			if len(l.TrustedProxies) > 0 { // a route may come to lead from here to any of them, and that is to be no reload
				for i := range d.Pools {
					d.Pools[i].Trusts = true
				}
			}
		}
		d.Management.Used = d.Management.Used || l.Management
		d.Process.TLS = d.Process.TLS || l.Cert != ""
		d.Listeners = append(d.Listeners, l)
	}
	if d.Management.Used && (g.ManagementSocket == "" || len(g.ManagementPaths) == 0) {
		return nil, fmt.Errorf("render listeners: management needs a socket and paths")
	}
	return maps, nil
}

// leads is where a listener leads.
type leads struct {
	rest   model.Route
	others []model.Route
	cert   string
}

// byListener sorts routes out.
func byListener(routes []model.Route) (map[model.Bind]leads, error) {
	count := map[model.Bind]int{}
	for i := range routes {
		count[routes[i].Bind]++
	}
	out := make(map[model.Bind]leads, len(count))
	for bind, n := range count {
		l := leads{others: make([]model.Route, 0, n)}
		out[bind] = l
	}
	var l leads
	for i := range routes {
		r := &routes[i]
		if i == 0 || r.Bind != routes[i-1].Bind {
			l = out[r.Bind]
		}
		if l.cert != "" && r.Cert != "" && l.cert != r.Cert {
			return nil, fmt.Errorf("render listener %s: it has two certificates", r.Bind)
		}
		l.cert = cmp.Or(l.cert, r.Cert)
		switch {
		case r.Match != model.Rest:
			l.others = append(l.others, *r)
		case l.rest.Service != "":
			return nil, fmt.Errorf("render listener %s: it has two routes for the rest", r.Bind)
		default:
			l.rest = *r
		}
		if i+1 == len(routes) || routes[i+1].Bind != r.Bind {
			out[r.Bind] = l
		}
	}
	return out, nil
}

func compareListeners(l, m model.Listener) int {
	return cmp.Or(l.Bind.IP.Compare(m.Bind.IP), cmp.Compare(l.Bind.Port, m.Bind.Port))
}

func newListener(row model.Listener, rest, cert string, g Globals) (Listener, Publish, error) {
	if row.Bind.Port == 0 || row.Bind.IP.Zone() != "" {
		return Listener{}, Publish{}, fmt.Errorf("its address cannot be rendered")
	}
	if row.MaxConn > 1<<31-1 {
		return Listener{}, Publish{}, fmt.Errorf("max conn %d: it must be below 2147483648", row.MaxConn)
	}
	l := Listener{Pool: rest, Management: row.Management, MaxConn: int(row.MaxConn)}
	pub := Publish{Port: int(row.Bind.Port)}
	port := strconv.Itoa(pub.Port)
	l.Name = "listen_" + port
	switch ip := row.Bind.IP; {
	case !ip.IsValid(), ip == netip.IPv6Unspecified():
		// Two sockets in place of one for both families: there, HAProxy would tell the nodes ::ffff:192.0.2.1 of a client.
		l.Binds = []string{"*:" + port}
		if !g.IPv4Only {
			l.Binds = append(l.Binds, "[::]:"+port+" v6only")
		}
	default:
		pub.IP = ip.Unmap().String()
		l.Name = "listen_" + pub.IP + "_" + port
		l.Binds = []string{netip.AddrPortFrom(ip.Unmap(), row.Bind.Port).String()}
	}
	if row.Name != "" {
		if !model.ValidName(row.Name) || row.Name == managementName {
			return Listener{}, Publish{}, fmt.Errorf("its name %q is none, or taken", row.Name[:min(len(row.Name), 60)])
		}
		l.Name = row.Name
	}
	var err error
	if l.Timeout, err = duration("timeout client", row.ClientTimeout); err != nil {
		return Listener{}, Publish{}, err
	}
	if row.TLS != (cert != "") {
		return Listener{}, Publish{}, fmt.Errorf("TLS needs a certificate, and a certificate needs TLS")
	}
	if row.TLS {
		if l.Cert = g.Certs[cert]; l.Cert == "" {
			return Listener{}, Publish{}, fmt.Errorf("certificate %q is not there", cert)
		}
		pub.Ssl = l.Cert
	}
	for _, p := range row.TrustedProxies {
		if !p.IsValid() {
			return Listener{}, Publish{}, fmt.Errorf("trusted proxy %s is no network", p)
		}
		l.TrustedProxies = append(l.TrustedProxies, p.Masked().String())
	}
	return l, pub, nil
}

// quotable refuses strings that no quoting makes one word of one line. Names and addresses were checked where they were read.
func (d *Data) quotable() error {
	words := []string{d.PidFile, d.SockFile, d.Process.User, d.Process.Group, d.Process.StateFile, d.Process.Peers, d.Management.Socket}
	words = append(words, d.Management.Paths...)
	for _, l := range d.Listeners {
		words = append(words, l.Cert, l.ExactMap, l.PrefixMap)
	}
	for _, p := range d.Management.Paths {
		if !strings.HasPrefix(p, "/") { // with another beginning it may be an option of the acl line
			return fmt.Errorf("render management path %q: it does not start with /", p)
		}
	}
	for _, w := range words {
		if w == "" {
			continue // it is left out of the text
		}
		if _, err := conf.Quote(w); err != nil {
			return fmt.Errorf("render %q: %w", w[:min(len(w), 60)], err)
		}
	}
	return nil
}

// duration writes d in HAProxy's format, in the largest whole unit.
func duration(name string, d time.Duration) (string, error) {
	ms := d.Milliseconds()
	switch {
	case ms <= 0 || d > maxTime:
		return "", fmt.Errorf("%s %s: it must be between 1ms and %s", name, d, maxTime.Truncate(time.Hour))
	case ms%3600000 == 0:
		return strconv.FormatInt(ms/3600000, 10) + "h", nil
	case ms%60000 == 0:
		return strconv.FormatInt(ms/60000, 10) + "m", nil
	case ms%1000 == 0:
		return strconv.FormatInt(ms/1000, 10) + "s", nil
	}
	return strconv.FormatInt(ms, 10) + "ms", nil
}
