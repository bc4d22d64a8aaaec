package templates

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// writer makes random templates in which every bit of text names the line that it stands on.
type writer struct {
	strings.Builder
	r         *rand.Rand
	line      int
	templates int // how many are defined so far
}

func (w *writer) put(s string) {
	w.WriteString(s)
	w.line += strings.Count(s, "\n")
}

// action writes {{s}} with random trimming.
func (w *writer) action(s string) {
	left, right := "{{", "}}"
	if w.r.IntN(3) == 0 {
		left = "{{- "
	}
	if w.r.IntN(3) == 0 {
		right = " -}}"
	}
	w.put(left + s + right)
}

func (w *writer) mark() string { return fmt.Sprintf("L%d.", w.line) }

func (w *writer) end() {
	if w.r.IntN(4) > 0 {
		w.put([]string{"\n", "\n", "\n  ", "\n\n", "\r\n\t"}[w.r.IntN(5)])
	}
}

func (w *writer) items(depth int) {
	for range 1 + w.r.IntN(5) {
		w.item(depth)
		w.end()
	}
}

func (w *writer) item(depth int) {
	kinds := 12
	if depth == 0 {
		kinds = 7
	}
	switch w.r.IntN(kinds) {
	case 0, 1:
		w.put(w.mark() + " text ")
	case 2:
		w.action(fmt.Sprintf("%q", w.mark()))
	case 3:
		w.action(fmt.Sprintf("print %q \"\\n\" %q", w.mark(), w.mark()))
	case 4: // an action of more than one line counts for its first
		w.action(fmt.Sprintf("printf\n \"%%s%%s\"\n %q %q", w.mark(), "\n"+w.mark()))
	case 5:
		w.action("/* a comment\n of two lines */")
	case 6:
		if w.templates > 0 {
			w.action(fmt.Sprintf("template \"t%d\" $", w.r.IntN(w.templates)))
		} else {
			w.action("$x := 1")
		}
	case 7, 8:
		w.action([]string{"range $.Management.Paths", "range 3", "range $.Listeners"}[w.r.IntN(3)])
		w.items(depth - 1)
		if w.r.IntN(3) == 0 {
			w.action("if $.Management.Used")
			w.put(w.mark())
			w.action([]string{"break", "continue"}[w.r.IntN(2)])
			w.action("end")
			w.items(0)
		}
		if w.r.IntN(3) == 0 {
			w.action("else")
			w.items(depth - 1)
		}
		w.action("end")
	default:
		block := []string{"if $.Stats", "if $.Management.Used", "with $.Stats", "with $.Management", "if not $.Stats"}[w.r.IntN(5)]
		w.action(block)
		w.items(depth - 1)
		if w.r.IntN(2) == 0 {
			w.action("else " + strings.Fields(block)[0] + " $.Process.TLS")
			w.items(depth - 1)
			w.action("else")
			w.items(depth - 1)
		}
		w.action("end")
	}
}

var markOf = regexp.MustCompile(`L(\d+)\.`)

// TestLines: in random templates each rendered line is led back to the line of the template that made its beginning.
func TestLines(t *testing.T) {
	t.Parallel()
	seen := 0
	for seed := range uint64(1000) {
		w := &writer{r: rand.New(rand.NewPCG(seed, 1)), line: 1}
		for i := range w.r.IntN(3) {
			w.action(fmt.Sprintf("define \"t%d\"", i))
			w.items(2)
			w.action("end")
			w.end()
			w.templates = i + 1
		}
		w.put(w.mark())
		w.items(4)
		tmpl, err := Parse("random.tmpl", []byte(w.String()))
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, w.String())
		}
		b, err := tmpl.Render(sample(8081, addrs("192.0.2.1:80")...), sampleGlobals(), abilities(t, "2.6"))
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, w.String())
		}
		lines := strings.Split(strings.TrimSuffix(string(b.Main), "\n"), "\n")
		if len(lines) != len(b.Origin.Lines) {
			t.Fatalf("seed %d: %d lines, the map has %d", seed, len(lines), len(b.Origin.Lines))
		}
		for i, line := range lines {
			m := markOf.FindStringSubmatch(line)
			if m == nil {
				if b.Origin.Line(i+1) == 0 {
					t.Errorf("seed %d: line %d has no origin", seed, i+1)
				}
				continue
			}
			seen++
			if want, err := strconv.Atoi(m[1]); err != nil || b.Origin.Line(i+1) != want {
				t.Fatalf("seed %d: line %d, %q, comes from %d\n--- template\n%s\n--- text\n%s", seed, i+1, line, b.Origin.Line(i+1), w.String(), b.Main)
			}
		}
	}
	if seen < 10_000 {
		t.Errorf("only %d lines were looked at", seen)
	}
}

// TestLinesOfBuiltin: each line of the built-in template's text stands at its origin, letter for letter up to the first action.
func TestLinesOfBuiltin(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("haproxy.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	from := strings.Split(string(source), "\n")
	for name, c := range cases() {
		b, err := ours().Render(c.state, c.globals, abilities(t, c.version))
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(strings.TrimSuffix(string(b.Main), "\n"), "\n") {
			want, _, _ := strings.Cut(from[b.Origin.Line(i+1)-1], "{{")
			if line != "" && !strings.HasPrefix(line, want) {
				t.Errorf("%s: line %d, %q, comes from line %d, %q", name, i+1, line, b.Origin.Line(i+1), want)
			}
		}
	}
}
