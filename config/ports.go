package config

import (
	"slices"

	"github.com/fnlb/fnlb/model"
)

// defaultPoolsHTTP is where patterns are served when nobody says where.
var defaultPoolsHTTP = model.Bind{Port: 8080}

// poolPorts completes the ports that pools need, and those that give way to them.
func poolPorts(s *Settings, managementGiven bool) error {
	if s.Pools.Port == 0 {
		for _, f := range []struct {
			name string
			set  bool
		}{{"--pools-http-listen", s.PoolsHTTP.Port != 0}, {"--pools-cert", s.PoolsCert != ""}, {"--pools-key", s.PoolsKey != ""}, {"--pools-client-ca", s.PoolsClientCA != ""}} {
			if f.set {
				return usage("name the port of the gRPC service with --pools-listen", "%s needs --pools-listen", f.name)
			}
		}
	}
	switch {
	case s.PoolsKey != "" && s.PoolsCert == "":
		return usage("name its certificate with --pools-cert", "--pools-key needs --pools-cert")
	case s.PoolsClientCA != "" && s.PoolsCert == "":
		return usage("name a certificate of our own with --pools-cert", "--pools-client-ca needs --pools-cert")
	}
	if s.Pools.Port != 0 && s.PoolsHTTP.Port == 0 {
		s.PoolsHTTP = defaultPoolsHTTP
	}
	if s.Unasked && s.Listen.Port != 0 && (s.Listen.Overlaps(s.Pools) || s.Listen.Overlaps(s.PoolsHTTP) && s.Listen != s.PoolsHTTP) {
		s.Listen = model.Bind{} // a default gives way
		s.Warnings = append(s.Warnings, "the default of --listen gives way to --pools-listen and --pools-http-listen; name another port with --listen for nodes")
	}
	if managementGiven {
		return nil
	}
	switch m := s.Management; {
	case s.Listen.Port == 0:
		s.Management = s.PoolsHTTP // none without pools: the socket in the run directory always answers
	case m != s.Listen && (m.Overlaps(s.Pools) || m.Overlaps(s.PoolsHTTP) && m != s.PoolsHTTP):
		s.Management = s.Listen // its default gives way as well
	}
	return nil
}

// flagged is an address with the flag that names it.
type flagged struct {
	flag string
	bind model.Bind
}

// ports are those that are listened on.
func (s *Settings) ports() []flagged {
	all := []flagged{{"--listen", s.Listen}, {"--mgmt-listen", s.Management}, {"--pools-http-listen", s.PoolsHTTP}, {"--pools-listen", s.Pools}}
	return slices.DeleteFunc(all, func(f flagged) bool { return f.bind.Port == 0 })
}

// ownPorts are the addresses of ports, each once.
func (s *Settings) ownPorts() []model.Bind {
	var own []model.Bind
	for _, f := range s.ports() {
		if !slices.Contains(own, f.bind) {
			own = append(own, f.bind)
		}
	}
	return own
}

// distinct says which addresses share a port and may not: traffic and management may be one, when they are the same.
func distinct(s *Settings) error {
	all := s.ports()
	for i, a := range all {
		for _, b := range all[i+1:] {
			switch {
			case !a.bind.Overlaps(b.bind):
			case b.flag == "--pools-listen": // what speaks gRPC shares with nobody
				return usage("give one of them another port", "%s %s and %s %s share a port", a.flag, a.bind, b.flag, b.bind)
			case a.bind != b.bind:
				return usage("give both flags the same address, or another port to one", "%s %s and %s %s share a port and are not the same", a.flag, a.bind, b.flag, b.bind)
			}
		}
	}
	return nil
}
