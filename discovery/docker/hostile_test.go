package docker

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/templates"
)

// vault has one certificate.
type vault struct{}

func (vault) Changed() bool { return false }

func (vault) Use(file string) (string, *model.Problem) {
	if file != "/certs/web.pem" {
		return "", &model.Problem{Kind: model.Refused, Reason: "not this one", Mend: "take /certs/web.pem"}
	}
	return "web", nil
}

var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// quiet is a Source that publishes all ports but 8081.
func quiet(log *slog.Logger) *Source {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := New(Options{
		Check: model.Check{Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 2}, Resync: 5 * time.Second,
		Publish: func(port uint16) bool { return port != 8081 }, Certificates: vault{}, Now: time.Now, Log: log,
	})
	s.connect = func(context.Context, string) (api, error) { panic("no engine") }
	s.self = func() string { return "" }
	return s
}

// web is a container that serves, as the engine told us.
func web(i int, labels map[string]string) *tracked {
	return &tracked{facts: facts{
		id: id(i), name: fmt.Sprintf("web%d", i), state: "running", started: begin.Format(time.RFC3339Nano), created: begin.Add(time.Duration(i) * time.Second),
		labels: labels, exposed: []uint16{8080}, networks: []endpoint{place("bridge", netip.AddrFrom4([4]byte{172, 17, byte(i >> 8), byte(i)}).String())},
	}}
}

var builtin = sync.OnceValue(templates.Builtin)

// textOf renders what containers become with the built-in template.
func textOf(t testing.TB, version string, certificate string, list ...*tracked) (model.Snapshot, []byte) {
	t.Helper()
	s := quiet(nil)
	s.at = on()
	for _, c := range list {
		s.containers[c.id] = c
	}
	snapshot := s.snapshot()
	for _, p := range snapshot.Problems {
		readable(t, "problem", p.Error())
		readable(t, "owner", p.Owner.Name)
	}
	for _, f := range snapshot.Found {
		readable(t, "reason", f.Reason+"; "+f.Mend)
		for _, n := range f.Notes {
			readable(t, "note", n)
		}
	}
	state, problems := model.Merge(snapshot.Offers)
	for _, p := range problems {
		readable(t, "problem", p.Error())
	}
	a := conf.Abilities{Version: version, OpenSSL: true}
	if _, err := fmt.Sscanf(version, "%d.%d", &a.Major, &a.Minor); err != nil {
		t.Fatal(err)
	}
	b, err := builtin().Render(state, templates.Globals{HardStop: time.Minute, Certs: map[string]string{"web": certificate}}, a)
	if err != nil {
		t.Fatalf("labels break the whole text: %v", err)
	}
	return snapshot, b.Main
}

// sections are those of the text's skeleton, in an order that no name or port changes.
func sections(t testing.TB, text []byte) []string {
	t.Helper()
	parsed, err := conf.Parse(text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	var out []string
	for _, line := range parsed.Skeleton() {
		if strings.HasPrefix(line, " ") {
			out[len(out)-1] += "\n" + line
		} else {
			out = append(out, line)
		}
	}
	slices.Sort(out)
	return out
}

// twin is a container with plain values that asks for the same kind of thing.
func twin(c *tracked) *tracked {
	w, _, _ := read(c.labels)
	labels := pairs("lb.enable", "Y", "lb.publish", "1080", "lb.target", "9090")
	if w.publish == 80 {
		labels["lb.publish"] = "80"
	}
	if w.address.IsValid() {
		labels["lb.dst_addr"] = "192.0.2.1"
	}
	if w.cert != "" {
		labels["lb.ssl"] = "/certs/web.pem"
	}
	if w.weight.Int() != 1 {
		labels["lb.weight"] = "2"
	}
	switch w.check {
	case model.CheckOff:
		labels["lb.check"] = "off"
	case model.CheckHTTP:
		labels["lb.check"] = "/healthz"
	}
	return web(2, labels)
}

// hold is the property: whatever a container's labels and names, it is left out or gives the form that plain values give, and the one
// beside it stays.
func hold(t testing.TB, c *tracked) (taken bool) {
	t.Helper()
	benign := web(1, pairs("lb.enable", "Y", "lb.publish", "80"))
	snapshot, text := textOf(t, "3.0", "/certs/web.pem", benign, c)
	if !strings.Contains(string(text), "server web1 172.17.0.1:8080 ") {
		t.Errorf("%q: the other container is not there:\n%s", c.labels, text)
	}
	others := []*tracked{benign}
	for i := range snapshot.Offers {
		if o := &snapshot.Offers[i]; o.Owner.Name == c.name {
			taken = true
		}
	}
	if taken {
		others = append(others, twin(c))
	}
	_, plain := textOf(t, "3.0", "/certs/web.pem", others...)
	if got, want := sections(t, text), sections(t, plain); !slices.Equal(got, want) {
		t.Errorf("labels %q of %q change the form of the text:\n%s\nplain values give:\n%s", c.labels, c.name, text, plain)
	}
	return taken
}

var nasty = []string{
	"a\nglobal\n  lua-load /x.lua", "a\r\nb", "a b", "a #", "#", "a\tb", `\`, `a"b`, `"`, `'`, "$HOME", "${HOME}", `"$HOME"`, "a\x00b", "a\x1b[31m", "a\u00a0b",
	"\u2028", "\xff\xfe", "%[src]", "%%", "a,b", "a;b", "; ", "{", "}", "if", "!", "..", ".", "/", "../x", "-", "@1", "unix@/x", "fd@3", "{{.}}", "<<",
	strings.Repeat("a", 256), strings.Repeat("a", 1<<16), "é", "\u202e", ".if 1", "a disabled", "127.0.0.1:80 backup", "\n", "\r", "", "*", "::", "0", "1", "80", "81",
	"443", "65535", "65536", "-1", "1e3", "0x50", "off", "tcp", "Y", "N", "/", "/a", "/a b", "/a%20b", "/a%", "/'\"", "/a;b?c=d&e=(f)!$*+,", "/certs/web.pem", "/certs/../web.pem",
	"/etc/shadow", "127.0.0.1", "127.0.0.1%\n", "fe80::1%eth0", "::1", "::ffff:1.2.3.4", "0.0.0.0", "10.0.0.1 ssl", "5s", "5m", "2", "256", "front", "bridge", "host",
}

// TestHostile puts each value into each label and into the names.
func TestHostile(t *testing.T) {
	t.Parallel()
	taken, all := 0, 0
	try := func(c *tracked) {
		all++
		if hold(t, c) {
			taken++
		}
	}
	for _, v := range nasty {
		for _, l := range Labels() {
			labels := pairs("lb.enable", "Y", "lb.publish", "81")
			labels[l.Name] = v
			try(web(2, labels))
		}
		try(web(2, map[string]string{"lb.enable": "Y", "lb.publish": "81", "lb." + v: v, v: v}))
		c := web(2, pairs("lb.enable", "Y", "lb.publish", "81"))
		c.name = plain(v)
		try(c)
		c = web(2, pairs("lb.enable", "Y", "lb.publish", "81"))
		c.networks[0].network = plain(v)
		try(c)
	}
	if taken == 0 || taken == all {
		t.Errorf("%d of %d containers were taken: the test is worthless", taken, all)
	}
}

// TestHostileInHAProxy gives all that was taken to the real parser, in one text.
func TestHostileInHAProxy(t *testing.T) {
	t.Parallel()
	var list []*tracked
	for i, v := range nasty {
		for j, l := range Labels() {
			n := i*len(Labels()) + j
			labels := pairs("lb.enable", "Y", "lb.publish", fmt.Sprint(10000+n))
			labels[l.Name] = v
			if c := web(n, labels); l.Name != "lb.dst_addr" || len(v) < 100 {
				list = append(list, c)
			}
		}
	}
	pem := filepath.Join(t.TempDir(), "web.pem")
	if err := os.WriteFile(pem, certificate(t), 0o600); err != nil {
		t.Fatal(err)
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		snapshot, text := textOf(t, h.Version, pem, list...)
		if n := len(snapshot.Offers); n < 40 || n == len(list) {
			t.Errorf("%d of %d containers are offered", n, len(list))
		}
		if err := h.Check(t, string(text)); err != nil {
			t.Error(err)
		}
	})
}

func FuzzHostile(f *testing.F) {
	for i, v := range nasty {
		f.Add(uint8(i), v, "web", v)
		f.Add(uint8(255), v, v, v)
	}
	f.Fuzz(func(t *testing.T, which uint8, value, container, other string) {
		labels := pairs("lb.enable", "Y", "lb.publish", "81", other, value, "lb."+other, value)
		if i := int(which); i < len(allLabels) {
			labels[allLabels[i].Name] = value
		}
		c := web(2, labels)
		c.name = plain(container)
		if c.name == "web1" {
			return // an engine's names are unique
		}
		hold(t, c)
	})
}

var allLabels = Labels()
