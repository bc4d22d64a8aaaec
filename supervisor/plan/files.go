package plan

import (
	"bytes"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/fnlb/fnlb/haproxy/conf"
)

// maxPayload bounds what can be given to a running worker in one piece, in bytes (HAProxy's buffer has 16 KiB). It is runtime.MaxPayload, which a
// pure package does not import; a change that is too large for the worker all the same is made good by a reload.
const maxPayload = 12 << 10

// Names says how the running worker calls files that the text in force calls otherwise: a certificate that was replaced at run time keeps
// the name of the file that the worker has read, while the text names the newest one.
type Names map[string]string

func (n Names) of(path string) string {
	if name, ok := n[path]; ok {
		return name
	}
	return path
}

// mapFetch finds the file of a map in a word: map(FILE), map_beg(FILE,default) and the like.
var mapFetch = regexp.MustCompile(`\bmap(?:_[a-z0-9]+)*\(([^,)]+)`)

// use is what a text does with a file beside it.
type use uint8

const (
	unused use = iota
	asCert     // of listeners, and nothing else
	asMap      // and nothing else
	otherwise
)

// mention is a word of a text in which a path may stand.
type mention struct {
	word string
	crt  bool // it is the certificate of a listener
}

// mentions lists the words with a path, in the order of the text.
func mentions(t conf.Text) []mention {
	var out []mention
	for _, s := range t.Sections {
		for _, l := range s.Lines {
			for i, w := range l.Words {
				if strings.IndexByte(w, '/') >= 0 {
					out = append(out, mention{w, l.Words[0] == "bind" && l.Words[max(i, 1)-1] == "crt"})
				}
			}
		}
	}
	return out
}

// uses looks for a file of the bundle among the words of a text: every path at which it stands, in their order, and what for.
func uses(words []mention, name string) (paths []string, as use) {
	note := func(path string, u use) {
		if !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
		if as != unused && as != u {
			u = otherwise
		}
		as = u
	}
	name = "/" + name
	for _, m := range words {
		if !strings.Contains(m.word, name) {
			continue
		}
		switch found := mapFetch.FindAllStringSubmatch(m.word, -1); {
		case m.crt && strings.HasSuffix(m.word, name):
			note(m.word, asCert)
		case len(found) == 1 && strings.HasSuffix(found[0][1], name) && strings.Count(m.word, name) == 1:
			note(found[0][1], asMap)
		default:
			note(m.word, otherwise)
		}
	}
	return paths, as
}

// crt gives the place of the certificate's path in a bind line that names one of the bundle's, 0 where it names none.
func (b Bundle) crt(words []string) (at int, name string) {
	if words[0] != "bind" {
		return 0, ""
	}
	for i := 2; i < len(words); i++ {
		if words[i-1] != "crt" {
			continue
		}
		for name := range b.Files { // at most one fits, as no file lies below another
			if strings.HasSuffix(words[i], "/"+name) {
				return i, name
			}
		}
	}
	return 0, ""
}

// rotated finds the certificates that the new text has under another name at the same place: the old path by the new one. Files are named by
// their content, so that a new certificate overwrites nothing that is in use. The texts come back with the same path at these places.
func rotated(was, now Bundle) (paths map[string]string, same conf.Text) {
	paths = map[string]string{}
	old := map[string][]string{} // bind lines by section, in their order
	for _, s := range was.Sections {
		for _, l := range s.Lines {
			if l.Words[0] == "bind" {
				old[s.Kind+" "+s.Name] = append(old[s.Kind+" "+s.Name], strings.Join(l.Words, "\x00"))
			}
		}
	}
	same = conf.Text{Sections: slices.Clone(now.Sections)}
	for i, s := range same.Sections {
		nth := 0
		for j, l := range s.Lines {
			if l.Words[0] != "bind" {
				continue
			}
			before := old[s.Kind+" "+s.Name]
			if nth >= len(before) {
				break
			}
			words := strings.Split(before[nth], "\x00")
			nth++
			at, name := now.crt(l.Words)
			atOld, nameOld := was.crt(words)
			if at == 0 || at != atOld || name == nameOld || path.Base(name) != path.Base(nameOld) {
				continue
			}
			newPath, oldPath := l.Words[at], words[at]
			if known, ok := paths[newPath]; ok && known != oldPath {
				continue // one for two: not the same certificate everywhere
			}
			paths[newPath] = oldPath
			if &same.Sections[i].Lines[0] == &now.Sections[i].Lines[0] {
				same.Sections[i].Lines = slices.Clone(s.Lines)
			}
			l.Words = slices.Clone(l.Words)
			l.Words[at] = oldPath
			same.Sections[i].Lines[j] = l
		}
	}
	if len(paths) == 0 {
		same = now.Text
	}
	return paths, same
}

// changedFiles adds what the difference of the files takes, and says what the worker will call them; paths are those of rotated.
func (p *Plan) changedFiles(was, now Bundle, paths map[string]string, names Names) {
	gone := map[string]bool{} // paths that the new text has no more because another took their place
	for _, old := range paths {
		gone[old] = true
	}
	p.Names = Names{}
	for path, old := range paths {
		p.Names[path] = names.of(old)
	}
	for path, name := range names {
		if _, other := p.Names[path]; !other && !gone[path] {
			p.Names[path] = name
		}
	}
	var certs, entries, reload []string
	done := map[string]bool{}
	var before, after []mention
	if len(was.Files)+len(now.Files) > 0 {
		before, after = mentions(was.Text), mentions(now.Text)
	}
	for _, name := range slices.Sorted(maps.Keys(now.Files)) {
		f := now.Files[name]
		o, had := was.Files[name]
		if had && bytes.Equal(o.Data, f.Data) {
			continue
		}
		found, as := uses(after, name)
		for _, path := range found {
			_, replaces := paths[path]
			switch {
			case as == asCert && (had || replaces) && len(f.Data) <= maxPayload:
				if worker := p.Names.of(path); !done[worker] {
					done[worker] = true
					p.fileSteps = append(p.fileSteps, Step{Kind: Cert, File: worker, Data: f.Data})
				}
				certs = append(certs, name)
			case as == asMap && had:
				p.fileSteps = append(p.fileSteps, Step{Kind: Map, File: path, Data: f.Data})
				entries = append(entries, name)
			default:
				reload = append(reload, name)
			}
		}
		if len(found) == 0 {
			reload = append(reload, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(was.Files)) {
		if _, still := now.Files[name]; still {
			continue
		}
		if found, as := uses(before, name); as != asCert || slices.ContainsFunc(found, func(path string) bool { return !gone[path] }) {
			reload = append(reload, "-"+name)
		}
	}
	for _, r := range []Reason{reason(Certificate, slices.Compact(certs)), reason(MapEntries, slices.Compact(entries))} {
		if r.Cause != "" {
			p.Changes = append(p.Changes, r)
		}
	}
	p.add(reason(Files, slices.Compact(reload)))
}
