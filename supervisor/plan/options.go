package plan

import (
	"slices"
	"strings"

	"github.com/fnlb/fnlb/haproxy/conf"
)

// arity says how many words follow a server's option, of those that `add server` takes the same way in 2.6, 3.0 and 3.2 (management
// manual, "add server") and whose effect at run time is that of the file. Others are left to a reload.
var arity = map[string]int{
	"check": 0, "no-check": 0, "backup": 0, "no-backup": 0,
	"inter": 1, "fastinter": 1, "downinter": 1, "rise": 1, "fall": 1,
	"weight": 1, "maxconn": 1, "id": 1,
	"hash-key": 1, // from 3.0 on; a text for 2.6 cannot have it
}

// options is what holds for one server, by option. An option that is switched off is not there.
type options map[string]string

// read reads the words of a server; the last word on something holds. The second value names a word that is not known here.
func read(words []string) (options, string) {
	o := options{}
	for i := 0; i < len(words); i++ {
		n, known := arity[words[i]]
		switch off, no := strings.CutPrefix(words[i], "no-"); {
		case !known || i+n >= len(words):
			return nil, words[i]
		case n == 1 && strings.Contains(words[i+1], "$"): // its value is HAProxy's
			return nil, words[i]
		case no:
			delete(o, off)
		case n == 0:
			o[words[i]] = ""
		default:
			o[words[i]] = words[i+1]
		}
		i += n
	}
	return o, ""
}

// words writes the options in a fixed order.
func (o options) words() []string {
	var out []string
	for _, name := range slices.Sorted(keysOf(o)) {
		out = append(out, name)
		if arity[name] == 1 {
			out = append(out, o[name])
		}
	}
	return out
}

func keysOf(o options) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range o {
			if !yield(k) {
				return
			}
		}
	}
}

// dynamic says why servers of this pool cannot come and go at run time; "" they can.
func dynamic(p conf.Pool) string {
	algorithm := "roundrobin"
	if len(p.Balance) > 0 {
		algorithm, _, _ = strings.Cut(p.Balance[0], "(") // random(2)
	}
	switch algorithm {
	case "roundrobin", "leastconn", "first", "random":
		return ""
	case "static-rr":
		return "static-rr"
	}
	if len(p.HashType) == 0 || p.HashType[0] != "consistent" {
		return "hash-type map-based"
	}
	return ""
}

// hashed reports whether a server's place depends on its id or address.
func hashed(p conf.Pool) bool {
	if len(p.Balance) == 0 {
		return false
	}
	switch algorithm, _, _ := strings.Cut(p.Balance[0], "("); algorithm {
	case "roundrobin", "leastconn", "random":
		return false
	}
	return true
}

// opaque finds a line with which servers cannot come and go at run time, wherever it stands; "" there is none.
//   - After .if it is not known what HAProxy reads.
//   - With option external-check, `enable health` of an added server crashes the worker (2.6, 3.0 and 3.2, tried).
//   - An added server gets no dynamic cookie on 2.6 (tried).
func opaque(t conf.Text) string {
	for _, s := range t.Sections {
		for _, l := range s.Lines {
			w := l.Words
			switch {
			case strings.HasPrefix(w[0], "."):
				return w[0]
			case len(w) > 1 && w[0] == "option" && w[1] == "external-check":
				return "option external-check"
			case w[0] == "cookie" && slices.Contains(w, "dynamic"):
				return "cookie dynamic"
			}
		}
	}
	return ""
}
