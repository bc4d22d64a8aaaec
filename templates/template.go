package templates

import (
	"bytes"
	_ "embed" // the built-in template
	"fmt"
	"sync"
	"text/template"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/model"
)

// The limits of a template and of one call of a function. They hold memory and stack far below what would take the process down.
const (
	MaxSource  = 1 << 20 // bytes of a template; its parser recurses
	maxNesting = 500     // of if, with, range and else within each other
	maxCalls   = 200     // of templates within each other
	maxValue   = 1 << 20 // bytes of one value that a function makes
	maxArgs    = 64      // of one call that makes a string, and verbs of one printf
)

// limits are those of one rendering. They are the same for every template; tests have smaller ones.
type limits struct {
	time   time.Duration
	text   int // bytes of the whole text
	lines  int // of the whole text
	values int // bytes of all values that functions make
}

var standard = limits{time: 5 * time.Second, text: 64 << 20, lines: 2 << 20, values: 256 << 20}

//go:embed haproxy.tmpl
var builtin string

// Template is a parsed template. It is safe for concurrent use.
type Template struct {
	name   string
	source []byte
	text   *template.Template
	marks  marks
	fast   bool
	loops  []serverLoop
	limits limits

	mu    sync.Mutex
	known []mapped // of the last rendering
}

// Builtin is the template that fnlb brings along.
func Builtin() *Template {
	t, err := Parse("built-in haproxy.tmpl", []byte(builtin))
	if err != nil {
		panic(err) // every test renders it
	}
	return t
}

// Parse reads a user's template; name stands in its errors, with the line. The functions are those of text/template, and what
// Functions lists. An *Error says what is wrong, and where.
func Parse(name string, source []byte) (*Template, error) { return read(name, source, true) }

// read is Parse; fast puts a serverLoop before loops that can be one.
func read(name string, source []byte, fast bool) (*Template, error) {
	t := &Template{name: name, source: source, marks: marks{}, fast: fast, limits: standard}
	switch {
	case len(source) > MaxSource:
		return nil, t.errorAt(0, fmt.Errorf("it has more than %d bytes", MaxSource))
	case len(bytes.TrimSpace(source)) == 0:
		return nil, t.errorAt(0, fmt.Errorf("it is empty"))
	}
	err := guard(func() (err error) {
		t.text, err = template.New(name).Option("missingkey=error").Funcs((&budget{}).functions()).Parse(string(source))
		return err
	})
	if err != nil {
		return nil, t.wrap(err)
	}
	starts := lineStarts(source)
	for _, part := range t.text.Templates() {
		if part.Tree == nil {
			continue
		}
		if line, err := t.part(part.Root, starts); err != nil {
			return nil, t.errorAt(line, err)
		}
	}
	if line := rangesOverAll(t.text.Root); line > 0 {
		return nil, t.errorAt(line, fmt.Errorf("it ranges over the whole of the data, as templates of docker-loadbalancer did in 2018; "+
			"write {{range .Services}} with .Publish.Port and .Backends (docs/templates.md)"))
	}
	return t, nil
}

// Render gives the bundle of s, its map of lines and its notes among it. The text depends on nothing but the arguments. An error of
// the template itself is an *Error.
func (t *Template) Render(s model.State, g Globals, a conf.Abilities) (conf.Bundle, error) {
	t.mu.Lock()
	known := t.known
	t.mu.Unlock()
	d, maps, err := newData(s, g, a, known)
	if err != nil {
		return conf.Bundle{}, err
	}
	t.mu.Lock()
	t.known = maps
	t.mu.Unlock()
	run, err := t.text.Clone()
	if err != nil {
		return conf.Bundle{}, err
	}
	run.Funcs((&budget{left: t.limits.values}).functions())
	out := output{of: t, end: time.Now().Add(t.limits.time)}
	run.Funcs(out.servers())
	out.text.Grow(4096 + 80*len(s.Servers)) // about what is needed
	if err := guard(func() error { return run.Execute(&out, d) }); err != nil {
		return conf.Bundle{}, t.wrap(err)
	}
	b := conf.Bundle{Origin: conf.Origin{Template: t.name, Text: t.source, Lines: out.finish()}}
	b.Main, b.Notes = translate(out.text.Bytes())
	addMaps(&b, maps)
	if d.Management.Used && !bytes.Contains(b.Main, []byte(d.Management.Socket)) {
		b.Notes = append(b.Notes, conf.Note{
			Reason: "it has no rule for /1/lb/…, so on the traffic port these requests go to the nodes like all others",
			Mend:   "give --mgmt-listen another address, or take the rule and the backend from the built-in template",
		})
	}
	return b, nil
}

// guard turns a panic into an error: text/template hands on those of the runtime, and none may end the process.
func guard(do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("it panicked: %v", r)
		}
	}()
	return do()
}
