package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/model"
)

// maxPlaces bounds how many lines one error shows; HAProxy itself stops after twenty.
const maxPlaces = 5

// placed is an error of HAProxy and the lines that it is about.
type placed struct {
	err    error
	places []model.Place
}

// Error gives HAProxy's words, then each line and the line of the template that made it.
func (e *placed) Error() string { return e.err.Error() + sayPlaces(e.places) }

// Unwrap gives HAProxy's own error.
func (e *placed) Unwrap() error { return e.err }

// Places gives the lines.
func (e *placed) Places() []model.Place { return e.places }

// place adds to an error the lines of the bundle's text that it names; what stands before their numbers says so, "FILE:" or "line ".
func place(err error, b conf.Bundle, before string) error {
	if err == nil {
		return nil
	}
	if places := findPlaces(err.Error(), b, before); len(places) > 0 {
		return &placed{err, places}
	}
	return err
}

// placesOf gives the lines that an error is about: one of HAProxy, or of a template.
func placesOf(err error) []model.Place {
	var with interface{ Places() []model.Place }
	if errors.As(err, &with) {
		return with.Places()
	}
	return nil
}

// firstPlace is the zero Place when there is none.
func firstPlace(err error) model.Place {
	if places := placesOf(err); len(places) > 0 {
		return places[0]
	}
	return model.Place{}
}

// findPlaces looks for line numbers behind a mark; each line once, in the order of the words.
func findPlaces(words string, b conf.Bundle, before string) []model.Place {
	var places []model.Place
	seen := map[int]bool{}
	for {
		_, rest, found := strings.Cut(words, before)
		if !found || len(places) == maxPlaces {
			return places
		}
		words = rest
		digits := words[:len(words)-len(strings.TrimLeft(words, "0123456789"))]
		line, err := strconv.Atoi(digits)
		if err != nil || seen[line] || line < 1 {
			continue
		}
		seen[line] = true
		p := model.Place{ConfigLine: line, ConfigText: conf.LineOf(b.Main, line)}
		if at := b.Origin.Line(line); at > 0 {
			p.Template, p.TemplateLine, p.TemplateText = b.Origin.Template, at, conf.LineOf(b.Origin.Text, at)
		}
		places = append(places, p)
	}
}

func sayPlaces(places []model.Place) string {
	var b strings.Builder
	for _, p := range places {
		fmt.Fprintf(&b, "; line %d is %q", p.ConfigLine, p.ConfigText)
		if p.TemplateLine > 0 {
			fmt.Fprintf(&b, ", from %s:%d", p.Template, p.TemplateLine)
			if p.TemplateText != p.ConfigText {
				fmt.Fprintf(&b, " %q", p.TemplateText)
			}
		}
	}
	return b.String()
}

// Notes gives what a person should know about the bundle's text, each once although one line of a template may make many.
func Notes(b conf.Bundle) []model.Problem {
	var out []model.Problem
	for _, n := range b.Notes {
		p := model.Problem{Kind: model.Invalid, Owner: model.Owner{Source: "template", Name: b.Origin.Template}, Reason: n.Reason, Mend: n.Mend}
		if at := b.Origin.Line(n.Line); at > 0 {
			p.Owner.Name += ":" + strconv.Itoa(at)
			p.Place = model.Place{Template: b.Origin.Template, TemplateLine: at, TemplateText: conf.LineOf(b.Origin.Text, at)}
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// advice is what was told about the template in force, so that it is told once.
type advice struct {
	template []byte // its text
	told     map[string]bool
}

// tell logs what is new.
func (a *advice) tell(b conf.Bundle, warnings string, log *slog.Logger) {
	if a.told == nil || !bytes.Equal(a.template, b.Origin.Text) {
		*a = advice{template: b.Origin.Text, told: map[string]bool{}}
	}
	once := func(key string) bool {
		before := a.told[key]
		a.told[key] = true
		return !before
	}
	for _, n := range Notes(b) {
		if once(n.Owner.Name + " " + n.Reason) {
			log.Warn("the template wants a change", "place", n.Owner.Name, "reason", n.Reason, "mend", n.Mend)
		}
	}
	if warnings != "" && once(lineNumbers.ReplaceAllString(warnings, "")) { // servers come and go, and lines move with them
		log.Warn("haproxy warns about the text", "output", warnings)
	}
}

var lineNumbers = regexp.MustCompile(`:\d+`)
