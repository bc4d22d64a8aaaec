package config

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
)

type (
	bind     = model.Bind
	span     = time.Duration
	prefixes = []netip.Prefix
	setter   = func(*Settings, string) error
)

func usage(hint, format string, args ...any) error {
	return &UsageError{Reason: fmt.Sprintf(format, args...), Hint: hint}
}

func setText(at func(*Settings) *string) setter {
	return func(s *Settings, text string) error {
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return usage("remove it", "a control character stands in it")
		}
		*at(s) = text
		return nil
	}
}

func setNonEmpty(at func(*Settings) *string) setter {
	return func(s *Settings, text string) error {
		if text == "" {
			return usage("leave the flag out for its default", "it is empty")
		}
		return setText(at)(s, text)
	}
}

// setBind reads HOST:PORT of a listener. No host, *, 0.0.0.0 and [::] all mean every address of both families.
func setBind(at func(*Settings) *bind) setter {
	return func(s *Settings, text string) error {
		const hint = "write ADDRESS:PORT, or :PORT for all addresses"
		colon := strings.LastIndexByte(text, ':')
		if colon < 0 {
			return usage(hint, "the port is missing")
		}
		host, portText := text[:colon], text[colon+1:]
		port, err := strconv.ParseUint(portText, 10, 16)
		if err != nil || port == 0 {
			return usage(hint, "the port must be a number between 1 and 65535")
		}
		b := bind{Port: uint16(port)}
		switch host {
		case "", "*":
		case "localhost":
			b.IP = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		default:
			ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
			switch {
			case err != nil || strings.HasPrefix(host, "[") != ip.Is6():
				return usage(hint, "the host is no IP address")
			case ip.Zone() != "":
				return usage(hint, "an address with a zone cannot be used")
			case ip.IsMulticast():
				return usage(hint, "a multicast address cannot be listened on")
			}
			if ip = ip.Unmap(); !ip.IsUnspecified() {
				b.IP = ip
			}
		}
		*at(s) = b
		return nil
	}
}

// setBindOrNone is setBind that takes an empty text for no listener.
func setBindOrNone(at func(*Settings) *bind) setter {
	return func(s *Settings, text string) error {
		if text == "" {
			*at(s) = bind{}
			return nil
		}
		return setBind(at)(s, text)
	}
}

// setNodes reads the list of nodes. Names are checked against the policy when they are resolved, addresses in complete.
func setNodes(s *Settings, text string) error {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(text, ",") {
		n, err := model.ParseNode(strings.TrimSpace(part))
		if err != nil {
			return usage("the list is HOST:PORT,HOST:PORT,…", "%v", err)
		}
		if !seen[n.String()] {
			seen[n.String()] = true
			s.Nodes = append(s.Nodes, n)
		}
	}
	return nil
}

// setDB reads the database's URL. The error must not quote it: a password may stand in it.
func setDB(s *Settings, text string) (err error) {
	if text == dbKubernetes {
		s.Kubernetes.On, text = true, "sqlite3://:memory:"
	}
	s.DB, err = store.Parse(text)
	return err
}

func positive(d time.Duration) error {
	if d <= 0 {
		return usage("", "it must be more than 0")
	}
	return zeroOrMore(d)
}

// zeroOrMore keeps within what HAProxy takes: its timers hold 2^31 milliseconds, 24.8 days.
func zeroOrMore(d time.Duration) error {
	if d < 0 || d > 24*24*time.Hour {
		return usage("", "it must lie between 0 and 24 days")
	}
	if d > 0 && d < time.Millisecond {
		return usage("", "the least that can be told apart is 1ms")
	}
	return nil
}

// setTime reads whole seconds, as the original did, or a Go duration.
func setTime(at func(*Settings) *span, valid func(time.Duration) error) setter {
	return func(s *Settings, text string) error {
		const hint = "write seconds (3) or a duration (500ms, 1m)"
		d, err := time.ParseDuration(text)
		if n, numErr := strconv.ParseInt(text, 10, 32); numErr == nil {
			d, err = time.Duration(n)*time.Second, nil
		}
		if err != nil {
			return usage(hint, "it is no time")
		}
		if err := valid(d); err != nil {
			return usage(hint, "%v", err)
		}
		*at(s) = d
		return nil
	}
}

func setSmall(at func(*Settings) *uint8) setter {
	return func(s *Settings, text string) error {
		n, err := strconv.ParseUint(text, 10, 8)
		if err != nil || n == 0 {
			return usage("2 is usual", "it must be a number between 1 and 255")
		}
		*at(s) = uint8(n)
		return nil
	}
}

// setBalanceFactor: HAProxy's hash-balance-factor is 0 or above 100 (configuration manual, section 4.2).
func setBalanceFactor(s *Settings, text string) error {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n > 0 && n <= 100 {
		return usage("150 lets a node have half more than the average", "it must be 0 or a number between 101 and 65535")
	}
	s.BalanceFactor = uint16(n)
	return nil
}

func setNodeMaxConn(s *Settings, text string) error {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return usage("0 means no limit", "it must be a number, 0 or more")
	}
	s.NodeMaxConn = uint32(n)
	return nil
}

func setPrefixes(at func(*Settings) *prefixes) setter {
	return func(s *Settings, text string) error {
		if text == "" {
			return nil
		}
		for part := range strings.SplitSeq(text, ",") {
			part = strings.TrimSpace(part)
			p, err := netip.ParsePrefix(part)
			if err != nil {
				ip, ipErr := netip.ParseAddr(part)
				if ipErr != nil || ip.Zone() != "" {
					return usage("write 10.0.0.0/8,192.0.2.7,fd00::/8", "%q is no CIDR and no IP address", part)
				}
				p = netip.PrefixFrom(ip, ip.BitLen())
			}
			if p.Addr().Is4In6() {
				return usage("write the IPv4 range itself", "%q is an IPv4 range in IPv6's notation", part)
			}
			*at(s) = append(*at(s), p.Masked())
		}
		return nil
	}
}

func setHosts(s *Settings, text string) error {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.ToLower(strings.TrimSpace(part)); part == "" {
			continue
		}
		if _, err := model.ParseNode(part + ":1"); err != nil {
			return usage("write NAME,NAME without ports", "%q is no host name", part)
		}
		s.MgmtHosts = append(s.MgmtHosts, part)
	}
	return nil
}

// setDocker reads an engine as DOCKER_HOST has it.
func setDocker(s *Settings, text string) error {
	switch text {
	case "auto", "off":
		s.DockerHost = text // complete decides
		return nil
	}
	const hint = "write unix:///var/run/docker.sock or tcp://HOST:PORT"
	scheme, rest, ok := strings.Cut(text, "://")
	switch {
	case !ok || rest == "":
		return usage(hint, "it is no engine")
	case scheme != "unix" && scheme != "tcp" && scheme != "http" && scheme != "https":
		return usage(hint, "an engine cannot be reached by %s", scheme)
	case scheme == "unix" && !filepath.IsAbs(rest):
		return usage(hint, "the socket's path is not absolute")
	}
	return setText(func(s *Settings) *string { return &s.DockerHost })(s, text)
}

// setPorts reads a list of ports and of ranges.
func setPorts(s *Settings, text string) error {
	if text == "" {
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		a, err := strconv.ParseUint(first, 10, 16)
		b, err2 := strconv.ParseUint(last, 10, 16)
		if err != nil || err2 != nil || a == 0 || b < a {
			return usage("write 80,443,8000-8999", "%q is no port and no range of ports", part)
		}
		s.PublishAllow = append(s.PublishAllow, PortRange{uint16(a), uint16(b)})
	}
	return nil
}

// certDirs are where PEM files usually lie in a container with HAProxy.
const certDirs = "/certs,/etc/ssl,/etc/haproxy,/usr/local/etc/haproxy,/run/secrets"

func setDirs(s *Settings, text string) error {
	for part := range strings.SplitSeq(cmp.Or(text, certDirs), ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		if !filepath.IsAbs(part) || filepath.Clean(part) == "/" {
			return usage("write whole paths of folders, with commas between", "%q is not the absolute path of a folder below /", part)
		}
		if err := setText(func(*Settings) *string { return new(string) })(s, part); err != nil {
			return err
		}
		s.CertDirs = append(s.CertDirs, filepath.Clean(part))
	}
	return nil
}

func setRunDir(s *Settings, text string) error {
	if text == "" {
		return nil
	}
	if err := setText(func(s *Settings) *string { return &s.RunDir })(s, text); err != nil {
		return err
	}
	if !filepath.IsAbs(text) {
		return usage("write the whole path", "it is not absolute")
	}
	if strings.ContainsAny(text, "$,") {
		return usage("choose another folder", "HAProxy cannot have a socket below a path with $ or a comma")
	}
	s.RunDir = filepath.Clean(text)
	return nil
}

func setUser(s *Settings, text string) error {
	if text != "" && !model.ValidName(text) {
		return usage("", "it is no user name")
	}
	s.HAProxyUser = text
	return nil
}

// setMaster reads the path of a Unix socket, with or without HAProxy's prefix.
func setMaster(s *Settings, text string) error {
	path := strings.TrimPrefix(text, "unix@")
	switch {
	case text == "":
		return nil
	case !filepath.IsAbs(path):
		return usage("write /path/of/master.sock, as HAProxy was given it with -S", "it is not the absolute path of a Unix socket")
	case len(path) > 97:
		return usage("choose another path", "a socket's path ends at about 97 bytes")
	}
	return setText(func(s *Settings) *string { return &s.HAProxyMaster })(s, filepath.Clean(path))
}

func setAccessLog(s *Settings, text string) error {
	if text != "off" && text != "stdout" && !filepath.IsAbs(text) {
		return usage("write off, stdout or /path/of/file", "it is not an absolute path")
	}
	return setText(func(s *Settings) *string { return &s.AccessLog })(s, text)
}

func setOnOff(field func(*Settings) *bool) func(*Settings, string) error {
	return func(s *Settings, text string) error {
		if text != "on" && text != "off" {
			return usage("write on or off", "it is neither")
		}
		*field(s) = text == "on"
		return nil
	}
}

func setWait(s *Settings, text string) error {
	const hint = "write MIN:MAX, such as 10ms:250ms"
	low, high, ok := strings.Cut(text, ":")
	from, err := time.ParseDuration(low)
	to, err2 := time.ParseDuration(high)
	switch {
	case !ok || err != nil || err2 != nil:
		return usage(hint, "it is no pair of times")
	case from < 0 || to < from || to > time.Minute:
		return usage(hint, "MIN must be at most MAX, and MAX at most 1m")
	}
	s.WaitMin, s.WaitMax = from, to
	return nil
}

func setZipkin(s *Settings, text string) error {
	if text == "" {
		return nil
	}
	if u, err := url.Parse(text); err != nil || u.Host == "" {
		return usage("write http://HOST:PORT/PATH", "it is no URL")
	}
	s.Warnings = append(s.Warnings, "--zipkin is accepted, and no traces are sent; trace headers pass through untouched")
	return nil
}

// dockerSocket is where an engine listens that nobody has told otherwise.
const dockerSocket = "/var/run/docker.sock"

// classic reads the environment of docker-loadbalancer, and decides about the engine.
func classic(s *Settings, host Host) error {
	number := func(name string, most int64) (n int64, set bool, err error) {
		text, ok := host.Env(name)
		if !ok || text == "" {
			return 0, false, nil
		}
		n, err = strconv.ParseInt(text, 10, 64)
		if err != nil || n > most {
			return 0, false, usage(fmt.Sprintf("set it to a number up to %d, or leave it out", most), "%s %q in the environment is no number that can be", name, text[:min(len(text), 60)])
		}
		return n, true, nil
	}
	stats, _, err := number("LB_STATS_PORT", 65535)
	if err != nil {
		return err
	}
	s.StatsPort = uint16(max(stats, 0)) //nolint:gosec // it is a port
	s.DockerResync = 5 * time.Second
	seconds, set, err := number("CHECK_TIME", 86400)
	switch {
	case err != nil:
		return err
	case set && seconds < 1:
		return usage("set it to seconds, 5 for example, or leave it out", "CHECK_TIME %d in the environment: it must be 1 or more", seconds)
	case set:
		s.DockerResync = time.Duration(seconds) * time.Second
	}
	for name, to := range map[string]*string{"HAPROXY_PID_FILE": &s.PidFile, "HAPROXY_SOCK_FILE": &s.SockFile} {
		text, ok := host.Env(name)
		if !ok || text == "" {
			continue
		}
		if !filepath.IsAbs(text) || len(text) > 97 || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`"'\$#,`, r) }) {
			return usage("set it to the whole path of a file, without spaces and quotes", "%s in the environment is no plain absolute path", name)
		}
		*to = text
	}
	engine, named := host.Env("DOCKER_HOST")
	switch {
	case s.DockerHost == "off":
		s.DockerHost = ""
	case s.DockerHost != "auto":
		s.Docker = true
	default:
		s.DockerHost, s.Docker = "", s.engineAsked || !s.engineUnasked && (named && engine != "" || host.Socket(dockerSocket))
	}
	return nil
}

// complete fills in the defaults that depend on the host and checks what several flags say together.
func complete(s *Settings, host Host) error {
	s.LogLevel = logLevel(host)
	if err := classic(s, host); err != nil {
		return err
	}
	if s.RunDir == "" {
		s.RunDir = defaultRunDir(host)
	}
	if len(s.RunDir) > 60 {
		return usage("a socket's path ends at about 97 bytes", "--run-dir %q is longer than 60 bytes", s.RunDir)
	}
	if s.HAProxyConfig == "" {
		const folder = "/usr/local/etc/haproxy"
		s.HAProxyConfig = filepath.Join(s.RunDir, "haproxy.cfg")
		if host.Writable(folder) {
			s.HAProxyConfig = filepath.Join(folder, "haproxy.cfg")
		}
	}
	if !filepath.IsAbs(s.HAProxyConfig) {
		return usage("write the whole path", "--haproxy-config %q is not absolute", s.HAProxyConfig)
	}
	if s.HAProxyMaster != "" && s.AccessLog != "off" {
		return usage("leave --access-log out; a template can have a log line", "--access-log %q needs a HAProxy that fnlb starts, not one of --haproxy-master", s.AccessLog)
	}
	if s.Template == "" {
		s.Appears = cmp.Or(host.Template, "/haproxy.tmpl")
		if host.Exists(s.Appears) {
			s.Template = s.Appears
		}
	}
	if err := distinct(s); err != nil {
		return err
	}
	s.NodePolicy.Local = host.Local
	s.NodePolicy.Own = s.ownPorts()
	for _, n := range s.Nodes {
		if n.IP.IsValid() {
			if err := s.NodePolicy.Check(netip.AddrPortFrom(n.IP, n.Port)); err != nil {
				return usage("correct --nodes", "node %s: %v", n, err)
			}
		}
	}
	if s.MgmtAllow != nil && s.MgmtTokenFile == "" {
		for _, p := range s.MgmtAllow {
			if p.Bits() == 0 {
				s.Warnings = append(s.Warnings, "--mgmt-allow lets everybody change nodes, and no --mgmt-token-file is set")
			}
		}
	}
	return nil
}

func defaultRunDir(host Host) string {
	if host.UID == 0 {
		return "/run/fnlb"
	}
	if dir, ok := host.Env("XDG_RUNTIME_DIR"); ok && filepath.IsAbs(dir) {
		return filepath.Join(dir, "fnlb")
	}
	return filepath.Join(host.TempDir, fmt.Sprintf("fnlb-%d", host.UID))
}

// logLevel reads LOG_LEVEL by the names of the original; a bad value means info.
func logLevel(host Host) slog.Level {
	text, _ := host.Env("LOG_LEVEL")
	switch strings.ToLower(text) {
	case "debug", "trace":
		return slog.LevelDebug
	case "warn", "warning":
		return slog.LevelWarn
	case "error", "fatal", "panic":
		return slog.LevelError
	}
	return slog.LevelInfo
}
