package config

import (
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
)

// PoolService is the name of the service whose servers the nodes are, HAProxy's backend of that name.
const PoolService = "nodes"

// Settings is everything the command line and the environment say, parsed to types.
type Settings struct {
	Listen     model.Bind // the traffic port of the nodes; no port: none
	Management model.Bind // where /1/lb/ answers; equal to a traffic port: there; no port: on the socket in the run directory alone
	Nodes      []model.Node
	NodePolicy model.Policy
	DB         store.Address // where nodes are kept

	Check         model.Check
	Timeouts      model.Timeouts
	ClientTimeout time.Duration
	NodeMaxConn   uint32
	BalanceFactor uint16
	LoadFeedback  bool
	TLSCert       string // file; empty: plain HTTP

	TrustedProxies []netip.Prefix
	MgmtAllow      []netip.Prefix // nil: the default ranges
	MgmtTokenFile  string
	MgmtHosts      []string

	Kubernetes Kubernetes
	NoNodes    string // the driver because of which there are no nodes of flags and calls; empty: there are

	Docker       bool          // containers' labels are followed
	DockerHost   string        // engine; empty: what the environment says
	DockerResync time.Duration // time between two looks at all containers, whatever the events told
	PublishAllow []PortRange   // ports that labels may publish; empty: all but our own
	CertDirs     []string      // absolute folders below which labels may name certificates
	StatsPort    uint16        // HAProxy's statistics page on all addresses; 0: off
	Unasked      bool          // nobody asked for the traffic port: it gives way to labels

	Pools         model.Bind // gRPC service that takes pools; no port: none
	PoolsHTTP     model.Bind // where their patterns are served; may be Listen
	PoolsCert     string     // file; empty: plain text
	PoolsKey      string     // file; empty: PoolsCert
	PoolsClientCA string     // file; empty: clients need no certificate

	RunDir        string
	HAProxy       string // path, or a name to look up in PATH
	HAProxyConfig string
	HAProxyMaster string // master socket of a HAProxy that somebody else runs; empty: it is a child of ours
	PidFile       string // that users' templates have as .PidFile; empty: one in the run directory
	SockFile      string // likewise .SockFile
	HAProxyUser   string // whom the worker becomes when we are root; empty: haproxy where it exists
	Template      string // file; empty: the built-in one
	Appears       string // file that becomes the template once it is there; empty: --template names one
	AccessLog     string // "off", "stdout" or a file
	WaitMin       time.Duration
	WaitMax       time.Duration

	ShutdownTimeout time.Duration // 0: until the last request has ended
	StopDelay       time.Duration
	HardStopAfter   time.Duration
	DrainTimeout    time.Duration // of a node that was removed; 0: HardStopAfter

	FirstScreen bool // what is served is shown once after the start
	LogLevel    slog.Level
	Warnings    []string // what was accepted and has no effect

	drivers                    []string // that --driver names
	engineAsked, engineUnasked bool     // whether it names docker, where it names anything
}

// SharedPort reports whether management is answered on a traffic port.
func (s *Settings) SharedPort() bool {
	return s.Management.Port != 0 && (s.Management == s.Listen || s.Management == s.PoolsHTTP)
}

// Pool is the offer that the flags make of the node pool: listener, route and service. Sources of nodes send servers for it.
func (s *Settings) Pool(cert string) model.Offer {
	o := model.Offer{
		Owner: model.Owner{Source: "flags", Name: "--listen"}, Yields: s.Unasked,
		Rows: model.Rows{Services: []model.Service{{
			Name:          PoolService,
			BalanceFactor: s.BalanceFactor,
			Feedback:      s.LoadFeedback,
			MaxConn:       s.NodeMaxConn,
			Check:         s.Check,
			Timeouts:      s.Timeouts,
		}}},
	}
	if s.Listen.Port != 0 {
		o.Listeners = []model.Listener{s.listener(s.Listen, s.TLSCert != "")}
		o.Routes = []model.Route{{Bind: s.Listen, Service: PoolService, Cert: cert}}
	}
	return o
}

func (s *Settings) listener(at model.Bind, tls bool) model.Listener {
	return model.Listener{
		Bind:           at,
		TLS:            tls,
		Management:     s.Management == at,
		Routed:         s.PoolsHTTP == at,
		ClientTimeout:  s.ClientTimeout,
		TrustedProxies: s.TrustedProxies,
	}
}

// Patterns is the offer of the listener that serves the patterns of pools, where that is one of its own.
func (s *Settings) Patterns() (o model.Offer, ok bool) {
	return model.Offer{
		Owner: model.Owner{Source: "flags", Name: "--pools-http-listen"},
		Rows:  model.Rows{Listeners: []model.Listener{s.listener(s.PoolsHTTP, false)}},
	}, s.PoolsHTTP.Port != 0 && s.PoolsHTTP != s.Listen
}

// PortRange is First to Last, both included.
type PortRange struct{ First, Last uint16 }

// MayPublish reports whether labels may ask for that port of the balancer.
func (s *Settings) MayPublish(port uint16) bool {
	if !s.SharedPort() && port == s.Management.Port || port == s.Pools.Port || port == s.PoolsHTTP.Port && s.PoolsHTTP != s.Listen {
		return false
	}
	if len(s.PublishAllow) == 0 {
		return port != s.Listen.Port || s.Unasked
	}
	return slices.ContainsFunc(s.PublishAllow, func(r PortRange) bool { return r.First <= port && port <= r.Last })
}

// Statistics is the offer of HAProxy's statistics page; ok is false where it is off.
func (s *Settings) Statistics() (o model.Offer, ok bool) {
	return model.Offer{
		Owner: model.Owner{Source: "flags", Name: "LB_STATS_PORT"},
		Rows: model.Rows{Listeners: []model.Listener{{
			Bind: model.Bind{Port: s.StatsPort}, Name: "stats", Statistics: true, ClientTimeout: time.Minute,
		}}},
	}, s.StatsPort != 0
}

// Offers are those that the flags make.
func (s *Settings) Offers(cert string) []model.Offer {
	offers := []model.Offer{s.Pool(cert)}
	if o, ok := s.Patterns(); ok {
		offers = append(offers, o)
	}
	if o, ok := s.Statistics(); ok {
		offers = append(offers, o)
	}
	return offers
}

// Host is what Parse must know of the machine.
type Host struct {
	Env      func(string) (string, bool)
	UID      int
	TempDir  string
	Writable func(dir string) bool // a folder that exists and can be written
	Exists   func(file string) bool
	Socket   func(file string) bool // a Unix socket is there
	Template string                 // the default of --template; empty: /haproxy.tmpl
	Local    []netip.Addr           // addresses of this host's interfaces
}

// UsageError is wrong use of the command line: one line, and a hint what to do.
type UsageError struct{ Reason, Hint string }

func (e *UsageError) Error() string {
	if e.Hint == "" {
		return e.Reason
	}
	return e.Reason + "; " + e.Hint
}
