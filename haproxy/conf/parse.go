package conf

import (
	"fmt"
	"slices"
	"strings"
)

// Text is a configuration as HAProxy reads it: sections of lines of words, in the order of the text. It is never changed.
type Text struct {
	Sections []Section
	read     *read // nil: Parse did not make it
}

// Section is one section. What stands before the first one is a Section without Kind (HAProxy refuses it, unless these are
// directives such as .if).
type Section struct {
	Kind, Name string // such as "backend", "be"; Name may be empty
	From       string // the defaults section that it names with "from"; "" for none
	No         int    // line number, from 1
	Lines      []Line
}

// Line is one line that is not empty: its words after quotes, escapes and comments are resolved, up to the first empty one, where
// HAProxy stops reading (3.2 warns of it). A variable within double quotes stays as it is written, since its value is HAProxy's,
// and .if blocks are read whatever their condition.
type Line struct {
	No    int // line number, from 1
	Words []string
}

// sectionKinds are the words that begin a section in 2.6 to 3.2 when they are first in a line, wherever that is.
var sectionKinds = map[string]bool{
	"global": true, "defaults": true, "frontend": true, "backend": true, "listen": true, "peers": true, "resolvers": true,
	"userlist": true, "mailers": true, "cache": true, "program": true, "http-errors": true, "ring": true, "log-forward": true,
	"fcgi-app": true, "crt-store": true, "log-profile": true, "traces": true, "acme": true,
}

// Parse reads a text. It knows no keywords but those of sections, so that it reads what a newer HAProxy accepts; an error names
// the line and is one that every version has as well: open quotes, bad escapes and variables, NUL. There is no continuation of
// lines in HAProxy.
func Parse(text []byte) (Text, error) {
	t := Text{read: &read{}}
	var space room
	rest := string(text)
	lines, first := make([]Line, 0, strings.Count(rest, "\n")+1), 0 // of all sections, and where those of the last one begin
	for no := 1; len(rest) > 0; no++ {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		words, plain := space.split(line)
		var err error
		if !plain {
			words, err = split(line)
		}
		if err != nil {
			return Text{}, fmt.Errorf("line %d: %w", no, err)
		}
		switch {
		case len(words) == 0:
		case sectionKinds[words[0]]:
			s := Section{Kind: words[0], No: no}
			if len(words) > 1 && !(s.Kind == "defaults" && words[1] == "from") {
				s.Name = words[1]
			}
			if n := len(words); n > 2 && words[n-2] == "from" {
				s.From = words[n-1]
			}
			t.Sections, first = append(t.Sections, s), len(lines)
		default:
			if len(t.Sections) == 0 {
				t.Sections = append(t.Sections, Section{No: no})
			}
			s := &t.Sections[len(t.Sections)-1]
			lines = append(lines, Line{No: no, Words: words})
			s.Lines = slices.Clip(lines[first:])
		}
	}
	return t, nil
}

// twoWords are the keywords whose second word is a keyword too.
var twoWords = map[string]bool{
	"option": true, "timeout": true, "stats": true, "http-request": true, "http-response": true, "http-after-response": true,
	"tcp-request": true, "tcp-response": true, "http-check": true, "tcp-check": true, "http-error": true, "filter": true,
	"no": true, "default": true,
}

// Skeleton is the form of a text without its values: for each section its kind, for each line its keyword or keywords and the
// number of its words, in order. Values that stay values cannot change it.
func (t Text) Skeleton() []string {
	var form []string
	for _, s := range t.Sections {
		form = append(form, s.Kind)
		for _, l := range s.Lines {
			key := l.Words[:1]
			for len(key) < len(l.Words) && twoWords[key[len(key)-1]] {
				key = l.Words[:len(key)+1]
			}
			form = append(form, fmt.Sprintf("  %s (%d)", strings.Join(key, " "), len(l.Words)))
		}
	}
	return form
}

// room is where the words of many lines stand: one allocation holds those of a hundred.
type room []string

// split is split for a line in which nothing but spaces has a meaning; it reports whether it is one. The words are parts of the line.
func (r *room) split(line string) ([]string, bool) {
	if most := len(line)/2 + 1; cap(*r)-len(*r) < most {
		*r = make([]string, 0, max(most, 1024))
	}
	out, begin := (*r)[len(*r):], -1
	for i := range len(line) {
		switch line[i] {
		case 0, '\r', '#', '\'', '"', '\\':
			return nil, false
		case ' ', '\t', '\v', '\f':
			if begin >= 0 {
				out, begin = append(out, line[begin:i]), -1
			}
		default:
			if begin < 0 {
				begin = i
			}
		}
	}
	if begin >= 0 {
		out = append(out, line[begin:])
	}
	*r = (*r)[:len(*r)+len(out)]
	return slices.Clip(out), true
}

// split cuts one line into words as HAProxy's own reader does.
func split(line string) ([]string, error) {
	r := lineReader{in: line}
	for r.pos < len(r.in) {
		c := r.in[r.pos]
		switch {
		case c == 0:
			return nil, fmt.Errorf("NUL at byte %d", r.pos+1)
		case c == '\r' || c == '#' && r.quote == 0: // a carriage return ends the line, even within quotes
			r.pos = len(r.in)
		case c == '\'' && r.quote != '"', c == '"' && r.quote != '\'':
			r.toggle(c)
		case c == '\\' && r.quote != '\'':
			if err := r.escape(); err != nil {
				return nil, err
			}
		case c == '$' && r.quote == '"':
			if err := r.variable(); err != nil {
				return nil, err
			}
		case r.quote == 0 && strings.IndexByte(" \t\v\f", c) >= 0:
			r.end()
			r.pos++
		default:
			r.emit(c)
			r.pos++
		}
	}
	if r.quote != 0 {
		return nil, fmt.Errorf("no closing quote for the %c at byte %d", r.quote, r.open+1)
	}
	r.end()
	if i := slices.Index(r.words, ""); i >= 0 { // to HAProxy an empty word is the end of the line
		return r.words[:i], nil
	}
	return r.words, nil
}

// lineReader holds where split is.
type lineReader struct {
	in    string
	pos   int
	quote byte // 0, ' or "
	open  int  // where the quote began

	words []string
	word  []byte
	begun bool // there is a word, even if it is empty so far
	cut   bool // an escaped NUL ended the word
}

func (r *lineReader) emit(c byte) {
	r.begun = true
	r.cut = r.cut || c == 0
	if !r.cut {
		r.word = append(r.word, c)
	}
}

func (r *lineReader) end() {
	if r.begun {
		r.words = append(r.words, string(r.word))
	}
	r.word, r.begun, r.cut = r.word[:0], false, false
}

func (r *lineReader) toggle(c byte) {
	r.begun = true
	if r.quote == 0 {
		r.quote, r.open = c, r.pos
	} else {
		r.quote = 0
	}
	r.pos++
}

// escape reads what follows a backslash; one before any other character is a character itself.
func (r *lineReader) escape() error {
	next := byte(0)
	if r.pos+1 < len(r.in) {
		next = r.in[r.pos+1]
	}
	if next == '$' && r.quote == 0 { // where a dollar has no meaning, it has no escape
		next = 0
	}
	switch next {
	case ' ', '\\', '#', '\'', '"', '$':
		r.emit(next)
	case 't':
		r.emit('\t')
	case 'n':
		r.emit('\n')
	case 'r':
		r.emit('\r')
	case 'x':
		if r.pos+3 >= len(r.in) {
			return fmt.Errorf("bad escape at byte %d: \\x needs two hexadecimal digits", r.pos+1)
		}
		hi, lo := unhex(r.in[r.pos+2]), unhex(r.in[r.pos+3])
		if hi < 0 || lo < 0 {
			return fmt.Errorf("bad escape at byte %d: \\x needs two hexadecimal digits", r.pos+1)
		}
		r.emit(byte(hi<<4 | lo))
		r.pos += 2
	default:
		r.emit('\\')
		r.pos++
		return nil
	}
	r.pos += 2
	return nil
}

func unhex(c byte) int { return strings.IndexByte("0123456789abcdef", c|0x20) }

// variable copies $NAME, ${NAME}, ${NAME[*]} and ${NAME-default}; a quote within the default does not end the quotes.
func (r *lineReader) variable() error {
	start := r.pos
	rest := r.in[start+1:]
	brace := strings.HasPrefix(rest, "{")
	if brace {
		rest = rest[1:]
	}
	n := 0
	if strings.HasPrefix(rest, ".") { // a variable of HAProxy's own, such as .LINE
		n = 1
	}
	for n < len(rest) && (alpha(rest[n]) || n > 0 && rest[n] >= '0' && rest[n] <= '9') {
		n++
	}
	if n == 0 {
		return fmt.Errorf("bad variable name at byte %d", start+1)
	}
	rest = rest[n:]
	if brace {
		rest = strings.TrimPrefix(rest, "[*]")
		end := strings.IndexByte(rest, '}')
		if end < 0 || end > 0 && rest[0] != '-' || strings.IndexByte(rest[:max(end, 0)], '\r') >= 0 {
			return fmt.Errorf("no closing brace for the variable at byte %d", start+1)
		}
		rest = rest[end+1:]
	}
	for r.pos = start; r.pos < len(r.in)-len(rest); r.pos++ {
		r.emit(r.in[r.pos])
	}
	return nil
}

func alpha(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' }
