package templates

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/model"
)

// mapFile is a file of a bundle before it is known whether the text uses it.
type mapFile struct {
	name string // in the bundle
	path string // in the text
	data []byte
}

// addRoutes gives a listener the maps of its routes by host and path. The folder is named by the content, so that a new map overwrites
// nothing that is in use.
func addRoutes(l *Listener, routes []model.Route, index map[string]int, g Globals) ([]mapFile, error) {
	if !filepath.IsAbs(g.RunDir) || strings.ContainsAny(g.RunDir, "(),\"'\\ \t") { // where they separate the arguments of a fetch
		return nil, fmt.Errorf("routes by host and path need a run directory for their maps; %q cannot stand in an expression of HAProxy", g.RunDir)
	}
	for _, r := range routes {
		if err := r.Validate(); err != nil {
			return nil, fmt.Errorf("route %q: %w", r.Pattern, err)
		}
		if _, ok := index[r.Service]; !ok {
			return nil, fmt.Errorf("route %q: there is no service %q", r.Pattern, r.Service)
		}
	}
	var files []mapFile
	table := model.NewTable(routes)
	l.Routed = true
	for _, m := range []struct {
		name    string
		targets map[string]model.Target
		to      *string
	}{{"exact", table.Exact, &l.ExactMap}, {"prefix", table.Prefix, &l.PrefixMap}} {
		data := mapText(m.targets)
		sum := sha256.Sum256(data)
		name := path.Join(g.Bundled, hex.EncodeToString(sum[:8]), l.Name+"."+m.name+".map")
		*m.to = filepath.Join(g.RunDir, filepath.FromSlash(name))
		files = append(files, mapFile{name, *m.to, data})
	}
	return files, nil
}

// mapText writes a map as HAProxy reads it: a key and a value a line, sorted. Keys are HOST/PATH or /PATH, so that none begins with the #
// of a comment, and neither has a space in it.
func mapText(targets map[string]model.Target) []byte {
	var b bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(targets)) {
		b.WriteString(key)
		b.WriteByte(' ')
		b.WriteString(targets[key].Value())
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// addMaps puts the maps that the text names into the bundle, and notes when it names none of a listener that has routes.
func (d *Data) addMaps(b *conf.Bundle, maps []mapFile) {
	used := map[string]bool{}
	for _, m := range maps {
		if bytes.Contains(b.Main, []byte(m.path)) {
			if b.Files == nil {
				b.Files = map[string]conf.File{}
			}
			b.Files[m.name] = conf.File{Data: m.data}
			used[m.path] = true
		}
	}
	for _, l := range d.Listeners {
		if l.Routed && !(used[l.ExactMap] && used[l.PrefixMap]) {
			b.Notes = append(b.Notes, conf.Note{
				Reason: fmt.Sprintf("it does not look at the maps of %s, so that routes by host and path lead nowhere", l.Name),
				Mend:   "take the rules about .ExactMap and .PrefixMap from the built-in template",
			})
		}
	}
}
