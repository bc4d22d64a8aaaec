package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/fnlb/fnlb/model"
)

// option is one flag: its place in the help, its default, and how its text becomes a setting.
type option struct {
	name, value, def string // value: the placeholder in the help
	usage            string
	set              func(s *Settings, text string) error
}

func (o option) env() string { return "FNLB_" + strings.ToUpper(strings.ReplaceAll(o.name, "-", "_")) }

// options lists every flag in the order of the help.
var options = []option{
	{"listen", "ADDR", ":8081", "address for traffic of the nodes; empty: none", setBindOrNone(func(s *Settings) *bind { return &s.Listen })},
	{"mgmt-listen", "ADDR", ":8081", "address for /1/lb/…; the same as listen: on the traffic port", setBind(func(s *Settings) *bind { return &s.Management })},
	{"nodes", "LIST", "", "nodes to start with: HOST:PORT,HOST:PORT,…", setNodes},
	{"hc-interval", "TIME", "3", "time between two health checks of a node", setTime(func(s *Settings) *span { return &s.Check.Interval }, positive)},
	{"hc-timeout", "TIME", "5", "time a health check may take", setTime(func(s *Settings) *span { return &s.Check.Timeout }, positive)},
	{"hc-path", "PATH", "/version", "path that health checks ask for", setText(func(s *Settings) *string { return &s.Check.Asks[0].Path })},
	{"hc-unhealthy", "N", "2", "failed checks in a row that take a node out", setSmall(func(s *Settings) *uint8 { return &s.Check.Fall })},
	{"hc-healthy", "N", "1", "passed checks in a row that bring it back", setSmall(func(s *Settings) *uint8 { return &s.Check.Rise })},
	{"min-api-version", "X.Y.Z", "0.0.235", "least version in the check's JSON body; empty: any 2xx or 3xx passes", setText(func(s *Settings) *string { return &s.Check.Asks[0].MinVersion })},
	{"balance-factor", "PERCENT", "0", "load of a node against the average above which its paths spill over (101-65535); 0 off", setBalanceFactor},
	{"load-feedback", "WHEN", "on", "paths spread over more nodes while nodes say in XXX-FXLB-WAIT that calls wait: on or off", setOnOff(func(s *Settings) *bool { return &s.LoadFeedback })},
	{"node-maxconn", "N", "0", "requests that a node takes at a time, more wait; 0 no limit", setNodeMaxConn},
	{"timeout-server", "TIME", "24h", "silence of a node after which a request is given up", setTime(func(s *Settings) *span { return &s.Timeouts.Server }, positive)},
	{"timeout-client", "TIME", "24h", "silence of a client after which a request is given up", setTime(func(s *Settings) *span { return &s.ClientTimeout }, positive)},
	{"timeout-connect", "TIME", "10s", "time to connect to a node", setTime(func(s *Settings) *span { return &s.Timeouts.Connect }, positive)},
	{"timeout-queue", "TIME", "1m", "time a request waits for a node with node-maxconn requests", setTime(func(s *Settings) *span { return &s.Timeouts.Queue }, positive)},
	{"tls-cert", "FILE", "", "PEM file with certificate and key: the traffic port speaks TLS", setText(func(s *Settings) *string { return &s.TLSCert })},
	{"trusted-proxies", "CIDRS", "", "peers whose X-Forwarded-… headers are believed", setPrefixes(func(s *Settings) *prefixes { return &s.TrustedProxies })},
	{"access-log", "WHERE", "off", "HAProxy's HTTP log: off, stdout or a file", setAccessLog},
	{"first-screen", "WHEN", "on", "table of what is served and what is not, once after the start: on or off; none at a LOG_LEVEL above info", setOnOff(func(s *Settings) *bool { return &s.FirstScreen })},

	{"mgmt-allow", "CIDRS", "", "who may use /1/lb/…; default loopback and private ranges", setPrefixes(func(s *Settings) *prefixes { return &s.MgmtAllow })},
	{"mgmt-token-file", "FILE", "", "file with a bearer token that /1/lb/… then asks for", setText(func(s *Settings) *string { return &s.MgmtTokenFile })},
	{"mgmt-hosts", "NAMES", "", "names besides localhost that a Host header may have on loopback", setHosts},
	{"node-allow", "CIDRS", "", "where nodes may be; default everywhere", setPrefixes(func(s *Settings) *prefixes { return &s.NodePolicy.Allow })},
	{"node-deny", "CIDRS", "", "where nodes may not be; beats node-allow", setPrefixes(func(s *Settings) *prefixes { return &s.NodePolicy.Deny })},

	{"docker", "HOST", "auto", "Docker engine whose labels are followed: unix:///FILE, tcp://HOST:PORT or off; auto: DOCKER_HOST, or the usual socket if there", setDocker},
	{"publish-allow", "PORTS", "", "ports that labels may publish, as 80,443,8000-8999; default all but the balancer's own", setPorts},
	{"cert-dir", "DIRS", "", "folders with the certificates that labels may name; may repeat; default /certs, /etc/ssl, /etc/haproxy, /usr/local/etc/haproxy, /run/secrets", setDirs},

	{"pools-listen", "ADDR", "", "address of the gRPC service that takes pools of backends; default none", setBindOrNone(func(s *Settings) *bind { return &s.Pools })},
	{"pools-http-listen", "ADDR", "", "address where the patterns of pools are served; may be that of listen; default :8080 with pools-listen", setBindOrNone(func(s *Settings) *bind { return &s.PoolsHTTP })},
	{"pools-cert", "FILE", "", "certificate of the gRPC service, PEM, which then speaks TLS", setText(func(s *Settings) *string { return &s.PoolsCert })},
	{"pools-key", "FILE", "", "key of that certificate, PEM; default the same file", setText(func(s *Settings) *string { return &s.PoolsKey })},
	{"pools-client-ca", "FILE", "", "authorities, PEM, one of which must have signed a client's certificate", setText(func(s *Settings) *string { return &s.PoolsClientCA })},

	{"run-dir", "DIR", "", "sockets, pid file, candidates; two balancers on a host use two", setRunDir},
	{"haproxy", "FILE", "haproxy", "the HAProxy to run", setNonEmpty(func(s *Settings) *string { return &s.HAProxy })},
	{"haproxy-config", "FILE", "", "the configuration file that is written", setText(func(s *Settings) *string { return &s.HAProxyConfig })},
	{"haproxy-user", "NAME", "", "user that HAProxy becomes when started by root; default haproxy", setUser},
	{"template", "FILE", "", "a template in place of the built-in one; default /haproxy.tmpl if there", setText(func(s *Settings) *string { return &s.Template })},
	{"wait", "MIN:MAX", "10ms:250ms", "quiet time before a change is applied, and its upper bound", setWait},
	{"shutdown-timeout", "TIME", "0", "time to finish running requests on stop; 0 as long as they take", setTime(func(s *Settings) *span { return &s.ShutdownTimeout }, zeroOrMore)},
	{"stop-delay", "TIME", "0", "time between turning unready and closing the ports on stop", setTime(func(s *Settings) *span { return &s.StopDelay }, zeroOrMore)},
	{"drain-timeout", "TIME", "0", "time to finish running requests of a node that was removed; 0 as hard-stop-after", setTime(func(s *Settings) *span { return &s.DrainTimeout }, zeroOrMore)},
	{"hard-stop-after", "TIME", "30m", "time after which connections of a replaced configuration are cut, and those of a stop", setTime(func(s *Settings) *span { return &s.HardStopAfter }, positive)},

	{"zipkin", "URL", "", "accepted for compatibility; no traces are sent", setZipkin},
	{"db", "URL", "sqlite3://:memory:", "where nodes are kept: sqlite3://FILE, postgres://… or mysql://…; several balancers may share a database; k8s is --driver kubernetes", setDB},
	{"driver", "NAMES", "", "sources, with commas between: kubernetes, nodes (or rest), docker; default nodes, and docker where --docker finds an engine", setDriver},
	{"label-selector", "SELECTOR", "", "pods that are nodes, as app=fn,role=fn-service; default all of the namespace", setText(func(s *Settings) *string { return &s.Kubernetes.Selector })},
	{"namespace", "NAME", "", "namespace of the pods; default our own, or that of the kubeconfig's context", setNamespace},
	{"target-port", "PORT", "8080", "port of the pods: a number, or the name of a container's port; of --service the name of its port, default its only one", setTargetPort},
	{"service", "NAME", "", "service whose endpoints are nodes, in place of pods that label-selector finds", setKubernetesService},
	{"pod-ready", "BOOL", "true", "only pods whose Ready condition is true are nodes; false: running is enough", setPodReady},
	{"ip-family", "FAMILY", "any", "which address of a pod that has several: ipv4, ipv6, or any, the first", setFamily},
	{"kubeconfig", "FILE", "", "file that names the cluster; default the pod's service account, else the file of kubectl", setText(func(s *Settings) *string { return &s.Kubernetes.Kubeconfig })},
	{"kube-context", "NAME", "", "context of the kubeconfig; default the current one", setText(func(s *Settings) *string { return &s.Kubernetes.Context })},
	{"haproxy-master", "SOCKET", "", "master socket of an HAProxy that somebody else runs: PATH or unix@PATH", setMaster},
}

// ErrHelp is returned by Read when --help was asked for.
var ErrHelp = flag.ErrHelp

// Input is what arguments and environment say, read once and not judged yet. That must come before anything else: whom a process of root
// becomes depends on it, and the defaults of some flags depend on who we then are.
type Input struct {
	texts []text // one for each of options
}

// text is what one flag is given, and where it stands.
type text struct {
	value, from string
	given       bool
}

// Read reads the arguments behind the command's name, and the environment; more adds the flags that only this command has. It returns the
// arguments that are no flags as well; both may be mixed. Every error but ErrHelp is a *UsageError.
func Read(args []string, env func(string) (string, bool), more func(*flag.FlagSet)) (in Input, rest []string, err error) {
	fs := flag.NewFlagSet("fnlb", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	more(fs)
	in = Input{texts: make([]text, len(options))}
	for i, o := range options {
		in.texts[i] = text{value: o.def, from: "--" + o.name}
		fs.Var(&value{text: &in.texts[i], lists: o.name == "cert-dir"}, o.name, o.usage)
	}
	if rest, err = parseMixed(fs, args); err != nil {
		return Input{}, nil, err
	}
	for i, o := range options {
		if t := &in.texts[i]; !t.given {
			if v, ok := env(o.env()); ok {
				*t = text{value: v, from: o.env(), given: true}
			}
		}
	}
	return in, rest, nil
}

// of is what a flag is given, its default where it is not.
func (in Input) of(name string) text {
	return in.texts[slices.IndexFunc(options, func(o option) bool { return o.name == name })]
}

// EngineSocket is the socket of the Docker engine that --docker, its twin, DOCKER_HOST or nothing at all means; ok is false where that is
// none, or no socket.
func (in Input) EngineSocket(env func(string) (string, bool)) (path string, ok bool) {
	host := in.of("docker").value
	if host == "auto" {
		if others := driversOf(in.of("driver").value, in.of("db").value); len(others) > 0 && !slices.Contains(others, "docker") {
			return "", false
		}
		if host, _ = env("DOCKER_HOST"); host == "" {
			host = "unix://" + dockerSocket
		}
	}
	return strings.CutPrefix(host, "unix://")
}

// Settings judges what was read. Every error is a *UsageError.
func (in Input) Settings(host Host) (Settings, error) {
	s := Settings{Check: model.Check{Asks: make([]model.Ask, 1)}}
	for i, o := range options {
		t := in.texts[i]
		if err := o.set(&s, t.value); err != nil {
			if o.name == "db" { // a password may stand in it
				t.value = "(not shown)"
			}
			return Settings{}, flagError(t.from, t.value, err)
		}
	}
	if err := kubernetes(&s, in.of("target-port").given); err != nil {
		return Settings{}, err
	}
	s.Unasked = !in.of("listen").given && len(s.Nodes) == 0 && !s.Kubernetes.On
	if err := poolPorts(&s, in.of("mgmt-listen").given); err != nil {
		return Settings{}, err
	}
	if err := complete(&s, host); err != nil {
		return Settings{}, err
	}
	return s, nil
}

// Parse is Read and Settings in one.
func Parse(args []string, host Host, more func(*flag.FlagSet)) (Settings, []string, error) {
	in, rest, err := Read(args, host.Env, more)
	if err != nil {
		return Settings{}, nil, err
	}
	s, err := in.Settings(host)
	if err != nil {
		return Settings{}, nil, err
	}
	return s, rest, nil
}

// value is one flag for package flag. Of a list each use of the flag adds to what an earlier one said.
type value struct {
	text  *text
	lists bool
}

func (v *value) String() string {
	if v.text == nil { // package flag makes a zero one
		return ""
	}
	return v.text.value
}

func (v *value) Set(value string) error {
	if v.lists && v.text.given {
		value = v.text.value + "," + value
	}
	v.text.value, v.text.given = value, true
	return nil
}

// parseMixed goes on behind an argument that is no flag, where package flag stops.
func parseMixed(fs *flag.FlagSet, args []string) (rest []string, err error) {
	for len(args) > 0 {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, ErrHelp
			}
			reason := strings.Replace(err.Error(), "flag provided but not defined: -", "there is no flag --", 1)
			return nil, &UsageError{Reason: reason, Hint: "fnlb --help lists the flags"}
		}
		if args = fs.Args(); len(args) > 0 {
			rest, args = append(rest, args[0]), args[1:]
		}
	}
	return rest, nil
}

func flagError(from, text string, err error) error {
	var usage *UsageError
	hint := "fnlb --help describes the flag"
	if errors.As(err, &usage) {
		err, hint = errors.New(usage.Reason), usage.Hint
	}
	if len(text) > 80 {
		text = text[:80] + "…"
	}
	return &UsageError{Reason: fmt.Sprintf("%s %q: %v", from, text, err), Hint: hint}
}

// Flag is one flag as people are told about it.
type Flag struct {
	Name, Value string // Value is the placeholder
	Env         string // its twin in the environment
	Usage       string // with the default
}

// Flags lists every flag in the order of the help.
func Flags() []Flag {
	flags := make([]Flag, len(options))
	for i, o := range options {
		flags[i] = Flag{o.name, o.value, o.env(), o.usage}
		if o.def != "" && o.def != "0" {
			flags[i].Usage += " (default " + o.def + ")"
		}
	}
	return flags
}

// Help writes the flags as a page of 80 columns.
func Help(w io.Writer) error {
	var b strings.Builder
	for _, f := range Flags() {
		lines := wrap(f.Usage, 50)
		fmt.Fprintf(&b, "  %-26s  %s\n", "--"+f.Name+" "+f.Value, lines[0])
		for _, l := range lines[1:] {
			fmt.Fprintf(&b, "  %-26s  %s\n", "", l)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}

// Names lists the flags, sorted.
func Names() []string {
	var names []string
	for _, o := range options {
		names = append(names, o.name)
	}
	slices.Sort(names)
	return names
}
