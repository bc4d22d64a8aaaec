package supervisor

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/model"
)

// madeOf is a bundle of six lines, made by a template of four.
func madeOf() conf.Bundle {
	return conf.Bundle{
		Main: []byte("global\n  stats auth admin:secret\n\tbogus a\n\tbogus b\n  user x\nlast"),
		Origin: conf.Origin{
			Template: "/t.tmpl", Text: []byte("global\n  stats auth admin:{{\"secret\"}}\n{{range .L}}\tbogus {{.}}\n{{end}}  user x\n"),
			Lines: []int{1, 2, 3, 3, 4},
		},
	}
}

// TestPlace: the lines that HAProxy names are shown with the lines of the template that made them.
func TestPlace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, words, want string
		places            int
	}{
		{"one", "parsing [/c/h.cfg:3] : unknown keyword 'bogus'", `; line 3 is "bogus a", from /t.tmpl:3 "{{range .L}}\tbogus {{.}}"`, 1},
		{"the same text", "parsing [/c/h.cfg:1]", `; line 1 is "global", from /t.tmpl:1`, 1},
		{"two, one of them twice", "[/c/h.cfg:4] and [/c/h.cfg:5], /c/h.cfg:4", `; line 4 is "bogus b", from /t.tmpl:3 "{{range .L}}\tbogus {{.}}"; line 5 is "user x", from /t.tmpl:4 "{{end}}  user x"`, 2},
		{"a secret", "[/c/h.cfg:2]", `; line 2 is "stats auth admin:********", from /t.tmpl:2`, 1},
		{"no origin", "[/c/h.cfg:6]", `; line 6 is "last"`, 1},
		{"no such line", "[/c/h.cfg:7]", `; line 7 is ""`, 1},
		{"another file", "[/c/own.cfg:2] : no", "", 0},
		{"no number", "[/c/h.cfg:] /c/h.cfg:99999999999999999999999 /c/h.cfg:0 /c/h.cfg:", "", 0},
		{"no file", "out of memory", "", 0},
	} {
		cause := &process.CheckError{Output: c.words}
		err := place(fmt.Errorf("check: %w", cause), madeOf(), "/c/h.cfg:")
		if want := "check: haproxy refuses the text: " + c.words + c.want; err.Error() != want {
			t.Errorf("%s: %s\nwant %s", c.name, err, want)
		}
		if got := len(placesOf(errors.Join(errors.New("x"), err))); got != c.places {
			t.Errorf("%s: %d places", c.name, got)
		}
		if !refusedByHAProxy(err) {
			t.Errorf("%s: the cause is lost", c.name)
		}
	}
	if place(nil, madeOf(), "/c/h.cfg:") != nil {
		t.Error("no error became one")
	}
	if p := firstPlace(place(errors.New("read: line 4: open quote"), madeOf(), "line ")); p != (model.Place{
		ConfigLine: 4, ConfigText: "bogus b", Template: "/t.tmpl", TemplateLine: 3, TemplateText: "{{range .L}}\tbogus {{.}}",
	}) {
		t.Errorf("%+v", p)
	}
	if p := firstPlace(errors.New("x")); p != (model.Place{}) {
		t.Errorf("%+v", p)
	}
	if got := len(findPlaces(strings.Repeat("f:1 f:2 f:3 f:4 f:5 f:6 ", 3), madeOf(), "f:")); got != maxPlaces {
		t.Errorf("%d places", got)
	}
}

// TestAdvice: notes and warnings are told once for each template, whatever the State does to the lines.
func TestAdvice(t *testing.T) {
	t.Parallel()
	b := madeOf()
	b.Notes = []conf.Note{{Line: 3, Reason: "old", Mend: "new"}, {Line: 4, Reason: "old", Mend: "new"}, {Reason: "whole", Mend: "m"}}
	want := []model.Problem{
		{Kind: model.Invalid, Owner: model.Owner{Source: "template", Name: "/t.tmpl:3"}, Reason: "old", Mend: "new",
			Place: model.Place{Template: "/t.tmpl", TemplateLine: 3, TemplateText: "{{range .L}}\tbogus {{.}}"}},
		{Kind: model.Invalid, Owner: model.Owner{Source: "template", Name: "/t.tmpl"}, Reason: "whole", Mend: "m"},
	}
	if got := Notes(b); len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("%+v", got)
	}
	var told strings.Builder
	log := slog.New(slog.NewTextHandler(&told, nil))
	var a advice
	a.tell(b, "[/c/h.cfg:3] : odd", log)
	a.tell(b, "[/c/h.cfg:9] : odd", log)
	if got := strings.Count(told.String(), "\n"); got != 3 {
		t.Errorf("%d lines:\n%s", got, told.String())
	}
	b.Origin.Text = append([]byte("# changed\n"), b.Origin.Text...)
	a.tell(b, "", log)
	if got := strings.Count(told.String(), "\n"); got != 5 {
		t.Errorf("%d lines:\n%s", got, told.String())
	}
}
