package config

import (
	"cmp"
	"errors"
	"flag"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/model"
)

func none(*flag.FlagSet) {}

func host(env ...string) Host {
	vars := map[string]string{}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		vars[name] = value
	}
	return Host{
		Env:      func(name string) (string, bool) { v, ok := vars[name]; return v, ok },
		TempDir:  "/tmp",
		Writable: func(string) bool { return false },
		Exists:   func(string) bool { return false },
		Socket:   func(string) bool { return false },
		Local:    []netip.Addr{netip.MustParseAddr("10.0.0.5")},
	}
}

func TestDefaults(t *testing.T) {
	s, rest, err := Parse(nil, host(), none)
	if err != nil || len(rest) != 0 {
		t.Fatal(rest, err)
	}
	if !s.SharedPort() || s.Listen != (model.Bind{Port: 8081}) {
		t.Errorf("listen %s, mgmt %s", s.Listen, s.Management)
	}
	want := model.Check{Interval: 3 * time.Second, Timeout: 5 * time.Second, Rise: 1, Fall: 2, Asks: []model.Ask{{Path: "/version", MinVersion: "0.0.235"}}}
	if !s.Check.Equal(want) {
		t.Errorf("check %+v", s.Check)
	}
	if s.Timeouts.Server != 24*time.Hour || s.ClientTimeout != 24*time.Hour || s.Timeouts.Connect != 10*time.Second {
		t.Errorf("timeouts %+v %s", s.Timeouts, s.ClientTimeout)
	}
	if s.RunDir != "/run/fnlb" || s.HAProxyConfig != "/run/fnlb/haproxy.cfg" || s.LogLevel != slog.LevelInfo {
		t.Errorf("got %+v", s)
	}
	if s.WaitMin != 10*time.Millisecond || s.WaitMax != 250*time.Millisecond || s.HardStopAfter != 30*time.Minute || s.ShutdownTimeout != 0 {
		t.Errorf("got %+v", s)
	}
}

// TestSpellings: one dash and two, = and a space, the environment, and who beats whom.
func TestSpellings(t *testing.T) {
	for _, args := range [][]string{
		{"-nodes", "a:1,b:2"}, {"--nodes", "a:1,b:2"}, {"-nodes=a:1,b:2"}, {"--nodes=a:1,b:2"}, {"--nodes", " a:1 , b:2, a:1"},
	} {
		s, _, err := Parse(args, host("FNLB_NODES=c:3"), none)
		if err != nil || len(s.Nodes) != 2 || s.Nodes[0].Host != "a" || s.Nodes[1].Host != "b" {
			t.Errorf("%q: %v %v", args, s.Nodes, err)
		}
	}
	s, _, err := Parse(nil, host("FNLB_NODES=c:3", "FNLB_HC_INTERVAL=500ms", "LOG_LEVEL=debug"), none)
	if err != nil || len(s.Nodes) != 1 || s.Nodes[0].Host != "c" || s.Check.Interval != 500*time.Millisecond || s.LogLevel != slog.LevelDebug {
		t.Errorf("environment: %+v, %v", s, err)
	}
	if s, _, err = Parse([]string{"-hc-interval", "7"}, host("LOG_LEVEL=nonsense"), none); err != nil || s.Check.Interval != 7*time.Second || s.LogLevel != slog.LevelInfo {
		t.Errorf("whole seconds: %+v, %v", s, err)
	}
	if s, _, err = Parse([]string{"--min-api-version="}, host(), none); err != nil || s.Check.Asks[0].MinVersion != "" {
		t.Errorf("empty minimum: %+v, %v", s.Check, err)
	}
	_, rest, err := Parse([]string{"add", "--run-dir", "/x", "h:1"}, host(), none)
	if err != nil || strings.Join(rest, " ") != "add h:1" {
		t.Errorf("mixed: %q, %v", rest, err)
	}
	if _, _, err := Parse([]string{"--help"}, host(), none); !errors.Is(err, ErrHelp) {
		t.Errorf("help: %v", err)
	}
}

func TestAddresses(t *testing.T) {
	for _, text := range []string{":80", "*:80", "0.0.0.0:80", "[::]:80"} {
		s, _, err := Parse([]string{"--listen", text, "--mgmt-listen", ":80"}, host(), none)
		if err != nil || !s.SharedPort() {
			t.Errorf("%s: %s %s %v", text, s.Listen, s.Management, err)
		}
	}
	s, _, err := Parse([]string{"--listen", "localhost:80"}, host(), none)
	if err != nil || s.Listen.String() != "127.0.0.1:80" || s.SharedPort() {
		t.Errorf("localhost: %s %v", s.Listen, err)
	}
}

// TestRefused: each bad value is one line that names the flag and a hint.
func TestRefused(t *testing.T) {
	long := "/" + strings.Repeat("x", 70)
	tests := []struct{ args, want string }{
		{"--nope", "there is no flag --nope; fnlb --help"},
		{"--nodes", "flag needs an argument"},
		{"--listen 8081", "port is missing"},
		{"--listen :0", "between 1 and 65535"},
		{"--listen :70000", "between 1 and 65535"},
		{"--listen host:80", "no IP address"},
		{"--listen ::1:80", "no IP address"},
		{"--listen [127.0.0.1]:80", "no IP address"},
		{"--listen [fe80::1%lo]:80", "zone"},
		{"--listen 224.0.0.1:80", "multicast"},
		{"--listen 127.0.0.1:80 --mgmt-listen :80", "share a port"},
		{"--nodes a", "port is missing"},
		{"--nodes a:1,,b:2", "it is empty"},
		{"--nodes http://h:1", "URL"},
		{"--nodes 169.254.169.254:80", "link-local"},
		{"--nodes 0.0.0.0:80", "unspecified"},
		{"--nodes 127.0.0.1:8081", "own address"},
		{"--nodes 10.0.0.5:8081", "own address"},
		{"--node-deny 10.0.0.0/8 --nodes 10.1.1.1:80", "--node-deny"},
		{"--hc-interval 0", "more than 0"},
		{"--hc-interval -1", "more than 0"},
		{"--shutdown-timeout -1", "0 and 24 days"},
		{"--hc-interval soon", "no time"},
		{"--hc-interval 1us", "1ms"},
		{"--hc-unhealthy 0", "between 1 and 255"},
		{"--hc-healthy 1000", "between 1 and 255"},
		{"--balance-factor 50", "101"},
		{"--node-maxconn -1", "0 or more"},
		{"--timeout-server 3000000", "24 days"},
		{"--wait 10ms", "no pair"},
		{"--wait 2s:1s", "MIN must be at most MAX"},
		{"--mgmt-allow 10.0.0.0/33", "no CIDR"},
		{"--mgmt-allow ::ffff:10.0.0.0/104", "IPv4 range"},
		{"--mgmt-hosts a/b", "no host name"},
		{"--access-log log", "absolute"},
		{"--first-screen maybe", "neither"},
		{"--run-dir run", "not absolute"},
		{"--run-dir /a$b", "comma"},
		{"--run-dir /a,b", "comma"},
		{"--run-dir " + long, "longer than 60 bytes"},
		{"--haproxy-config x.cfg", "not absolute"},
		{"--haproxy-user a\nb", "no user name"},
		{"--zipkin nonsense", "no URL"},
		{"--db postgres://u:geheim@h:x/d", "(not shown)"},
		{"--db oracle://u:geheim@h/d", "(not shown)"},
		{"--driver nomad", "there is no driver"},
		{"--driver kubernetes,nomad", "there is no driver"},
		{"--namespace a/b", "no name in a cluster"},
		{"--namespace -a", "no name in a cluster"},
		{"--service a.b", "no name in a cluster"},
		{"--service a --label-selector b=c", "leave one of them out"},
		{"--target-port 0", "no port"},
		{"--target-port 65536", "no port"},
		{"--target-port 0x50-", "no port"},
		{"--target-port a-name-too-long-", "no port"},
		{"--pod-ready maybe", "true or false"},
		{"--ip-family ipx", "no family"},
		{"--label-selector a\nb", "control character"},
		{"--docker ssh://h", "cannot be reached by ssh"},
		{"--haproxy-master unix@x", "absolute"},
		{"--haproxy-master abns@x", "absolute"},
		{"--haproxy-master /x --access-log stdout", "--access-log"},
	}
	for _, test := range tests {
		_, _, err := Parse(strings.Split(test.args, " "), host(), none)
		var usage *UsageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want one line with %q", test.args, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: the password is shown: %v", test.args, err)
		}
		flagName, _, _ := strings.Cut(test.args, " ")
		if usage != nil && !strings.Contains(err.Error(), strings.TrimLeft(flagName, "-")) {
			t.Errorf("%s: the flag is not named: %v", test.args, err)
		}
	}
	if _, _, err := Parse(nil, host("FNLB_HC_INTERVAL=x"), none); err == nil || !strings.Contains(err.Error(), "FNLB_HC_INTERVAL") {
		t.Errorf("the variable is not named: %v", err)
	}
}

func TestAccepted(t *testing.T) {
	s, _, err := Parse(strings.Fields("--zipkin http://z:9411/api/v1/spans --driver rest --docker off --mgmt-allow 0.0.0.0/0"), host(), none)
	if err != nil || len(s.Warnings) != 2 || !strings.Contains(s.Warnings[0], "no traces") {
		t.Errorf("%q, %v", s.Warnings, err)
	}
}

// TestDrivers: which sources there are follows from --driver, --db and --docker together.
func TestDrivers(t *testing.T) {
	engine := host()
	engine.Socket = func(string) bool { return true }
	for _, test := range []struct {
		args             string
		pods, nodes      bool
		engine, warnings bool
	}{
		{"", false, true, true, false},
		{"--driver rest", false, true, false, false},
		{"--driver kubernetes", true, false, false, false},
		{"-db=k8s", true, false, false, false},
		{"-db=k8s -driver=nodes", true, true, false, false},
		{"-db=k8s -driver=kubernetes", true, false, false, false},
		{"--driver kubernetes --nodes a:1", true, false, false, true},
		{"--driver kubernetes,nodes --nodes a:1", true, true, false, false},
		{"--driver kubernetes,nodes,docker", true, true, true, false},
		{"--driver kubernetes,docker --docker off", true, false, false, false},
		{"--driver kubernetes --docker unix:///x", true, false, true, false},
		{"--driver docker", false, false, true, false},
		{"--label-selector a=b", false, true, true, true},
	} {
		in, _, err := Read(strings.Fields(test.args), engine.Env, none)
		if err != nil {
			t.Fatal(err)
		}
		s, err := in.Settings(engine)
		if err != nil || s.Kubernetes.On != test.pods || (s.NoNodes == "") != test.nodes || s.Docker != test.engine || (len(s.Warnings) > 0) != test.warnings || s.DB.Kind() != "memory" {
			t.Errorf("%s: pods %v, no nodes because of %q, engine %v, %q, %v", test.args, s.Kubernetes.On, s.NoNodes, s.Docker, s.Warnings, err)
		}
		if len(s.Nodes) > 0 && !test.nodes {
			t.Errorf("%s: nodes %v", test.args, s.Nodes)
		}
		if _, socket := in.EngineSocket(engine.Env); socket != test.engine {
			t.Errorf("%s: the engine's socket is looked at: %v", test.args, socket)
		}
	}
	s, _, err := Parse(strings.Fields("-driver=kubernetes -label-selector=app=fn,role=fn-service -listen=:8080 -mgmt-listen=:8080"), host(), none)
	if err != nil || s.Kubernetes.Selector != "app=fn,role=fn-service" || s.Kubernetes.Port != 8080 || !s.SharedPort() || s.Kubernetes.NotReady || len(s.Warnings) > 0 {
		t.Errorf("the sample of the original: %+v, %v", s, err)
	}
	for args, want := range map[string]Kubernetes{
		"--service web":                       {Service: "web"},
		"--service web --target-port 8080":    {Service: "web", Port: 8080},
		"--target-port http --ip-family=IPv6": {PortName: "http", Family: "ipv6"},
		"--pod-ready=false":                   {Port: 8080, NotReady: true},
	} {
		s, _, err := Parse(strings.Fields("--driver kubernetes "+args), host(), none)
		want.On, want.Family = true, cmp.Or(want.Family, "any")
		if err != nil || s.Kubernetes != want {
			t.Errorf("%s: %+v, %v", args, s.Kubernetes, err)
		}
	}
}

// TestHelp: every flag is there, and no line is wider than a terminal.
func TestHelp(t *testing.T) {
	var b strings.Builder
	if err := Help(&b); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if len([]rune(strings.TrimRight(line, "\n"))) > 80 {
			t.Errorf("wider than 80 columns: %q", line)
		}
	}
	for _, name := range Names() {
		if !strings.Contains(b.String(), "--"+name+" ") {
			t.Errorf("--%s is missing", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("nodes", "a:1,[::1]:2")
	f.Add("listen", ":80")
	f.Add("wait", "1ms:2ms")
	f.Fuzz(func(t *testing.T, name, value string) {
		if _, _, err := Parse([]string{"--" + name + "=" + value}, host(), none); err != nil && !errors.Is(err, ErrHelp) {
			var usage *UsageError
			if !errors.As(err, &usage) {
				t.Fatalf("%T %v", err, err)
			}
		}
	})
}

// TestTemplate: the default place counts when a file is there, and is looked at later when none is; a template that was named is the
// only one.
func TestTemplate(t *testing.T) {
	for _, c := range []struct {
		args            []string
		there           string // the file that exists
		place           string // of the default
		file, appearing string
	}{
		{nil, "", "", "", "/haproxy.tmpl"},
		{nil, "/haproxy.tmpl", "", "/haproxy.tmpl", "/haproxy.tmpl"},
		{nil, "/haproxy.tmpl", "/x.tmpl", "", "/x.tmpl"},
		{[]string{"--template=mine.tmpl"}, "/haproxy.tmpl", "", "mine.tmpl", ""},
		{[]string{"--template="}, "", "", "", "/haproxy.tmpl"},
	} {
		h := host()
		h.Template, h.Exists = c.place, func(file string) bool { return file == c.there }
		s, _, err := Parse(c.args, h, none)
		if err != nil || s.Template != c.file || s.Appears != c.appearing {
			t.Errorf("%v: %q and %q, %v", c.args, s.Template, s.Appears, err)
		}
	}
}

// TestEngineSocket: what is looked at before root is given up is what the settings mean.
func TestEngineSocket(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		env  map[string]string
		want string // empty: none
	}{
		{want: "/var/run/docker.sock"},
		{env: map[string]string{"DOCKER_HOST": "unix:///a"}, want: "/a"},
		{env: map[string]string{"DOCKER_HOST": "tcp://a:2376"}},
		{env: map[string]string{"DOCKER_HOST": "unix:///a", "FNLB_DOCKER": "unix:///b"}, want: "/b"},
		{env: map[string]string{"DOCKER_HOST": "unix:///a", "FNLB_DOCKER": "auto"}, want: "/a"},
		{env: map[string]string{"FNLB_DOCKER": "off"}},
		{args: []string{"--docker", "unix:///c"}, env: map[string]string{"FNLB_DOCKER": "unix:///b"}, want: "/c"},
		{args: []string{"-docker=unix:///c"}, want: "/c"},
		{args: []string{"--docker=unix:///c", "--docker=off"}},
		{args: []string{"docker", "unix:///c"}, want: "/var/run/docker.sock"},
		{args: []string{"add", "--docker", "unix:///c", "h:1"}, want: "/c"},
	} {
		env := func(name string) (string, bool) { v, ok := test.env[name]; return v, ok }
		in, _, err := Read(test.args, env, none)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := in.EngineSocket(env)
		if ok != (test.want != "") || ok && got != test.want {
			t.Errorf("%q %q: %q %t", test.args, test.env, got, ok)
		}
		h := host()
		h.Env, h.Socket = env, func(file string) bool { return file == "/var/run/docker.sock" }
		s, err := in.Settings(h)
		if named := test.env["DOCKER_HOST"]; err != nil || s.Docker == (test.want == "" && named == "") {
			t.Errorf("%q %q: followed %t, %v", test.args, test.env, s.Docker, err)
		} else if s.DockerHost != "" && ok && s.DockerHost != "unix://"+got {
			t.Errorf("%q %q: the settings mean %s, not %s", test.args, test.env, s.DockerHost, got)
		}
	}
}
