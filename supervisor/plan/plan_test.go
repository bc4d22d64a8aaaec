package plan

import (
	"cmp"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/haproxy/conf"
)

const base = `global
  hard-stop-after 30m
frontend f
  bind 127.0.0.1:80
  default_backend s
backend s
  balance uri path-only
  hash-type consistent
  default-server inter 3s
  server a 192.0.2.1:80 id 5
  server b 192.0.2.2:80 id 9
`

func edited(text, old, new string) string { return strings.Replace(text, old, new, 1) }

func TestMake(t *testing.T) {
	peers := func(addr string) string { return "peers p\n  server other " + addr + "\n" + base }
	hashed := func(lines ...string) string {
		return "backend h\n  balance uri\n  hash-type consistent\n  " + strings.Join(lines, "\n  ") + "\n"
	}
	static := func(line string) string { return "backend r\n  balance static-rr\n  " + line + "\n" }
	backups := func(names ...string) string {
		text := "backend r\n"
		for _, name := range names {
			text += "  server " + name + " 192.0.2." + strconv.Itoa(int(name[0])) + ":80 backup\n"
		}
		return text
	}
	tls := func(path string) string {
		return edited(base, "bind 127.0.0.1:80", "bind 127.0.0.1:80 ssl crt /run/"+path+" alpn h2")
	}
	mapped := func(path string) string {
		return edited(base, "default_backend s", "use_backend %[path,map_beg(/run/"+path+",s)]")
	}
	two := func(first, second string) string {
		return edited(mapped(first), "use_backend", "use_backend %[path,map_str(/run/"+second+")] if METH_GET\n  use_backend")
	}
	routed := func(path, server string) string {
		return "frontend f\n  bind 127.0.0.1:80\n  use_backend %[path,map_beg(/run/" + path + ")]\nbackend s\n  server " + server + " 192.0.2." + strconv.Itoa(int(server[0])) + ":80\nbackend t\n"
	}
	file := func(name, data string) map[string]conf.File { return map[string]conf.File{name: {Data: []byte(data)}} }
	edit := func(old, new string) string { return edited(base, old, new) }
	tests := map[string]struct {
		was   string // base where it is empty
		text  string
		had   map[string]conf.File
		files map[string]conf.File
		names Names
		want  []string
		live  bool // without a reload
		steps []Step
	}{
		"nothing": {text: base, live: true},
		"server added": {text: base + "  server c 192.0.2.3:80 id 7 weight 5 check\n", want: []string{"server-added s/c"}, live: true,
			steps: []Step{{Kind: Add, Backend: "s", Server: "c", Address: "192.0.2.3:80", Options: strings.Fields("check id 7 inter 3s weight 5"), Checked: true}}},
		"another option":       {text: base + "  server c 192.0.2.3:80 id 7 cookie x\n", want: []string{"server-added s/c", "server-option s/c cookie"}},
		"without id":           {text: base + "  server c 192.0.2.3:80\n", want: []string{"server-added s/c", "server-option s/c without id"}},
		"a backup":             {text: base + "  server c 192.0.2.3:80 id 7 backup\n", want: []string{"server-added s/c", "server-option s/c backup"}},
		"a value of HAProxy's": {text: base + "  server c 192.0.2.3:80 id 7 maxconn \"$N\"\n", want: []string{"server-added s/c", "server-option s/c maxconn"}},
		"a peer and a server":  {text: peers("192.0.2.9:1024") + "  server c 192.0.2.3:80 id 7\n", was: peers("192.0.2.8:1024"), want: []string{"server-added s/c", "settings"}},
		"within .if":           {text: base + "backend o\n.if 0\n  server c 192.0.2.3:80 id 7\n.endif\n", was: base + "backend o\n.if 0\n.endif\n", want: []string{"server-added o/c", "not-dynamic .if"}},
		"external checks":      {text: base + "  option external-check\n  server c 192.0.2.3:80 id 7\n", was: base + "  option external-check\n", want: []string{"server-added s/c", "not-dynamic option external-check"}},
		"its address goes to an earlier backend": {
			was: "backend r\n  server x 192.0.2.7:80\nbackend s\n  server a 192.0.2.1:80\n", text: "backend r\n  server x 192.0.2.7:80\n  server y 192.0.2.1:80\nbackend s\n",
			want: []string{"server-added r/y", "server-removed s/a"}, live: true, steps: []Step{
				{Kind: Remove, Backend: "s", Server: "a", Address: "192.0.2.1:80"}, {Kind: Add, Backend: "r", Server: "y", Address: "192.0.2.1:80"},
			}},
		"a name":                 {text: base + "  server c web:80 id 7\n", want: []string{"server-added s/c", "server-option s/c web:80"}},
		"weight":                 {text: edit("id 5", "id 5 weight 20"), want: []string{"server-changed s/a"}, live: true, steps: []Step{{Kind: Weight, Backend: "s", Server: "a", Value: "20"}}},
		"words in another order": {text: edit("192.0.2.1:80 id 5", "192.0.2.1:80 inter 3s id 5"), want: []string{"server-changed s/a"}, live: true},
		"its address is given on": {text: edit("server a 192.0.2.1:80 id 5", "server c 192.0.2.1:80 id 6"), want: []string{"server-added s/c", "server-removed s/a"}, live: true, steps: []Step{
			{Kind: Remove, Backend: "s", Server: "a", Address: "192.0.2.1:80", Options: strings.Fields("id 5 inter 3s")},
			{Kind: Add, Backend: "s", Server: "c", Address: "192.0.2.1:80", Options: strings.Fields("id 6 inter 3s")},
		}},
		"one for another": {text: edit("server a 192.0.2.1:80 id 5", "server c 192.0.2.3:80 id 6"), want: []string{"server-added s/c", "server-removed s/a"}, live: true, steps: []Step{
			{Kind: Add, Backend: "s", Server: "c", Address: "192.0.2.3:80", Options: strings.Fields("id 6 inter 3s")},
			{Kind: Remove, Backend: "s", Server: "a", Address: "192.0.2.1:80", Options: strings.Fields("id 5 inter 3s")},
		}},
		"server removed":          {text: edit("  server a 192.0.2.1:80 id 5\n", ""), want: []string{"server-removed s/a"}, live: true, steps: []Step{{Kind: Remove, Backend: "s", Server: "a", Address: "192.0.2.1:80", Options: strings.Fields("id 5 inter 3s")}}},
		"server moved":            {text: edit("192.0.2.1:80 id 5", "192.0.2.8:81 id 5 check weight 9"), was: edit("id 5", "id 5 check"), want: []string{"server-changed s/a"}, live: true, steps: []Step{{Kind: Move, Backend: "s", Server: "a", Address: "192.0.2.8:81", Checked: true}, {Kind: Weight, Backend: "s", Server: "a", Value: "9"}}},
		"to a freed address":      {was: base, text: edited(edit("192.0.2.1:80", "192.0.2.8:80"), "id 9\n", "id 9\n  server c 192.0.2.1:80 id 7\n"), want: []string{"server-added s/c", "server-changed s/a"}, live: true, steps: []Step{{Kind: Move, Backend: "s", Server: "a", Address: "192.0.2.8:80"}, {Kind: Add, Backend: "s", Server: "c", Address: "192.0.2.1:80", Options: strings.Fields("id 7 inter 3s")}}},
		"a weight that is a part": {text: edit("id 5", "id 5 weight 50%"), want: []string{"server-changed s/a"}},
		"listeners swap": {
			was: edited(base, "bind 127.0.0.1:80", "bind 127.0.0.1:80\n  bind 127.0.0.1:81 accept-proxy"), text: edited(base, "bind 127.0.0.1:80", "bind 127.0.0.1:81\n  bind 127.0.0.1:80 accept-proxy") + "  server c 192.0.2.3:80 id 7\n",
			want: []string{"server-added s/c", "listeners f 127.0.0.1:81, f 127.0.0.1:80 accept-proxy"},
		},
		"named by use-server":    {was: base + "  use-server a if { path /a }\n", text: edit("  server a 192.0.2.1:80 id 5\n", "") + "  use-server a if { path /a }\n", want: []string{"server-removed s/a", "server-named s/a"}},
		"named by a fetch":       {was: base + "  http-request deny unless { srv_is_up(s/a) }\n", text: edit("  server a 192.0.2.1:80 id 5\n", "") + "  http-request deny unless { srv_is_up(s/a) }\n", want: []string{"server-removed s/a", "server-named s/a"}},
		"named by track":         {was: base + "backend r\n  server x 192.0.2.9:80 track s/a\n", text: edit("  server a 192.0.2.1:80 id 5\n", "") + "backend r\n  server x 192.0.2.9:80 track s/a\n", want: []string{"server-removed s/a", "server-named s/a"}},
		"moved, with another id": {text: edit("192.0.2.1:80 id 5", "192.0.2.8:80 id 6"), want: []string{"server-changed s/a"}},
		"moved to a name":        {text: edit("192.0.2.1:80", "web:80"), want: []string{"server-changed s/a"}},
		"drained":                {text: edit("id 5", "id 5 weight 0"), want: []string{"server-changed s/a"}, live: true, steps: []Step{{Kind: Weight, Backend: "s", Server: "a", Value: "0"}}},
		"more of a server-template": {
			was: "backend r\n  server-template w 2 192.0.2.7:80 check\n", text: "backend r\n  server-template w 3 192.0.2.7:80 check\n",
			want: []string{"server-added r/w3"}, live: true, steps: []Step{{Kind: Add, Backend: "r", Server: "w3", Address: "192.0.2.7:80", Options: []string{"check"}, Checked: true}},
		},
		"a range instead of a number":    {was: "backend r\n  server-template w 2 192.0.2.7:80\n", text: "backend r\n  server-template w 1-2 192.0.2.7:80\n", want: []string{"settings"}},
		"a server-template of names":     {was: "backend r\n  server-template w 2 web:80\n", text: "backend r\n  server-template w 3 web:80\n", want: []string{"server-added r/w3", "server-option r/w3 web:80"}},
		"automatic ids by the place":     {was: hashed("server a 192.0.2.1:80 id 30", "server b 192.0.2.2:80"), text: hashed("server b 192.0.2.2:80"), want: []string{"server-removed h/a", "server-option h/b without id"}},
		"an address, written otherwise":  {text: edit("192.0.2.1:80 id 5", "ipv4@192.0.2.1:80 id 5"), want: []string{"server-changed s/a"}, live: true},
		"a weight where none can change": {was: static("server a 192.0.2.1:80"), text: static("server a 192.0.2.1:80 weight 9"), want: []string{"server-changed r/a", "not-dynamic r static-rr"}},
		"backups change places":          {was: backups("a", "b", "c"), text: backups("b", "a"), want: []string{"server-removed r/c", "server-order r"}},
		"a backup goes": {was: backups("a", "b", "c"), text: backups("b", "c"), want: []string{"server-removed r/a"}, live: true,
			steps: []Step{{Kind: Remove, Backend: "r", Server: "a"}}},
		"automatic ids that stay":   {was: hashed("server a 192.0.2.1:80", "server b 192.0.2.2:80"), text: hashed("server a 192.0.2.1:80"), want: []string{"server-removed h/b"}, live: true, steps: []Step{{Kind: Remove, Backend: "h", Server: "b"}}},
		"automatic ids that change": {was: hashed("server a 192.0.2.1:80", "server b 192.0.2.2:80"), text: hashed("server b 192.0.2.2:80"), want: []string{"server-removed h/a", "server-option h/b without id"}},
		"a newcomer takes an id":    {text: edit("id 9\n", "id 10\n  server c 192.0.2.3:80 id 9\n"), want: []string{"server-added s/c", "id-collision s/b"}},
		"listener":                  {text: edit("bind 127.0.0.1:80", "bind 127.0.0.1:81"), want: []string{"listeners +f 127.0.0.1:81, -f 127.0.0.1:80"}},
		"setting":                   {text: edit("30m", "20m"), want: []string{"settings"}},
		"comment":                   {text: base + "# word\n", want: []string{"settings"}},
		"certificate under another name": {was: tls("1/x.pem"), had: file("1/x.pem", "old"), text: tls("2/x.pem"), files: file("2/x.pem", "new"), names: Names{"/run/1/x.pem": "/run/0/x.pem"},
			want: []string{"certificate 2/x.pem"}, live: true, steps: []Step{{Kind: Cert, File: "/run/0/x.pem", Data: []byte("new")}}},
		"certificate, same name":        {was: tls("x.pem"), had: file("x.pem", "old"), text: tls("x.pem"), files: file("x.pem", "new"), want: []string{"certificate x.pem"}, live: true, steps: []Step{{Kind: Cert, File: "/run/x.pem", Data: []byte("new")}}},
		"certificate that is too large": {was: tls("x.pem"), had: file("x.pem", "old"), text: tls("x.pem"), files: file("x.pem", strings.Repeat("x", maxPayload+1)), want: []string{"files x.pem"}},
		"certificate and another port":  {was: tls("1/x.pem"), had: file("1/x.pem", "old"), text: edited(tls("2/x.pem"), ":80 ssl", ":81 ssl"), files: file("2/x.pem", "new"), want: []string{"certificate 2/x.pem", "listeners +f 127.0.0.1:81, -f 127.0.0.1:80"}},
		"TLS begins":                    {text: tls("x.pem"), files: file("x.pem", "new"), want: []string{"files x.pem", "settings"}},
		"map and a server": {was: mapped("m.map"), had: file("m.map", "/a s"), text: mapped("m.map") + "  server c 192.0.2.3:80 id 7\n", files: file("m.map", "/b s"), want: []string{"server-added s/c", "map m.map"}, live: true,
			steps: []Step{{Kind: Add, Backend: "s", Server: "c", Address: "192.0.2.3:80", Options: strings.Fields("id 7 inter 3s")}, {Kind: Map, File: "/run/m.map", Data: []byte("/b s"), Was: []byte("/a s")}}},
		"a backend passes to other entries": {was: routed("1/m.map", "a"), had: file("1/m.map", "/x s\n/y t\n"), text: routed("2/m.map", "c"), files: file("2/m.map", "/y t\n/z s\n"),
			want: []string{"server-added s/c", "server-removed s/a", "map m.map"}, live: true, steps: []Step{
				{Kind: Map, File: "/run/1/m.map", Data: []byte("/y t\n"), Was: []byte("/x s\n/y t\n")},
				{Kind: Remove, Backend: "s", Server: "a", Address: "192.0.2.97:80"}, {Kind: Add, Backend: "s", Server: "c", Address: "192.0.2.99:80"},
				{Kind: Map, File: "/run/1/m.map", Data: []byte("/y t\n/z s\n"), Was: []byte("/y t\n")},
			}},
		"another entry takes it over": {was: routed("1/m.map", "a"), had: file("1/m.map", "/x s\n/y t\n"), text: routed("2/m.map", "c"), files: file("2/m.map", "/y s\n"),
			want: []string{"server-added s/c", "server-removed s/a", "map m.map"}, live: true, steps: []Step{
				{Kind: Map, File: "/run/1/m.map", Data: []byte("/y t\n"), Was: []byte("/x s\n/y t\n")},
				{Kind: Remove, Backend: "s", Server: "a", Address: "192.0.2.97:80"}, {Kind: Add, Backend: "s", Server: "c", Address: "192.0.2.99:80"},
				{Kind: Map, File: "/run/1/m.map", Data: []byte("/y s\n"), Was: []byte("/y t\n")},
			}},
		"entries exchange their backends": {was: routed("1/m.map", "a") + "  server e 192.0.2.6:80\n", had: file("1/m.map", "/x s\n/y t\n"), text: routed("2/m.map", "c") + "  server f 192.0.2.5:80\n", files: file("2/m.map", "/x t\n/y s\n"),
			want: []string{"server-added s/c, t/f", "server-removed s/a, t/e", "map m.map", "exchanged s, t"}},
		"an entry stays": {was: routed("1/m.map", "a"), had: file("1/m.map", "/x s\n/y s\n"), text: routed("2/m.map", "c"), files: file("2/m.map", "/x s\n/z s\n"),
			want: []string{"server-added s/c", "server-removed s/a", "map m.map"}, live: true, steps: []Step{
				{Kind: Add, Backend: "s", Server: "c", Address: "192.0.2.99:80"},
				{Kind: Map, File: "/run/1/m.map", Data: []byte("/x s\n/z s\n"), Was: []byte("/x s\n/y s\n")},
				{Kind: Remove, Backend: "s", Server: "a", Address: "192.0.2.97:80"},
			}},
		"a file for both": {was: mapped("m.map") + "  http-request deny if { path -f /run/m.map }\n", had: file("m.map", "/a s"), text: mapped("m.map") + "  http-request deny if { path -f /run/m.map }\n", files: file("m.map", "/b s"), want: []string{"files m.map"}},
		"certificate":     {text: base, files: map[string]conf.File{"certs/x.pem": {Data: []byte("x")}}, want: []string{"files certs/x.pem"}},
		"another section, same lines": {text: edit("\nbackend s", "\nbackend t"), want: []string{"server-added t/a, t/b", "server-removed s/a, s/b",
			"backend-added t (HAProxy makes no backend at run time)", "backend-removed s (HAProxy deletes no backend at run time)"}},
		"a backend and a setting": {text: edit("30m", "20m") + "backend t\n  balance leastconn\n", want: []string{"backend-added t (HAProxy makes no backend at run time)", "settings"}},
		"a map under another name": {was: mapped("1/m.map"), had: file("1/m.map", "/a s"), text: mapped("2/m.map"), files: file("2/m.map", "/b s"), names: Names{"/run/1/m.map": "/run/0/m.map"},
			want: []string{"map m.map"}, live: true, steps: []Step{{Kind: Map, File: "/run/0/m.map", Data: []byte("/b s"), Was: []byte("/a s")}}},
		"a map under another name, and a server": {was: mapped("1/m.map") + "  server c 192.0.2.3:80 id 7\n", had: file("1/m.map", "/a s"), text: mapped("2/m.map"), files: file("2/m.map", "/b s"),
			want: []string{"server-removed s/c", "map m.map"}, live: true, steps: []Step{
				{Kind: Map, File: "/run/1/m.map", Data: []byte("/b s"), Was: []byte("/a s")},
				{Kind: Remove, Backend: "s", Server: "c", Address: "192.0.2.3:80", Options: strings.Fields("id 7 inter 3s")},
			}},
		"maps in the order of their names": {was: two("1/m.map", "9/a.map"), had: map[string]conf.File{"1/m.map": {Data: []byte("/a s")}, "9/a.map": {}}, text: two("2/m.map", "8/a.map"), files: map[string]conf.File{"2/m.map": {Data: []byte("/b s")}, "8/a.map": {Data: []byte("/c s")}},
			want: []string{"map m.map, a.map"}, live: true, steps: []Step{
				{Kind: Map, File: "/run/9/a.map", Data: []byte("/c s"), Was: []byte{}}, {Kind: Map, File: "/run/1/m.map", Data: []byte("/b s"), Was: []byte("/a s")},
			}},
		"a map under another base name": {was: mapped("1/m.map"), had: file("1/m.map", "/a s"), text: mapped("2/n.map"), files: file("2/n.map", "/b s"), want: []string{"files 2/n.map, -1/m.map", "settings"}},
		"a map under another name, otherwise used": {was: mapped("1/m.map"), had: file("1/m.map", "/a s"), text: edited(mapped("2/m.map"), "map_beg(", "map_str("), files: file("2/m.map", "/b s"),
			want: []string{"map m.map", "settings"}},
		"a map instead of two": {was: two("1/m.map", "2/m.map"), had: map[string]conf.File{"1/m.map": {}, "2/m.map": {}}, text: mapped("3/m.map"), files: file("3/m.map", "/b s"),
			want: []string{"files 3/m.map, -1/m.map, -2/m.map", "settings"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := Make(bundleOf(t, cmp.Or(test.was, base), test.had), bundleOf(t, test.text, test.files), test.names)
			if got := p.Reasons(); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if live := len(p.Reload) == 0; live != test.live {
				t.Errorf("reload for %v", p.Reload)
			}
			if !reflect.DeepEqual(p.Steps, test.steps) {
				t.Errorf("steps %+v, want %+v", p.Steps, test.steps)
			}
		})
	}
}

func bundleOf(t *testing.T, text string, files map[string]conf.File) Bundle {
	t.Helper()
	b, err := Read(conf.Bundle{Main: []byte(text), Files: files})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestManySubjects(t *testing.T) {
	r := Reason{Cause: ServerAdded, About: strings.Fields("a b c d e f g")}
	if got := r.String(); got != "server-added a, b, c, d, e, and 2 more" {
		t.Error(got)
	}
}

func TestUnreadable(t *testing.T) {
	if _, err := Read(conf.Bundle{Main: []byte("global\n  log \"x\n")}); err == nil {
		t.Error("a text with an open quote was read")
	}
}

// TestDiffering: what is cut off is the same in both lists, and no name of what is left stands in it.
func TestDiffering(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	list := func(n int) (all []conf.Member) {
		for range n {
			name := string(rune('a' + random.IntN(9)))
			all = append(all, conf.Member{Server: conf.Server{Backend: "b", Name: name, Words: []string{"server", name, string(rune('0' + random.IntN(2)))}}})
		}
		return all
	}
	cut := 0
	for range 20_000 {
		front, back := list(random.IntN(4)), list(random.IntN(4))
		was := slices.Concat(front, list(random.IntN(3)), back)
		now := slices.Concat(front, list(random.IntN(3)), back)
		before, after := differing(was, now)
		n := len(was) - len(before)
		if n != len(now)-len(after) {
			t.Fatalf("%v and %v: %d and %d are left", was, now, len(before), len(after))
		}
		first := 0
		for first < n && equal(&was[first], &now[first]) {
			first++
		}
		for ; first >= 0; first-- { // where the cut was made cannot be told from the lists alone
			rest := n - first
			if slices.EqualFunc(was[first:len(was)-rest], before, func(a, b conf.Member) bool { return equal(&a, &b) }) &&
				slices.EqualFunc(now[first:len(now)-rest], after, func(a, b conf.Member) bool { return equal(&a, &b) }) &&
				slices.EqualFunc(was[len(was)-rest:], now[len(now)-rest:], func(a, b conf.Member) bool { return equal(&a, &b) }) {
				break
			}
		}
		if first < 0 {
			t.Fatalf("%v and %v: %v and %v are no middle of theirs", was, now, before, after)
		}
		if n == 0 {
			continue
		}
		cut++
		for _, m := range slices.Concat(before, after) {
			same := func(o conf.Member) bool { return o.Name == m.Name }
			if slices.ContainsFunc(was[:first], same) || slices.ContainsFunc(was[first+len(before):], same) {
				t.Fatalf("%v and %v: %s is cut off and left", was, now, m.Name)
			}
		}
	}
	if cut < 1000 {
		t.Errorf("only %d were cut", cut)
	}
}
