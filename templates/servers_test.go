package templates

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/model"
)

// sameWithoutLoops renders a template with and without serverLoops: text, map of lines and errors must be the same, also at the limits.
func sameWithoutLoops(t *testing.T, source string, s model.State) (loops int, text string) {
	t.Helper()
	fast, errFast := read("t.tmpl", []byte(source), true)
	slow, errSlow := read("t.tmpl", []byte(source), false)
	if fmt.Sprint(errFast) != fmt.Sprint(errSlow) {
		t.Fatalf("%q: parsed %v, without loops %v", source, errFast, errSlow)
	}
	if errFast != nil {
		return 0, ""
	}
	for _, l := range []limits{
		{text: 4 << 20, lines: 1 << 16, values: 16 << 20}, {text: 100, lines: 1 << 16, values: 1 << 20}, {text: 1 << 20, lines: 3, values: 1 << 20},
	} {
		l.time = time.Hour // both, or neither
		fast.limits, slow.limits = l, l
		got, errGot := fast.Render(s, sampleGlobals(), abilities(t, "2.6"))
		want, errWant := slow.Render(s, sampleGlobals(), abilities(t, "2.6"))
		if fmt.Sprint(errGot) != fmt.Sprint(errWant) || string(got.Main) != string(want.Main) || !slices.Equal(got.Origin.Lines, want.Origin.Lines) {
			t.Fatalf("%s\ngives %v\n%s\n%v\nwithout loops %v\n%s\n%v", source, errGot, got.Main, got.Origin.Lines, errWant, want.Main, want.Origin.Lines)
		}
		if text == "" {
			text = string(got.Main)
		}
	}
	return len(fast.loops), text
}

// body writes the body of a loop over servers; what a serverLoop cannot do is rare in it.
func (w *writer) body(depth int, dot bool) {
	for range 1 + w.r.IntN(4) {
		field := []string{".Name", ".IP", ".Port", ".Address", ".ID", ".Weight", ".Weighted", "$s.Name", "$s.Weighted", "$s.Weight"}[w.r.IntN(10)]
		if dot {
			field = []string{".", "$s.Port", "$s.Weighted"}[w.r.IntN(3)]
		}
		kinds := 8
		if depth == 0 {
			kinds = 5
		}
		switch w.r.IntN(kinds) {
		case 0, 1:
			w.put(w.mark() + " server ")
		case 2, 3:
			w.action(field)
		case 4:
			if w.r.IntN(12) == 0 {
				w.action([]string{"quote $s.Name", "$x := $s.Port", "break", "printf \"%d\" $s.ID", ".Nothing", "$i", "template \"t\" .", "$.Stats", "$s"}[w.r.IntN(9)])
			}
		default:
			block := []string{"if", "with"}[w.r.IntN(2)]
			w.action(block + " " + field)
			w.body(depth-1, dot || block == "with")
			if w.r.IntN(2) == 0 {
				w.action("else")
				w.body(depth-1, dot)
			}
			w.action("end")
		}
		w.end()
	}
}

// TestServerLoops: a serverLoop does what text/template does, whatever stands in and around it.
func TestServerLoops(t *testing.T) {
	t.Parallel()
	s := sample(8081, addrs("192.0.2.1:80", "192.0.2.2:8080", "[2001:db8::1]:80", "192.0.2.4:80")...)
	for i, weight := range map[int]int{1: 50, 2: 0} {
		var err error
		if s.Servers[i].Weight, err = model.NewWeight(weight); err != nil {
			t.Fatal(err)
		}
	}
	empty := sample(8081)
	loops, rendered := 0, 0
	for seed := range uint64(2000) {
		w := &writer{r: rand.New(rand.NewPCG(seed, 7)), line: 1}
		w.put("{{define \"t\"}}x{{end}}")
		w.action([]string{"range $p := .Pools", "range $p := .Services", "with index .Pools 0", "range $p := .Listeners"}[w.r.IntN(4)])
		w.put(w.mark())
		w.action([]string{"range $i, $s := .Servers", "range $s := .Servers", "range $i, $s := .Backends", "range $s := $.Pools", "range $s := .Servers.X", "range $i, $s := slice .Servers 1"}[max(w.r.IntN(12)-6, 0)])
		w.body(2, false)
		if w.r.IntN(3) == 0 {
			w.action("else")
			w.items(1)
		}
		w.action("end")
		w.end()
		w.action("end")
		n, text := sameWithoutLoops(t, w.String(), s)
		sameWithoutLoops(t, w.String(), empty)
		if loops += n; n > 0 && strings.Contains(text, "server") {
			rendered++
		}
	}
	if rendered < 300 {
		t.Errorf("only %d templates had a loop that wrote servers, %d had one", rendered, loops)
	}
}

// TestOwnServerLoops: the built-in template, and what users of docker-loadbalancer have, are not left to text/template.
func TestOwnServerLoops(t *testing.T) {
	t.Parallel()
	if ours().loops == nil {
		t.Error("the built-in template has no serverLoop")
	}
	tmpl, err := Parse("users.tmpl", []byte("{{range .Services}}{{range $index, $backend := .Backends}}\n  server {{$backend.Name}} {{$backend.IP}}:{{.Port}} check{{end}}{{end}}"))
	if err != nil || len(tmpl.loops) != 1 {
		t.Errorf("a user's has %d, %v", len(tmpl.loops), err)
	}
	if _, err := Parse("spy.tmpl", []byte("{{"+loopName+" 0 .Services}}")); err == nil || !strings.Contains(err.Error(), "not defined") {
		t.Errorf("a template calls our function: %v", err)
	}
}
