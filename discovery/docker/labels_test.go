package docker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/fnlb/fnlb/model"
)

// readable fails for a text that is not one printable line of bounded length.
func readable(t testing.TB, what, text string) {
	t.Helper()
	const most = 400
	bad := strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' && r != '…' })
	if bad || !utf8.ValidString(text) || len(text) > most {
		t.Errorf("%s: no short printable line: %.500q", what, text)
	}
}

// pairs makes labels of NAME, VALUE, …
func pairs(list ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i+1 < len(list); i += 2 {
		m[list[i]] = list[i+1]
	}
	return m
}

func weightOf(t testing.TB, n int) model.Weight {
	t.Helper()
	w, err := model.NewWeight(n)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestReadValues(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		label, value string
		want         func(w *wish)
	}{
		{"lb.enable", "Y", func(*wish) {}},
		{"lb.enable", "y", func(*wish) {}},
		{"lb.enable", "Yes", func(*wish) {}},
		{"lb.enable", "TRUE", func(*wish) {}},
		{"lb.enable", "1", func(*wish) {}},
		{"lb.enable", "on", func(*wish) {}},
		{"lb.publish", "1", func(w *wish) { w.publish = 1 }},
		{"lb.publish", "65535", func(w *wish) { w.publish = 65535 }},
		{"lb.target", "8080", func(w *wish) { w.target = 8080 }},
		{"lb.target", "080", func(w *wish) { w.target = 80 }},
		{"lb.dst_addr", "", func(*wish) {}},
		{"lb.dst_addr", "*", func(*wish) {}},
		{"lb.dst_addr", "0.0.0.0", func(*wish) {}},
		{"lb.dst_addr", "::", func(*wish) {}},
		{"lb.dst_addr", "127.0.0.2", func(w *wish) { w.address = netip.MustParseAddr("127.0.0.2") }},
		{"lb.dst_addr", "::ffff:10.0.0.1", func(w *wish) { w.address = netip.MustParseAddr("10.0.0.1") }},
		{"lb.dst_addr", "2001:DB8::1", func(w *wish) { w.address = netip.MustParseAddr("2001:db8::1") }},
		{"lb.ssl", "", func(*wish) {}},
		{"lb.ssl", "/certs/web.pem", func(w *wish) { w.cert = "/certs/web.pem" }},
		{"lb.network", "front_end-1.x", func(w *wish) { w.network = "front_end-1.x" }},
		{"lb.check", "off", func(w *wish) { w.check = model.CheckOff }},
		{"lb.check", "OFF", func(w *wish) { w.check = model.CheckOff }},
		{"lb.check", "tcp", func(*wish) {}},
		{"lb.check", "", func(*wish) {}},
		{"lb.check", "/healthz?deep=1&x=%20", func(w *wish) { w.check, w.path = model.CheckHTTP, "/healthz?deep=1&x=%20" }},
		{"lb.weight", "0", func(w *wish) { w.weight = weightOf(t, 0) }},
		{"lb.weight", "256", func(w *wish) { w.weight = weightOf(t, 256) }},
		{"lb.drain", "30", func(w *wish) { w.drain = 30 * time.Second }},
		{"lb.drain", "90s", func(w *wish) { w.drain = 90 * time.Second }},
		{"lb.drain", "576h", func(w *wish) { w.drain = 576 * time.Hour }},
	} {
		want := wish{enabled: true, publish: 80, check: model.CheckTCP}
		tt.want(&want)
		all := pairs("lb.enable", "Y", "lb.publish", "80", "org.example", "x", "lb", "y", "label", "z")
		all[tt.label] = tt.value
		got, notes, problem := read(all)
		if got != want || problem != nil || len(notes) > 0 {
			t.Errorf("%s=%q: %+v, want %+v; %v %v", tt.label, tt.value, got, want, notes, problem)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 64<<10)
	for _, tt := range []struct{ label, value, says, mend string }{
		{"lb.enable", "perhaps", "neither Y nor N", "lb.enable=Y"},
		{"lb.enable", "Y\n", "neither Y nor N", "lb.enable=Y"},
		{"lb.publish", "", "it is no port", "between 1 and 65535"},
		{"lb.publish", "0", "it is no port", "between 1 and 65535"},
		{"lb.publish", "65536", "it is no port", "between 1 and 65535"},
		{"lb.publish", "-1", "it is no port", "between 1 and 65535"},
		{"lb.publish", "+80", "it is no port", "between 1 and 65535"},
		{"lb.publish", " 80", "it is no port", "between 1 and 65535"},
		{"lb.publish", "80; rm", `label lb.publish="80; rm": it is no port`, "between 1 and 65535"},
		{"lb.publish", "0x50", "it is no port", "between 1 and 65535"},
		{"lb.publish", "８０", "it is no port", "between 1 and 65535"},
		{"lb.target", "http", "it is no port", "between 1 and 65535"},
		{"lb.target", "80\nglobal\n lua-load /x", "it is no port", "between 1 and 65535"},
		{"lb.dst_addr", "localhost", "no IP address", "leave the label out"},
		{"lb.dst_addr", "10.0.0.1:80", "no IP address", "leave the label out"},
		{"lb.dst_addr", "fe80::1%eth0", "cannot be listened on", "leave the label out"},
		{"lb.dst_addr", "fe80::1%\n", "cannot be listened on", "leave the label out"},
		{"lb.dst_addr", "224.0.0.1", "cannot be listened on", "leave the label out"},
		{"lb.dst_addr", "unix@/x", "no IP address", "leave the label out"},
		{"lb.ssl", "web.pem", "no absolute path", "PEM file"},
		{"lb.network", "", "no name of a network", "docker network ls"},
		{"lb.network", "a b", "no name of a network", "docker network ls"},
		{"lb.network", long, "no name of a network", "docker network ls"},
		{"lb.check", "http", "neither off nor tcp nor a path", "lb.check=/healthz"},
		{"lb.check", "/a\r\nHost: x", "no character of a path", "%0D"},
		{"lb.check", "/a b", "no character of a path", "%20"},
		{"lb.check", "/\xff", "no character of a path", "%FF"},
		{"lb.check", "/%zz", "hexadecimal", "%25"},
		{"lb.check", "/" + long, "65537 bytes", "at most 255"},
		{"lb.weight", "half", "no number", "between 0 and 256"},
		{"lb.weight", "257", "not from 0 to 256", "between 0 and 256"},
		{"lb.weight", "-1", "not from 0 to 256", "between 0 and 256"},
		{"lb.weight", "99999999999999999999", "no number", "between 0 and 256"},
		{"lb.drain", "", "no time", "5m"},
		{"lb.drain", "0", "no time", "5m"},
		{"lb.drain", "-5s", "no time", "5m"},
		{"lb.drain", "500ms", "no time", "5m"},
		{"lb.drain", "577h", "no time", "5m"},
		{"lb.drain", "4294967295", "no time", "5m"},
		{"lb.drain", long, "no time", "5m"},
	} {
		all := pairs("lb.enable", "Y", "lb.publish", "80")
		all[tt.label] = tt.value
		_, _, problem := read(all)
		if problem == nil || !strings.Contains(problem.Reason, tt.says) || !strings.Contains(problem.Mend, tt.mend) || problem.Kind != model.Invalid {
			t.Errorf("%s=%.80q: %+v, want %q, and how to mend it: %q", tt.label, tt.value, problem, tt.says, tt.mend)
			continue
		}
		if !strings.Contains(problem.Reason, tt.label) {
			t.Errorf("%s=%.80q: %q does not name the label", tt.label, tt.value, problem.Reason)
		}
		readable(t, tt.label, problem.Error())
	}
	if _, _, p := read(pairs("lb.enable", "Y")); p == nil || !strings.Contains(p.Reason, "no label lb.publish") || p.Mend == "" {
		t.Errorf("without lb.publish: %+v", p)
	}
	// Who does not want to take part is not told of mistakes, but of that it does not.
	for _, all := range []map[string]string{pairs("lb.publish", "x"), pairs("lb.enable", "N", "lb.weight", "x"), pairs("lb.target", "80")} {
		if w, _, p := read(all); p != nil || w.enabled {
			t.Errorf("%v: %+v %v", all, w, p)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"lb.pubish": "lb.publish", "lb.Publish": "lb.publish", "lb.publsih": "lb.publish", "lb.port": "", "lb.sll": "lb.ssl",
		"lb.dst-addr": "lb.dst_addr", "lb.enabled": "lb.enable", "lb.targets": "lb.target", "lb.": "", "lb.http.routers.web.rule": "",
		"lb.network\n": "lb.network", "lb." + strings.Repeat("x", 64<<10): "", "lb.\xff\x00": "",
	} {
		_, notes, problem := read(map[string]string{name: "x", "lb.enable": "Y", "lb.publish": "80"})
		if problem != nil || len(notes) != 1 {
			t.Errorf("%.60q: %v %v", name, notes, problem)
			continue
		}
		readable(t, name[:min(len(name), 60)], notes[0])
		if said := strings.Contains(notes[0], "did you mean "+want+"?"); want != "" && !said || want == "" && strings.Contains(notes[0], "mean") {
			t.Errorf("%.60q: %q, want %q", name, notes[0], want)
		}
	}
	many := pairs("lb.enable", "Y", "lb.publish", "80")
	for i := range 5000 {
		many[fmt.Sprintf("lb.x%d", i)] = ""
	}
	if _, notes, _ := read(many); len(notes) != mostNotes+1 || !strings.Contains(notes[mostNotes], "4990 labels more") {
		t.Errorf("5000 unknown labels make %d notes: %q", len(notes), notes)
	}
}

// TestLabels: the table is complete, and nothing in it is changed from outside.
func TestLabels(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, l := range Labels() {
		if !strings.HasPrefix(l.Name, prefix) || seen[l.Name] || l.Values == "" || l.Default == "" || l.Does == "" || l.set == nil {
			t.Errorf("label %+v", l)
		}
		if strings.ContainsAny(l.Values+l.Default+l.Does, "|\n") {
			t.Errorf("label %s cannot stand in a table", l.Name)
		}
		seen[l.Name] = true
	}
	for _, name := range []string{"lb.enable", "lb.publish", "lb.target", "lb.ssl", "lb.dst_addr", "lb.network", "lb.check", "lb.weight", "lb.drain"} {
		if !seen[name] {
			t.Errorf("there is no label %s", name)
		}
	}
	Labels()[0].Name = "lb.other"
	if Labels()[0].Name != "lb.enable" {
		t.Error("the table was changed")
	}
}

func TestStops(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		signal, own string
		want        bool
	}{
		{"15", "", true}, {"SIGTERM", "", true}, {"TERM", "", true}, {"term", "", true}, {"9", "", true}, {"KILL", "SIGQUIT", true},
		{"1", "", false}, {"SIGHUP", "", false}, {"10", "", false}, {"USR1", "", false}, {"12", "SIGUSR1", false}, {"3", "", false}, {"2", "", false},
		{"3", "SIGQUIT", true}, {"3", "QUIT", true}, {"3", "3", true}, {"10", "SIGUSR1", true}, {"1", "SIGHUP", true},
		{"37", "SIGRTMIN+3", true}, {"37", "RTMIN+3", true}, {"37", "37", true}, {"SIGRTMIN+3", "37", true}, {"34", "SIGRTMIN", true}, {"38", "SIGRTMIN+3", false},
		{"", "", false}, {"0", "", false}, {"x", "x", false}, {"SIGRTMIN+x", "SIGRTMIN+x", false}, {"-9", "", false}, {"\n9", "", false},
	} {
		if got := stops(tt.signal, tt.own); got != tt.want {
			t.Errorf("signal %q of a container that is stopped by %q: %v", tt.signal, tt.own, got)
		}
	}
}

func TestIDIn(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("0123456789abcdef", 4)
	for name, tt := range map[string]struct{ mounts, want string }{
		"control groups 1": {`1130 1095 254:1 /docker/containers/` + id + `/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/vda1 rw
1131 1095 254:1 /docker/containers/` + id + `/hostname /etc/hostname rw,relatime - ext4 /dev/vda1 rw
1106 1098 0:27 /docker/` + id + ` /sys/fs/cgroup/systemd ro,nosuid,nodev,noexec,relatime master:9 - cgroup cgroup rw,xattr`, id},
		"control groups 2": {`677 660 0:29 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw
686 656 8:1 /var/lib/docker/containers/` + id + `/hosts /etc/hosts rw,relatime - ext4 /dev/sda1 rw`, id},
		"another data root":              {`686 656 8:1 /mnt/data/containers/` + id + `/hostname /etc/hostname rw - xfs /dev/sda1 rw`, id},
		"podman":                         {`686 656 8:1 /containers/storage/overlay-containers/` + id + `/userdata/hostname /etc/hostname rw - ext4 /dev/sda1 rw`, ""},
		"the engine's folder is mounted": {`686 656 8:1 /var/lib/docker/containers /logs rw - ext4 /dev/sda1 rw`, ""},
		"a log of another":               {`686 656 8:1 /var/lib/docker/containers/` + id + `/` + id + `-json.log /log rw - ext4 /dev/sda1 rw`, ""},
		"short":                          {`686 656 8:1 /var/lib/docker/containers/0123/hostname /etc/hostname rw - ext4 /dev/sda1 rw`, ""},
		"none":                           {`22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw`, ""},
		"nothing":                        {"", ""},
	} {
		if got := idIn(tt.mounts); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, l := range Labels() {
		for _, v := range []string{"80", "Y", "/a\n", "\x00", "10.0.0.1; x", "5m", "off"} {
			f.Add(l.Name, v)
		}
	}
	f.Add("lb.pub\nlish", "80")
	f.Fuzz(func(t *testing.T, label, value string) {
		all := pairs("lb.enable", "Y", "lb.publish", "80")
		all[label] = value
		w, notes, problem := read(all)
		for _, n := range notes {
			readable(t, "note", n)
		}
		if problem != nil {
			readable(t, "problem", problem.Error())
			if problem.Reason == "" || problem.Mend == "" {
				t.Errorf("%+v", problem)
			}
			return
		}
		if w.enabled && w.publish == 0 || w.network != "" && !model.ValidName(w.network) || w.path != "" && w.check != model.CheckHTTP {
			t.Errorf("%q=%q: %+v", label, value, w)
		}
		if strings.ContainsFunc(w.path, func(r rune) bool { return r <= ' ' || r > '~' || slices.Contains([]rune(`"\#`), r) }) {
			t.Errorf("%q=%q: path %q", label, value, w.path)
		}
	})
}
