package templates

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/model"
)

// Error is a fault of a template, with its place.
type Error struct {
	place model.Place // TemplateLine 0: the template as a whole
	err   error
}

// Error is one line: text/template's words, and the text of the line.
func (e *Error) Error() string {
	words := e.err.Error()
	if p := e.place; p.TemplateText != "" {
		words += fmt.Sprintf("; line %d is %q", p.TemplateLine, p.TemplateText)
	}
	return words
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.err }

// Places names the template and the line.
func (e *Error) Places() []model.Place { return []model.Place{e.place} }

// errorAt is an error of one line of t; 0 means all of it.
func (t *Template) errorAt(line int, err error) *Error {
	place := model.Place{Template: t.name, TemplateLine: line}
	if line > 0 {
		place.TemplateText = conf.LineOf(t.source, line)
		return &Error{place, fmt.Errorf("template: %s:%d: %w", t.name, line, err)}
	}
	return &Error{place, fmt.Errorf("template: %s: %w", t.name, err)}
}

var lineNumber = regexp.MustCompile(`^:(\d+):`)

// wrap finds the place in an error of text/template, which begins with "template: NAME:LINE:".
func (t *Template) wrap(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	rest, ours := strings.CutPrefix(err.Error(), "template: "+t.name)
	m := lineNumber.FindStringSubmatch(rest)
	if !ours || m == nil {
		return t.errorAt(0, oneLine{err})
	}
	line, errNumber := strconv.Atoi(m[1])
	if errNumber != nil {
		return t.errorAt(0, oneLine{err})
	}
	return &Error{model.Place{Template: t.name, TemplateLine: line, TemplateText: conf.LineOf(t.source, line)}, oneLine{err}}
}

// oneLine is an error whose words may repeat anything that stands in a template.
type oneLine struct{ error }

func (e oneLine) Unwrap() error { return e.error }

func (e oneLine) Error() string {
	const most = 600 // bytes; where it is and what is wrong stand at the two ends
	words := e.error.Error()
	if n := len(words); n > most {
		words = strings.ToValidUTF8(words[:most/2], "") + " … " + strings.ToValidUTF8(words[n-most/2:], "")
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, words)
}
