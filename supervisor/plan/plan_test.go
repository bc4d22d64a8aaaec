package plan

import (
	"cmp"
	"reflect"
	"slices"
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

func TestMake(t *testing.T) {
	peers := func(addr string) string { return "peers p\n  server other " + addr + "\n" + base }
	edit := func(old, new string) string { return strings.Replace(base, old, new, 1) }
	tests := map[string]struct {
		was   string // base where it is empty
		text  string
		files map[string]conf.File
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
		"server removed":              {text: edit("  server a 192.0.2.1:80 id 5\n", ""), want: []string{"server-removed s/a"}, live: true, steps: []Step{{Kind: Remove, Backend: "s", Server: "a", Address: "192.0.2.1:80", Options: strings.Fields("id 5 inter 3s")}}},
		"server moved":                {text: edit("192.0.2.1:80", "192.0.2.8:80"), want: []string{"server-changed s/a"}},
		"a newcomer takes an id":      {text: edit("id 9\n", "id 10\n  server c 192.0.2.3:80 id 9\n"), want: []string{"server-added s/c", "id-collision s/b"}},
		"listener":                    {text: edit("bind 127.0.0.1:80", "bind 127.0.0.1:81"), want: []string{"listeners +f 127.0.0.1:81, -f 127.0.0.1:80"}},
		"setting":                     {text: edit("30m", "20m"), want: []string{"settings"}},
		"comment":                     {text: base + "# word\n", want: []string{"settings"}},
		"certificate":                 {text: base, files: map[string]conf.File{"certs/x.pem": {Data: []byte("x")}}, want: []string{"files certs/x.pem"}},
		"another section, same lines": {text: edit("\nbackend s", "\nbackend t"), want: []string{"server-added t/a, t/b", "server-removed s/a, s/b", "settings"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := Make(conf.Bundle{Main: []byte(cmp.Or(test.was, base))}, conf.Bundle{Main: []byte(test.text), Files: test.files})
			if err != nil {
				t.Fatal(err)
			}
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

func TestManySubjects(t *testing.T) {
	r := Reason{Cause: ServerAdded, About: strings.Fields("a b c d e f g")}
	if got := r.String(); got != "server-added a, b, c, d, e, and 2 more" {
		t.Error(got)
	}
}

func TestUnreadable(t *testing.T) {
	if _, err := Make(conf.Bundle{Main: []byte(base)}, conf.Bundle{Main: []byte("global\n  log \"x\n")}); err == nil {
		t.Error("a text with an open quote was planned")
	}
}
