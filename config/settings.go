package config

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/fnlb/fnlb/model"
)

// PoolService is the name of the service whose servers the nodes are, HAProxy's backend of that name.
const PoolService = "nodes"

// Settings is everything the command line and the environment say, parsed to types.
type Settings struct {
	Listen     model.Bind // the traffic port
	Management model.Bind // where /1/lb/ answers; equal to Listen: on the traffic port
	Nodes      []model.Node
	NodePolicy model.Policy

	Check         model.Check
	Timeouts      model.Timeouts
	ClientTimeout time.Duration
	NodeMaxConn   uint32
	BalanceFactor uint16
	TLSCert       string // file; empty: plain HTTP

	TrustedProxies []netip.Prefix
	MgmtAllow      []netip.Prefix // nil: the default ranges
	MgmtTokenFile  string
	MgmtHosts      []string

	RunDir        string
	HAProxy       string // path, or a name to look up in PATH
	HAProxyConfig string
	HAProxyMaster string // master socket of a HAProxy that somebody else runs; empty: it is a child of ours
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

	LogLevel slog.Level
	Warnings []string // what was accepted and has no effect
}

// SharedPort reports whether management is answered on the traffic port.
func (s *Settings) SharedPort() bool { return s.Listen == s.Management }

// Pool is the one offer that the flags make: listener, route and service of the node pool. Sources of nodes send servers
// for it.
func (s *Settings) Pool(cert string) model.Offer {
	return model.Offer{
		Owner: model.Owner{Source: "flags", Name: "--listen"},
		Rows: model.Rows{
			Listeners: []model.Listener{{
				Bind:           s.Listen,
				TLS:            s.TLSCert != "",
				Management:     s.SharedPort(),
				ClientTimeout:  s.ClientTimeout,
				TrustedProxies: s.TrustedProxies,
			}},
			Routes: []model.Route{{Bind: s.Listen, Service: PoolService, Cert: cert}},
			Services: []model.Service{{
				Name:          PoolService,
				BalanceFactor: s.BalanceFactor,
				MaxConn:       s.NodeMaxConn,
				Check:         s.Check,
				Timeouts:      s.Timeouts,
			}},
		},
	}
}

// Host is what Parse must know of the machine.
type Host struct {
	Env      func(string) (string, bool)
	UID      int
	TempDir  string
	Writable func(dir string) bool // a folder that exists and can be written
	Exists   func(file string) bool
	Template string       // the default of --template; empty: /haproxy.tmpl
	Local    []netip.Addr // addresses of this host's interfaces
}

// UsageError is wrong use of the command line: one line, and a hint what to do.
type UsageError struct{ Reason, Hint string }

func (e *UsageError) Error() string {
	if e.Hint == "" {
		return e.Reason
	}
	return e.Reason + "; " + e.Hint
}
