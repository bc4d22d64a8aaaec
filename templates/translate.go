package templates

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"

	"github.com/fnlb/fnlb/haproxy/conf"
)

// removed are directives that HAProxy dropped in 2.1 and that have an exact successor when they name one plain header (the manual
// of 2.0, section 4.2, told so itself). All others are left to HAProxy, whose error names what replaces them.
var removed = map[string]struct {
	rules string // the directive whose rules replace it
	add   bool
}{
	"reqadd": {"http-request", true}, "reqdel": {"http-request", false}, "reqidel": {"http-request", false},
	"rspadd": {"http-response", true}, "rspdel": {"http-response", false}, "rspidel": {"http-response", false},
}

// plainHeader matches a pattern that means one header with any value. Since 2.1 HAProxy writes names in small letters, so that the
// case of a name, in which rspdel and rspidel differed, has no meaning any more.
var (
	plainHeader = regexp.MustCompile(`^\^([A-Za-z0-9-]+):(?:\.\*)?\$?$`)
	newHeader   = regexp.MustCompile(`^([A-Za-z0-9-]+):[ \t]*(.+)$`)
)

// translate replaces removed directives, each by one line in its place, so that the map of lines stays true. Every replacement has
// a note.
func translate(main []byte) ([]byte, []conf.Note) {
	if !mentions(main) {
		return main, nil
	}
	parsed, err := conf.Parse(main)
	if err != nil {
		return main, nil // HAProxy cannot read it either, and its words are better
	}
	lines := bytes.Split(main, []byte{'\n'})
	rules := rulesOf(parsed)
	var notes []conf.Note
	for _, s := range parsed.Sections {
		if s.Kind != "frontend" && s.Kind != "backend" && s.Kind != "listen" {
			continue
		}
		for _, l := range s.Lines {
			old := lines[l.No-1]
			now, ok := rules.successor(l.Words)
			if !ok || bytes.IndexByte(old, '"') >= 0 { // variables could stand in it
				continue
			}
			indent := old[:len(old)-len(bytes.TrimLeft(old, " \t"))]
			lines[l.No-1] = append(bytes.Clone(indent), now...)
			notes = append(notes, conf.Note{
				Line:   l.No,
				Reason: fmt.Sprintf("HAProxy has no %q since 2.1, %q is taken in its place", strings.Join(l.Words, " "), now),
				Mend:   fmt.Sprintf("write %q there", now),
			})
		}
	}
	return bytes.Join(lines, []byte{'\n'}), notes
}

func mentions(main []byte) bool {
	for keyword := range removed {
		if rare := keyword[2:]; bytes.Contains(main, []byte(rare)) && bytes.Contains(main, []byte(keyword)) { // an r stands everywhere
			return true
		}
	}
	return false
}

// ruleSet is what else a text does with headers. The old directives ran after all rules of their direction, and additions after
// deletions, wherever they stood; a successor runs where it stands. That makes no difference only where nothing else of the same
// direction is about the same header, or may change what a condition sees.
type ruleSet struct {
	count map[string]int             // rules by directive
	words map[string]string          // their words and those of conditions, in small letters
	del   map[string]map[string]bool // headers by directive of the successor
	add   map[string]map[string]bool
	alone map[[2]string]bool // by directive and header: nothing else is about it; filled as it is asked
}

// isAlone reports whether nothing else of a direction is about a header.
func (set ruleSet) isAlone(rules, header string) bool {
	key := [2]string{rules, header}
	alone, known := set.alone[key]
	if !known {
		alone = !(set.add[rules][header] && set.del[rules][header]) && !strings.Contains(set.words[rules], header)
		set.alone[key] = alone
	}
	return alone
}

func rulesOf(t conf.Text) ruleSet {
	text := map[string]*strings.Builder{"http-request": {}, "http-response": {}}
	set := ruleSet{count: map[string]int{}, words: map[string]string{}, del: map[string]map[string]bool{}, add: map[string]map[string]bool{}, alone: map[[2]string]bool{}}
	for _, s := range t.Sections {
		for _, l := range s.Lines {
			key := l.Words[0]
			if key == "http-after-response" {
				key = "http-response"
			}
			set.count[key]++
			if rule := key == "http-request" || key == "http-response"; rule || key == "acl" {
				for direction := range text {
					if direction == key || !rule { // an acl may be about either
						text[direction].WriteString(strings.ToLower(strings.Join(l.Words[1:], "\n")) + "\n")
					}
				}
			}
			if name, _, ok := header(l.Words); ok {
				to, was := set.del, removed[key]
				if was.add {
					to = set.add
				}
				if to[was.rules] == nil {
					to[was.rules] = map[string]bool{}
				}
				to[was.rules][strings.ToLower(name)] = true
			}
		}
	}
	for direction, words := range text {
		set.words[direction] = words.String()
	}
	return set
}

// header reads the one header that a removed directive is about.
func header(words []string) (name, value string, ok bool) {
	was, ok := removed[words[0]]
	if !ok || len(words) < 2 || len(words) > 2 && words[2] != "if" && words[2] != "unless" {
		return "", "", false
	}
	if was.add {
		if m := newHeader.FindStringSubmatch(words[1]); m != nil {
			return m[1], m[2], true
		}
		return "", "", false
	}
	if m := plainHeader.FindStringSubmatch(words[1]); m != nil {
		return m[1], "", true
	}
	return "", "", false
}

// successor is the line that does the same as the words.
func (set ruleSet) successor(words []string) (string, bool) {
	name, value, ok := header(words)
	if !ok {
		return "", false
	}
	was := removed[words[0]]
	if !set.isAlone(was.rules, strings.ToLower(name)) || len(words) > 2 && set.count[was.rules] > 0 {
		return "", false
	}
	line := []string{was.rules, "del-header", name}
	if was.add {
		quoted, err := conf.Quote(strings.ReplaceAll(value, "%", "%%")) // a log format
		if err != nil {
			return "", false
		}
		line = []string{was.rules, "add-header", name, quoted}
	}
	for _, w := range words[2:] {
		quoted, err := conf.Quote(w)
		if err != nil {
			return "", false
		}
		line = append(line, quoted)
	}
	return strings.Join(line, " "), true
}
