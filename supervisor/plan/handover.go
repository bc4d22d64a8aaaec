package plan

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	"github.com/fnlb/fnlb/haproxy/conf"
)

// arrange puts what is about servers and what is about files into one order. What is in the files may be about servers that come or go: they
// come before, and go after. Where a backend passes as a whole from some entries of maps to others, these are of different worlds, and neither
// may see the servers of the other: no entry leads to it while its servers change, and those that go are out before the new entries are
// there. Reasons say why that cannot be.
func arrange(now conf.Text, servers, files []Step) ([]Step, []Reason) {
	passing := passed(now, servers, files)
	if len(passing) == 0 {
		at := len(servers)
		for at > 0 && servers[at-1].Kind == Remove {
			at--
		}
		return slices.Insert(servers, at, files...), nil
	}
	var between, last []Step
	var exchanged []string
	for _, s := range files {
		if s.Kind == Map {
			before, names := without(s, passing)
			exchanged = append(exchanged, names...)
			if !bytes.Equal(before, s.Was) {
				between = append(between, Step{Kind: Map, File: s.File, Data: before, Was: s.Was})
				s.Was = before
			}
			if bytes.Equal(s.Was, s.Data) {
				continue
			}
		}
		last = append(last, s)
	}
	if len(exchanged) > 0 {
		slices.Sort(exchanged)
		return nil, []Reason{{Cause: Exchanged, About: slices.Compact(exchanged)}}
	}
	out := between
	var rest []Step
	for _, s := range servers {
		if s.Kind == Remove && passing[s.Backend] {
			out = append(out, s)
		} else {
			rest = append(rest, s)
		}
	}
	rest, _ = arrange(now, rest, last)
	return append(out, rest...), nil
}

// passed finds the backends whose servers change, and that no entry of a map leads to before and after, but some before and others after.
func passed(now conf.Text, servers, files []Step) map[string]bool {
	gained, lost, kept := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, s := range files {
		if s.Kind != Map {
			continue
		}
		before, after := entries(s.Was), entries(s.Data)
		for key, backend := range after {
			if before[key] == backend {
				kept[backend] = true
			} else {
				gained[backend] = true
			}
		}
		for key, backend := range before {
			if after[key] != backend {
				lost[backend] = true
			}
		}
	}
	changed := map[string]bool{}
	for _, s := range servers {
		changed[s.Backend] = lost[s.Backend] && gained[s.Backend] && !kept[s.Backend]
	}
	maps.DeleteFunc(changed, func(backend string, passes bool) bool { return !passes || leads(now, backend) })
	return changed
}

// leads reports whether something else than the entry of a map leads to a backend.
func leads(t conf.Text, backend string) bool {
	for _, s := range t.Sections {
		for _, l := range s.Lines {
			for i, w := range l.Words {
				if i > 0 && w == backend && (l.Words[0] == "use_backend" || l.Words[0] == "default_backend") || strings.Contains(w, ","+backend+")") {
					return true
				}
			}
		}
	}
	return false
}

// without is what a map has while the servers of passing backends change: no entry leads to one that did not do so before, nor one that is
// about to lead elsewhere. It names the backends that an entry has on both sides, which no order makes right.
func without(s Step, passing map[string]bool) (data []byte, exchanged []string) {
	was := entries(s.Was)
	data = []byte{}
	for line := range bytes.Lines(s.Data) {
		key, backend, ok := entry(line)
		old, had := was[key]
		switch {
		case !ok || !passing[backend] || old == backend:
		case had && passing[old]:
			exchanged = append(exchanged, old, backend)
		case had:
			line = []byte(key + " " + old + "\n")
		default:
			continue
		}
		data = append(data, line...)
	}
	return data, exchanged
}

// entries reads a map's file, of which the first entry of a key counts.
func entries(data []byte) map[string]string {
	out := map[string]string{}
	for line := range bytes.Lines(data) {
		key, value, ok := entry(line)
		if _, twice := out[key]; ok && !twice {
			out[key] = value
		}
	}
	return out
}

// entry reads one line: a key and a value, neither in a comment.
func entry(line []byte) (key, value string, ok bool) {
	text := strings.TrimSpace(string(line))
	if text == "" || text[0] == '#' {
		return "", "", false
	}
	if i := strings.IndexAny(text, " \t"); i > 0 {
		return text[:i], strings.TrimSpace(text[i:]), true
	}
	return text, "", true
}
