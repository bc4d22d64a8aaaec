package templates

import (
	"bytes"
	_ "embed" // the built-in template
	"errors"
	"fmt"
	"strings"
	"text/template"
	"text/template/parse"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/model"
)

// The limits of one rendering.
const (
	maxText  = 64 << 20 // bytes of the whole text
	maxValue = 1 << 20  // bytes of one value that a function makes
	maxRun   = 5 * time.Second
)

//go:embed haproxy.tmpl
var builtin string

// Template is a parsed template. It is safe for concurrent use.
type Template struct {
	text  *template.Template
	limit time.Duration
}

// Builtin is the template that fnlb brings along.
func Builtin() *Template {
	t, err := Parse("haproxy.tmpl", []byte(builtin))
	if err != nil {
		panic(err) // every test renders it
	}
	return t
}

// Parse reads a user's template; name stands in its errors, with the line. The functions are those of text/template, and:
//
//	quote VALUE   the value as one word of HAProxy's text, quoted where needed
//	words LIST    the strings of LIST, each quoted, with spaces between
//	chunk N LIST  LIST in parts of at most N: a line of HAProxy has at most 64 words
func Parse(name string, text []byte) (*Template, error) {
	t, err := template.New(name).Option("missingkey=error").Funcs(functions(func() (string, error) { return "", nil })).Parse(string(text))
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, fmt.Errorf("template: %s: it is empty", name)
	}
	for _, part := range t.Templates() {
		if part.Tree != nil {
			watch(name, part.Root)
			part.Root.Nodes = append([]parse.Node{watcher(name, 1)}, part.Root.Nodes...)
		}
	}
	return &Template{text: t, limit: maxRun}, nil
}

// Render gives the bundle of s. The text depends on nothing but the arguments.
func (t *Template) Render(s model.State, g Globals, a conf.Abilities) (conf.Bundle, error) {
	d, err := newData(s, g, a)
	if err != nil {
		return conf.Bundle{}, err
	}
	run, err := t.text.Clone()
	if err != nil {
		return conf.Bundle{}, err
	}
	end := time.Now().Add(t.limit)
	late := func() (string, error) {
		if time.Now().After(end) {
			return "", fmt.Errorf("it ran for more than %s", t.limit)
		}
		return "", nil
	}
	out := limited{name: t.text.Name()}
	if err := run.Funcs(functions(late)).Execute(&out, d); err != nil {
		return conf.Bundle{}, err
	}
	return conf.Bundle{Main: out.text.Bytes()}, nil
}

// limited takes text up to a size.
type limited struct {
	name string // of the template
	text bytes.Buffer
}

func (l *limited) Write(b []byte) (int, error) {
	if l.text.Len()+len(b) > maxText {
		return 0, fmt.Errorf("template: %s: its text has more than %d bytes", l.name, maxText)
	}
	return l.text.Write(b)
}

// watchName is the function that looks at the clock. No user's template needs to call it.
const watchName = "fnlb_watch"

// watch puts a call of watchName into each loop, because a loop that writes nothing would end at no limit of the output.
func watch(name string, list *parse.ListNode) {
	if list == nil {
		return
	}
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.RangeNode:
			watch(name, n.List)
			watch(name, n.ElseList)
			if n.List != nil {
				n.List.Nodes = append([]parse.Node{watcher(name, n.Line)}, n.List.Nodes...)
			}
		case *parse.IfNode:
			watch(name, n.List)
			watch(name, n.ElseList)
		case *parse.WithNode:
			watch(name, n.List)
			watch(name, n.ElseList)
		}
	}
}

// watcher is the node of one call; its errors name the line.
func watcher(name string, line int) parse.Node {
	text := strings.Repeat("\n", line-1) + "{{" + watchName + "}}"
	t := template.Must(template.New(name).Funcs(template.FuncMap{watchName: func() string { return "" }}).Parse(text))
	return t.Root.Nodes[len(t.Root.Nodes)-1]
}

func functions(late func() (string, error)) template.FuncMap {
	short := func(f func(...any) string) func(...any) (string, error) {
		return func(args ...any) (string, error) {
			s := f(args...)
			if len(s) > maxValue {
				return "", fmt.Errorf("a value has more than %d bytes", maxValue)
			}
			return s, nil
		}
	}
	return template.FuncMap{
		watchName: late,
		"quote":   conf.Quote,
		"words":   words,
		"chunk":   chunk,
		// text/template's own, which could double a value until the memory ends.
		"print":    short(fmt.Sprint),
		"println":  short(fmt.Sprintln),
		"html":     short(template.HTMLEscaper),
		"js":       short(template.JSEscaper),
		"urlquery": short(template.URLQueryEscaper),
		"printf": func(format string, args ...any) (string, error) {
			return short(func(...any) string { return fmt.Sprintf(format, args...) })()
		},
	}
}

func words(list []string) (string, error) {
	quoted := make([]string, len(list))
	for i, w := range list {
		q, err := conf.Quote(w)
		if err != nil {
			return "", err
		}
		quoted[i] = q
	}
	return strings.Join(quoted, " "), nil
}

func chunk(n int, list []string) ([][]string, error) {
	if n < 1 {
		return nil, errors.New("a part must have at least one element")
	}
	var parts [][]string
	for ; len(list) > n; list = list[n:] {
		parts = append(parts, list[:n])
	}
	if len(list) > 0 {
		parts = append(parts, list)
	}
	return parts, nil
}
