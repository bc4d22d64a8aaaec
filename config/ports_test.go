package config

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestPoolPorts: which ports are opened, where management answers, and what gives way.
func TestPoolPorts(t *testing.T) {
	const gives = "the default of --listen gives way"
	for _, test := range []struct {
		args, env                 string
		listen, mgmt, http, pools string // empty: none
		shared                    bool   // management is on a traffic port
		warns                     string // the beginning; empty: nothing
	}{
		{args: "", listen: ":8081", mgmt: ":8081", shared: true},
		{args: "--listen= --mgmt-listen :9000", mgmt: ":9000"},
		{args: "--listen="}, // the socket in the run directory is left
		{args: "--listen= --mgmt-listen=:8081", mgmt: ":8081"},

		// The documented ones.
		{args: "--listen= --pools-http-listen :8080 --pools-listen :8081", mgmt: ":8080", http: ":8080", pools: ":8081", shared: true},
		{args: "--listen :8080 --pools-http-listen :8080 --pools-listen :8090", listen: ":8080", mgmt: ":8081", http: ":8080", pools: ":8090"},
		{args: "--listen :8080 --pools-http-listen :8080 --pools-listen :8090 --mgmt-listen :8080", listen: ":8080", mgmt: ":8080", http: ":8080", pools: ":8090", shared: true},

		// Defaults.
		{args: "--pools-listen :8090", listen: ":8081", mgmt: ":8081", http: ":8080", pools: ":8090", shared: true},
		{args: "--pools-listen :8090 --pools-http-listen=", listen: ":8081", mgmt: ":8081", http: ":8080", pools: ":8090", shared: true},
		{args: "--pools-listen=", listen: ":8081", mgmt: ":8081", shared: true},
		{args: "--listen= --pools-listen :8090", mgmt: ":8080", http: ":8080", pools: ":8090", shared: true},
		{env: "FNLB_POOLS_LISTEN=:8090", listen: ":8081", mgmt: ":8081", http: ":8080", pools: ":8090", shared: true},

		// A port that nobody asked for gives way, and management goes with it.
		{args: "--pools-listen :8081", mgmt: ":8080", http: ":8080", pools: ":8081", shared: true, warns: gives},
		{args: "--pools-listen 127.0.0.1:8081", mgmt: ":8080", http: ":8080", pools: "127.0.0.1:8081", shared: true, warns: gives},
		{args: "--pools-listen :8090 --pools-http-listen 127.0.0.1:8081", mgmt: "127.0.0.1:8081", http: "127.0.0.1:8081", pools: ":8090", shared: true, warns: gives},
		{args: "--pools-listen :8090 --pools-http-listen :8081", listen: ":8081", mgmt: ":8081", http: ":8081", pools: ":8090", shared: true}, // the same is one port

		{args: "--listen :80 --pools-listen :8081", listen: ":80", mgmt: ":80", http: ":8080", pools: ":8081", shared: true},
		{args: "--listen :80 --pools-listen :8090 --pools-http-listen 127.0.0.1:8081", listen: ":80", mgmt: ":80", http: "127.0.0.1:8081", pools: ":8090", shared: true},

		// Who names the place of management has it there.
		{args: "--pools-listen :8081 --mgmt-listen :9000", mgmt: ":9000", http: ":8080", pools: ":8081", warns: gives},
		{args: "--listen= --pools-listen :8090 --mgmt-listen :9000", mgmt: ":9000", http: ":8080", pools: ":8090"},
		{args: "--listen= --pools-listen :8090 --mgmt-listen :8081", mgmt: ":8081", http: ":8080", pools: ":8090"},
		{args: "--listen= --pools-listen :8090", env: "FNLB_MGMT_LISTEN=:9000", mgmt: ":9000", http: ":8080", pools: ":8090"},
		{args: "--listen :80 --pools-listen :8090 --mgmt-listen :8080", listen: ":80", mgmt: ":8080", http: ":8080", pools: ":8090", shared: true},

		// One port on two addresses is two.
		{args: "--listen 127.0.0.1:80 --pools-http-listen 127.0.0.2:80 --pools-listen 127.0.0.3:80 --mgmt-listen 127.0.0.4:80", listen: "127.0.0.1:80", mgmt: "127.0.0.4:80", http: "127.0.0.2:80", pools: "127.0.0.3:80"},
	} {
		what := test.args + test.env
		h := host()
		if test.env != "" {
			h = host(test.env)
		}
		s, _, err := Parse(strings.Fields(test.args), h, none)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		var own []string
		for _, p := range []struct {
			flag, want string
			got        bind
		}{{"listen", test.listen, s.Listen}, {"mgmt", test.mgmt, s.Management}, {"pools-http", test.http, s.PoolsHTTP}, {"pools", test.pools, s.Pools}} {
			got := ""
			if p.got.Port != 0 {
				got = strings.TrimPrefix(p.got.String(), "*")
			}
			if got != p.want {
				t.Errorf("%s: %s is %q, want %q", what, p.flag, got, p.want)
			}
			if p.want != "" && !slices.Contains(own, p.want) {
				own = append(own, p.want)
			}
		}
		if s.SharedPort() != test.shared {
			t.Errorf("%s: management on a traffic port: %t", what, s.SharedPort())
		}
		if len(s.NodePolicy.Own) != len(own) {
			t.Errorf("%s: nodes may not be at %v, want %v", what, s.NodePolicy.Own, own)
		}
		if warned := strings.Join(s.Warnings, "\n"); (test.warns == "") != (warned == "") || !strings.HasPrefix(warned, test.warns) || len(s.Warnings) > 1 {
			t.Errorf("%s: warned %q, want %q", what, warned, test.warns)
		}
	}
}

// TestPoolPortsRefused: a port that two want names both flags, and what needs another flag names that.
func TestPoolPortsRefused(t *testing.T) {
	for _, test := range []struct {
		args string
		want []string
	}{
		{"--pools-http-listen :8080", []string{"--pools-http-listen needs --pools-listen"}},
		{"--pools-cert c.pem", []string{"--pools-cert needs --pools-listen"}},
		{"--pools-key k.pem", []string{"--pools-key needs --pools-listen"}},
		{"--pools-client-ca ca.pem", []string{"--pools-client-ca needs --pools-listen"}},
		{"--pools-listen :1 --pools-key k.pem", []string{"--pools-key needs --pools-cert"}},
		{"--pools-listen :1 --pools-client-ca ca.pem", []string{"--pools-client-ca needs --pools-cert"}},
		{"--pools-listen :8090 --pools-http-listen :8090", []string{"--pools-http-listen", "--pools-listen", ":8090", "another port"}},
		{"--pools-listen :8080", []string{"--pools-http-listen", "--pools-listen", ":8080"}}, // that of patterns is the default
		{"--listen :8081 --pools-listen :8081", []string{"--listen", "--pools-listen", ":8081"}},
		{"--listen :80 --pools-listen 127.0.0.1:80", []string{"--listen", "--pools-listen", "127.0.0.1:80"}},
		{"--nodes 10.0.0.9:1 --pools-listen :8081", []string{"--listen", "--pools-listen", ":8081"}}, // with nodes it is asked for
		{"--listen :80 --mgmt-listen :90 --pools-listen :90", []string{"--mgmt-listen", "--pools-listen", ":90"}},
		{"--pools-listen :8090 --mgmt-listen :8090", []string{"--mgmt-listen", "--pools-listen", ":8090"}},
		{"--listen :80 --pools-listen :90 --pools-http-listen 127.0.0.1:80", []string{"--listen", "--pools-http-listen", "not the same"}},
		{"--listen :80 --pools-listen :90 --pools-http-listen :70 --mgmt-listen 127.0.0.1:70", []string{"--mgmt-listen", "--pools-http-listen", "not the same"}},
		{"--pools-listen 8090", []string{"--pools-listen", "port is missing"}},
		{"--pools-listen :0", []string{"--pools-listen", "between 1 and 65535"}},
		{"--pools-listen host:80", []string{"--pools-listen", "no IP address"}},
		{"--pools-listen :1 --pools-http-listen :70000", []string{"--pools-http-listen", "between 1 and 65535"}},
		{"--pools-listen :1 --pools-cert a\nb", []string{"--pools-cert", "control character"}},
		{"--pools-listen :8090 --nodes 127.0.0.1:8090", []string{"own address"}},
		{"--pools-listen :8090 --nodes 127.0.0.1:8080", []string{"own address"}},
	} {
		_, _, err := Parse(strings.Split(test.args, " "), host(), none)
		var usage *UsageError
		if !errors.As(err, &usage) || strings.Contains(err.Error(), "\n") || usage.Hint == "" {
			t.Errorf("%s: got %v, want one line with a hint", test.args, err)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q in it", test.args, err, want)
			}
		}
	}
}

// TestPoolOffers: the node pool's listener and that of patterns are two, unless they are one.
func TestPoolOffers(t *testing.T) {
	for args, want := range map[string]string{
		"": ":8081 mgmt",
		"--pools-listen :90 --pools-http-listen :80":                                  ":8081 mgmt,:80 routed",
		"--listen :80 --pools-listen :90 --pools-http-listen :80 --mgmt-listen :80":   ":80 mgmt routed",
		"--listen= --pools-listen :90 --pools-http-listen :80":                        ":80 mgmt routed",
		"--listen= --pools-listen :90 --pools-http-listen :80 --mgmt-listen :9000":    ":80 routed",
		"--listen= --mgmt-listen :9000":                                               "",
		"--listen :80 --pools-listen :90 --pools-http-listen :70 --mgmt-listen :70":   ":80,:70 mgmt routed",
		"--listen :80 --pools-listen :90 --pools-http-listen :70 --mgmt-listen :8081": ":80,:70 routed",
	} {
		s, _, err := Parse(strings.Fields(args), host(), none)
		if err != nil {
			t.Errorf("%s: %v", args, err)
			continue
		}
		var got []string
		for _, o := range s.Offers("") {
			for _, l := range o.Listeners {
				text := strings.TrimPrefix(l.Bind.String(), "*")
				if l.Management {
					text += " mgmt"
				}
				if l.Routed {
					text += " routed"
				}
				got = append(got, text)
			}
		}
		if text := strings.Join(got, ","); text != want {
			t.Errorf("%s: %q, want %q", args, text, want)
		}
	}
}
