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

// Of is how the worker calls the file that the text calls path.
func (n Names) Of(path string) string {
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

// Maps lists the paths of the bundle's files that its text uses as maps and nothing else, with what stands in them.
func (b Bundle) Maps() map[string][]byte {
	out := map[string][]byte{}
	if len(b.Files) == 0 {
		return out
	}
	words := mentions(b.Text)
	for name, f := range b.Files {
		if paths, as := uses(words, name); as == asMap {
			for _, path := range paths {
				out[path] = f.Data
			}
		}
	}
	return out
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

// renamed finds the files that the new text has under another name at the same place: the old path by the new one. Files are named by
// their content, so that a new certificate or map overwrites nothing that is in use. The text comes back with the old paths.
func renamed(was, now Bundle) (paths map[string]string, same conf.Text) {
	paths, same = rotated(was, now)
	maps := renamedMaps(was, now)
	if len(maps) == 0 {
		return paths, same
	}
	same = conf.Text{Sections: slices.Clone(same.Sections)}
	for i, s := range same.Sections {
		cloned := false
		for j, l := range s.Lines {
			for k, w := range l.Words {
				if strings.IndexByte(w, '(') < 0 {
					continue
				}
				for newPath, oldPath := range maps {
					if !strings.Contains(w, "("+newPath) {
						continue
					}
					if !cloned {
						same.Sections[i].Lines, cloned = slices.Clone(s.Lines), true
					}
					words := slices.Clone(same.Sections[i].Lines[j].Words)
					words[k] = strings.ReplaceAll(words[k], "("+newPath, "("+oldPath)
					same.Sections[i].Lines[j].Words = words
				}
			}
		}
	}
	for newPath, oldPath := range maps {
		paths[newPath] = oldPath
	}
	return paths, same
}

// renamedMaps finds a new map for an old one of the same base name. That both stand at the same places is seen when the texts are compared.
func renamedMaps(was, now Bundle) map[string]string {
	before, after := onlyMaps(was, now), onlyMaps(now, was)
	out := map[string]string{}
	for base, newPath := range after {
		if oldPath := before[base]; newPath != "" && oldPath != "" {
			out[newPath] = oldPath
		}
	}
	return out
}

// onlyMaps gives the paths of the maps that a alone has, by base name; empty where there are several.
func onlyMaps(a, b Bundle) map[string]string {
	var words []mention
	out := map[string]string{}
	for name := range a.Files {
		if _, both := b.Files[name]; both {
			continue
		}
		if words == nil {
			words = mentions(a.Text)
		}
		found, as := uses(words, name)
		_, twice := out[path.Base(name)]
		switch {
		case as != asMap || len(found) != 1 || twice:
			out[path.Base(name)] = ""
		default:
			out[path.Base(name)] = found[0]
		}
	}
	return out
}

// rotated does it for certificates of listeners.
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

// changedFiles adds what the difference of the files takes, and says what the worker will call them; paths are those of renamed.
func (p *Plan) changedFiles(was, now Bundle, paths map[string]string, names Names) {
	gone := map[string]bool{} // paths that the new text has no more because another took their place
	for _, old := range paths {
		gone[old] = true
	}
	p.Names = Names{}
	for path, old := range paths {
		p.Names[path] = names.Of(old)
	}
	for path, name := range names {
		if _, other := p.Names[path]; !other && !gone[path] {
			p.Names[path] = name
		}
	}
	var certs, entries, reload []string
	done := map[string]bool{}
	var replaced map[string][]byte // maps of the old text, by path
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
		all, as := uses(after, name)
		for _, found := range all {
			_, replaces := paths[found]
			switch {
			case as == asCert && (had || replaces) && len(f.Data) <= maxPayload:
				if worker := p.Names.Of(found); !done[worker] {
					done[worker] = true
					p.fileSteps = append(p.fileSteps, Step{Kind: Cert, File: worker, Data: f.Data})
				}
				certs = append(certs, name)
			case as == asMap && (had || replaces):
				old := o.Data
				if replaces {
					if replaced == nil {
						replaced = was.Maps()
					}
					old = replaced[paths[found]]
				}
				p.fileSteps = append(p.fileSteps, Step{Kind: Map, File: p.Names.Of(found), Data: f.Data, Was: append([]byte{}, old...)})
				entries = append(entries, path.Base(name))
			default:
				reload = append(reload, name)
			}
		}
		if len(all) == 0 {
			reload = append(reload, name)
		}
	}
	// By their own names, whatever folders they lie in: who renders them relies on the order.
	slices.SortStableFunc(p.fileSteps, func(a, b Step) int { return strings.Compare(path.Base(a.File), path.Base(b.File)) })
	for _, name := range slices.Sorted(maps.Keys(was.Files)) {
		if _, still := now.Files[name]; still {
			continue
		}
		if found, as := uses(before, name); as != asCert && as != asMap || slices.ContainsFunc(found, func(path string) bool { return !gone[path] }) {
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
