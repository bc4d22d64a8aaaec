package templates

import (
	"errors"
	"fmt"
	"strings"
	"text/template"

	"github.com/fnlb/fnlb/haproxy/conf"
)

// Function is one that templates have beside those of text/template. All are pure.
type Function struct{ Name, Args, Does string }

// Functions lists them; a template may rely on each.
func Functions() []Function {
	return []Function{
		{"quote", "VALUE", "the value as one word of HAProxy's text, quoted where needed; an error for control characters and the like"},
		{"words", "LIST", "the strings of the list, each quoted, with spaces between"},
		{"chunk", "N LIST", "the list in parts of at most N; a line of HAProxy has at most 64 words"},
	}
}

// budget bounds what the functions of one rendering make: a template could double a value until the memory ends.
type budget struct{ left int } // bytes

// functions are ours, and those of text/template that make strings, bounded.
func (b *budget) functions() template.FuncMap {
	bound := func(f func(...any) string) func(...any) (string, error) {
		return func(args ...any) (string, error) {
			if len(args) > maxArgs {
				return "", fmt.Errorf("it has %d arguments, at most %d are possible", len(args), maxArgs)
			}
			return b.spend(f(args...))
		}
	}
	return template.FuncMap{
		"quote":    conf.Quote,
		"words":    words,
		"chunk":    chunk,
		"print":    bound(fmt.Sprint),
		"println":  bound(fmt.Sprintln),
		"html":     bound(template.HTMLEscaper),
		"js":       bound(template.JSEscaper),
		"urlquery": bound(template.URLQueryEscaper),
		"printf": func(format string, args ...any) (string, error) {
			if n := max(len(args), strings.Count(format, "%")); n > maxArgs { // fmt itself bounds the width of one verb to 1e6
				return "", fmt.Errorf("it has %d arguments or verbs, at most %d are possible", n, maxArgs)
			}
			return b.spend(fmt.Sprintf(format, args...))
		},
	}
}

func (b *budget) spend(s string) (string, error) {
	if len(s) > maxValue {
		return "", fmt.Errorf("a value has more than %d bytes", maxValue)
	}
	if b.left -= len(s); b.left < 0 {
		return "", errors.New("all values together have too many bytes")
	}
	return s, nil
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
