package supervisor

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/fnlb/fnlb/haproxy/conf"
)

// randomBundle is a configuration as somebody's own template could make it. Its text is written with quotes, escapes and comments that are
// others each time and mean the same.
type randomBundle struct {
	dir     string // of its files
	ports   [3]int // plain, TLS, that of the listen section
	port    int    // of the servers
	hashKey bool   // HAProxy knows it

	serverDefaults [3]string // of the defaults sections
	comment        int
	tunnel         int
	pools          []randomPool
	cert           int            // which certificate
	certFile       int            // and the file of it
	entries        map[int]string // of the map: the pool of a prefix
}

type randomPool struct {
	kind, name, from string
	lines            []string
	serverDefault    string // a default-server line in the midst of the servers
	defaultAt        int
	balance          string
	backups          bool // are all of its servers
	servers          []randomServer
}

type randomServer struct {
	name    string
	host    int // of 127.0.7.0/24
	form    string
	idLast  bool
	id      int // 0: none
	options []string
	many    int // of a server-template; 0: it is a server
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func newRandomBundle(r *rand.Rand, hashKey bool) *randomBundle {
	options := func() string {
		return pick(r, "", "check inter 200ms", "check inter 200ms rise 1 fall 3 weight 2", "check inter 200ms maxconn 50", "weight 3")
	}
	b := &randomBundle{hashKey: hashKey, entries: map[int]string{}, serverDefaults: [3]string{options(), options(), options()}}
	for i, name := range []string{"b0", "b1", "l0"} {
		p := randomPool{kind: pick(r, "backend", "listen"), name: name, from: pick(r, " from d0", " from d1", " from d2", "")}
		if i == 2 {
			p.kind = "listen"
		}
		p.balance = pick(r, "balance uri path-only\n  hash-type consistent", "balance uri\n  hash-type consistent", "balance hash path\n  hash-type consistent", "balance leastconn", "balance roundrobin", "", "balance random", pick(r, "balance first", "balance static-rr", "balance uri"))
		if r.IntN(2) == 0 {
			p.lines = append(p.lines, "option httpchk GET /")
		}
		if r.IntN(2) == 0 {
			p.serverDefault, p.defaultAt = options(), r.IntN(3)
		}
		p.backups = r.IntN(8) == 0
		if r.IntN(6) == 0 {
			p.lines = append(p.lines, "use-server s1 if { path_end 3 }")
		}
		for len(p.servers) < 2 || len(p.servers) < 6 && r.IntN(4) > 0 {
			b.add(r, &p)
		}
		if !slices.ContainsFunc(p.servers, func(s randomServer) bool { return s.name == "s1" }) {
			p.lines = slices.DeleteFunc(p.lines, func(l string) bool { return strings.HasPrefix(l, "use-server") })
		}
		b.pools = append(b.pools, p)
	}
	for n := range 6 {
		b.entries[n] = pick(r, "b0", "b1", "l0")
	}
	return b
}

// add makes a server, as most texts have them, or one as few have.
func (b *randomBundle) add(r *rand.Rand, p *randomPool) {
	hashed := hashes(p.balance)
	if !hashed && r.IntN(8) == 0 {
		if !slices.ContainsFunc(p.servers, func(s randomServer) bool { return s.many > 0 }) {
			p.servers = append(p.servers, randomServer{name: "t", host: 200, many: 1 + r.IntN(3)})
		}
		return
	}
	k := r.IntN(8)
	s := randomServer{name: fmt.Sprint("s", k), host: 1 + r.IntN(12), id: 10 + k*3, form: pick(r, "", "", "", "ipv4@")}
	if slices.ContainsFunc(p.servers, func(o randomServer) bool { return o.name == s.name }) {
		return
	}
	switch {
	case r.IntN(10) == 0 || !hashed && r.IntN(2) == 0:
		s.id = 0
	case r.IntN(12) == 0:
		s.id = 10 + r.IntN(8)*3 + 1<<20 // where others have it modulo 2^20
	}
	if slices.ContainsFunc(p.servers, func(o randomServer) bool { return o.id == s.id && s.id > 0 }) {
		return
	}
	if hashed && b.hashKey && r.IntN(2) == 0 {
		s.options = append(s.options, "hash-key "+pick(r, "addr-port", "addr-port", "id"))
	}
	if r.IntN(8) == 0 {
		s.options = append(s.options, pick(r, "backup", "disabled", "cookie c", "no-check", "slowstart 1s", "inter 300ms", "check", "no-backup"))
	}
	if p.backups {
		s.options = append(s.options, "backup")
	}
	s.weigh(r)
	p.servers = append(p.servers, s)
}

// hashes reports whether the path decides which server takes a request.
func hashes(balance string) bool {
	return strings.Contains(balance, "uri") || strings.Contains(balance, "path")
}

// weigh gives a server another weight or maxconn; weights differ so little that each server gets some of a hundred requests.
func (s *randomServer) weigh(r *rand.Rand) {
	s.options = slices.DeleteFunc(s.options, func(o string) bool { return strings.HasPrefix(o, "weight") || strings.HasPrefix(o, "maxconn") })
	if r.IntN(2) == 0 {
		s.options = append(s.options, "weight "+pick(r, "0", "1", "2", "4", "1", "2", "4", pick(r, "3", "3%")))
	}
	if r.IntN(8) == 0 {
		s.options = append(s.options, "weight "+pick(r, "1", "2")) // the last word on it holds
	}
	if r.IntN(2) == 0 {
		s.options = append(s.options, "maxconn "+pick(r, "0", "30", "60"))
	}
}

func (b *randomBundle) clone() *randomBundle {
	c := *b
	c.entries = maps.Clone(b.entries)
	c.pools = slices.Clone(b.pools)
	for i := range c.pools {
		c.pools[i].servers = slices.Clone(c.pools[i].servers)
		for j := range c.pools[i].servers {
			c.pools[i].servers[j].options = slices.Clone(c.pools[i].servers[j].options)
		}
	}
	return &c
}

// change makes the next configuration of this one: mostly what happens every day.
func (b *randomBundle) change(r *rand.Rand) *randomBundle {
	c := b.clone()
	for n := 1 + r.IntN(2); n > 0 || reflect.DeepEqual(b, c) && r.IntN(10) > 0; n-- {
		p := &c.pools[r.IntN(len(c.pools))]
		if len(p.servers) == 0 {
			c.add(r, p)
			continue
		}
		i := r.IntN(len(p.servers))
		s := &p.servers[i]
		switch r.IntN(16) {
		case 0, 1, 2, 14:
			c.add(r, p)
		case 3, 4, 15:
			p.servers = slices.Delete(p.servers, i, i+1)
		case 5:
			if s.many == 0 {
				s.host = 1 + r.IntN(12)
			}
		case 6:
			j := r.IntN(len(p.servers))
			if o := &p.servers[j]; o.many == 0 && s.many == 0 {
				o.host, s.host = s.host, o.host
			}
		case 7, 8:
			s.weigh(r)
		case 9:
			r.Shuffle(len(p.servers), func(i, j int) { p.servers[i], p.servers[j] = p.servers[j], p.servers[i] })
			c.certFile++ // the order alone is told from no comment
		case 10:
			c.entries[r.IntN(6)] = pick(r, "b0", "b1", "l0")
		case 11:
			c.cert, c.certFile = r.IntN(4), c.certFile+r.IntN(2)
		case 12:
			if s.many > 0 {
				s.many = 1 + r.IntN(3)
			} else {
				s.form, s.idLast = pick(r, "", "ipv4@"), !s.idLast
			}
		case 13:
			if r.IntN(2) == 0 {
				c.rare(r, p, s)
			}
		}
	}
	return c
}

func (b *randomBundle) rare(r *rand.Rand, p *randomPool, s *randomServer) {
	switch r.IntN(7) {
	case 0:
		b.comment++
	case 1:
		b.tunnel++
	case 2:
		p.from = pick(r, " from d0", " from d1", " from d2", "")
	case 3:
		i, j := r.IntN(3), r.IntN(3)
		b.pools[i], b.pools[j] = b.pools[j], b.pools[i]
	case 4:
		p.defaultAt = r.IntN(3)
	case 5:
		s.options = append(s.options, pick(r, "backup", "no-backup", "check", "no-check"))
	case 6:
		b.serverDefaults[r.IntN(3)] = pick(r, "", "weight 4", "check inter 200ms")
	}
}

// bundle writes the text, and what stands beside it.
func (b *randomBundle) bundle(r *rand.Rand, certs [][]byte) conf.Bundle {
	var t strings.Builder
	line := func(indent string, words string) {
		t.WriteString(indent)
		for i, w := range strings.Fields(words) {
			if i > 0 {
				t.WriteString(pick(r, " ", " ", "  ", "\t"))
			}
			t.WriteString(disguise(r, w))
		}
		t.WriteString(pick(r, "\n", "\n", "\n", " # server s9 127.0.0.1:1 \"\n", "#'\n", "\r\n", " \t\n", "\n\n  # else\n"))
	}
	text := func(lines string) {
		for l := range strings.Lines(lines) {
			if strings.TrimSpace(l) != "" {
				line(pick(r, "  ", "\t", ""), l)
			}
		}
	}
	line("", "global")
	text("nbthread 1")
	all := "mode http\ntimeout connect 5s\ntimeout client 30s\ntimeout server 30s\ntimeout check 10s\nretries 0\n"
	for i, name := range []string{"d0", "d1", "d2 from d0"} {
		line("", "defaults "+name)
		text(all)
		if o := b.serverDefaults[i]; o != "" {
			text("default-server " + o)
		}
		if i == 1 {
			text("balance leastconn")
		}
	}
	line("", "frontend f from d0")
	certFile := fmt.Sprintf("%d/x.pem", b.certFile)
	text(fmt.Sprintf("bind 127.0.0.1:%d\nbind 127.0.0.1:%d ssl crt %s\nhttp-after-response set-header x-pool %%[be_name]\n", b.ports[0], b.ports[1], filepath.Join(b.dir, certFile)))
	text(fmt.Sprintf("use_backend %%[path,map_beg(%s,b0)]\n", filepath.Join(b.dir, "m.map")))
	for _, p := range b.pools {
		line("", p.kind+" "+p.name+p.from)
		if p.name == "l0" {
			text(fmt.Sprintf("bind 127.0.0.1:%d", b.ports[2]))
		}
		text(p.balance)
		for _, l := range p.lines {
			text(l)
		}
		for i, s := range p.servers {
			if i == p.defaultAt && p.serverDefault != "" {
				text("default-server " + p.serverDefault)
			}
			text(s.line(b.port))
		}
		if len(p.servers) <= p.defaultAt && p.serverDefault != "" {
			text("default-server " + p.serverDefault)
		}
		if b.tunnel > 0 {
			text(fmt.Sprintf("timeout tunnel %dm", b.tunnel))
		}
	}
	fmt.Fprintf(&t, "# %d\n", b.comment)
	var entries strings.Builder
	for n := range 6 {
		fmt.Fprintf(&entries, "/p%d/ %s\n", n, b.entries[n])
	}
	return conf.Bundle{Main: []byte(t.String()), Files: map[string]conf.File{certFile: {Data: certs[b.cert]}, "m.map": {Data: []byte(entries.String())}}}
}

func (s randomServer) line(port int) string {
	if s.many > 0 {
		return fmt.Sprintf("server-template t 10-%d 127.0.7.%d:%d %s", 9+s.many, s.host, port, strings.Join(s.options, " "))
	}
	at := "127.0.7." + fmt.Sprint(s.host)
	if s.host == 12 {
		port = 1 // nobody answers there
	}
	options := strings.Join(s.options, " ")
	if s.id > 0 {
		if options = fmt.Sprintf("id %d %s", s.id, options); s.idLast {
			options = strings.Join(s.options, " ") + fmt.Sprint(" id ", s.id)
		}
	}
	return fmt.Sprintf("server %s %s%s:%d %s", s.name, s.form, at, port, options)
}

// disguise writes a word so that HAProxy reads the same one. Listen addresses stay, so that they can be found.
func disguise(r *rand.Rand, w string) string {
	if strings.HasPrefix(w, "127.0.0.1:") {
		return w
	}
	i := r.IntN(len(w) + 1)
	switch r.IntN(16) {
	case 0:
		return `"` + w + `"`
	case 1:
		return "'" + w + "'"
	case 2:
		return w[:i] + `'` + w[i:] + `'`
	case 3:
		return `"` + w[:i] + `"` + w[i:]
	case 4:
		i = min(i, len(w)-1)
		return w[:i] + fmt.Sprintf(`\x%02x`, w[i]) + w[i+1:]
	}
	return w
}
