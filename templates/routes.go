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

// mapped are the maps of one listener, and what they were made of. It is never changed: as long as the routes are the same, so are the maps.
type mapped struct {
	listener, dir string
	routes        []model.Route
	beg, str      mapFile
}

// addRoutes gives a listener the maps of its routes by host and path. Known are those of the last rendering.
func addRoutes(l *Listener, routes []model.Route, index map[string]int, g Globals, known []mapped) (mapped, error) {
	for i := range routes {
		if _, ok := index[routes[i].Service]; !ok {
			return mapped{}, fmt.Errorf("route %q: there is no service %q", routes[i].Pattern, routes[i].Service)
		}
	}
	dir := filepath.Join(g.RunDir, filepath.FromSlash(g.Bundled))
	var m mapped
	if i := slices.IndexFunc(known, func(k mapped) bool { return k.listener == l.Name && k.dir == dir && slices.Equal(k.routes, routes) }); i >= 0 {
		m = known[i]
	} else {
		var err error
		if m, err = newMaps(l.Name, routes, g); err != nil {
			return mapped{}, err
		}
		m.dir = dir
	}
	l.Routed, l.ExactMap, l.PrefixMap = true, m.str.path, m.beg.path
	return m, nil
}

// newMaps makes the maps of a listener. Their folder is named by the content, so that a new map overwrites nothing that is in use.
func newMaps(listener string, routes []model.Route, g Globals) (mapped, error) {
	if !filepath.IsAbs(g.RunDir) || strings.ContainsAny(g.RunDir, "(),\"'\\ \t") { // where they separate the arguments of a fetch
		return mapped{}, fmt.Errorf("routes by host and path need a run directory for their maps; %q cannot stand in an expression of HAProxy", g.RunDir)
	}
	seen := make(map[model.RouteKey]bool, len(routes))
	for _, r := range routes {
		if err := r.Validate(); err != nil {
			return mapped{}, fmt.Errorf("route %q: %w", r.Pattern, err)
		}
		if seen[r.Key()] {
			return mapped{}, fmt.Errorf("it has two routes %q", r.Pattern)
		}
		seen[r.Key()] = true
	}
	table := model.NewTable(routes)
	file := func(kind string, targets map[string]model.Target) mapFile {
		data := mapText(targets)
		sum := sha256.Sum256(data)
		name := path.Join(g.Bundled, hex.EncodeToString(sum[:8]), listener+"."+kind+".map")
		return mapFile{name, filepath.Join(g.RunDir, filepath.FromSlash(name)), data}
	}
	// By these names the prefixes are changed before the whole paths (plan), so that no redirect leads to a slash that is not there yet.
	return mapped{listener: listener, routes: routes, beg: file("beg", table.Prefix), str: file("str", table.Exact)}, nil
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
func addMaps(b *conf.Bundle, maps []mapped) {
	for _, m := range maps {
		used := 0
		for _, f := range []mapFile{m.beg, m.str} {
			if bytes.Contains(b.Main, []byte(f.path)) {
				if b.Files == nil {
					b.Files = map[string]conf.File{}
				}
				b.Files[f.name] = conf.File{Data: f.data}
				used++
			}
		}
		if used < 2 {
			b.Notes = append(b.Notes, conf.Note{
				Reason: fmt.Sprintf("it does not look at the maps of %s, so that routes by host and path lead nowhere", m.listener),
				Mend:   "take the rules about .ExactMap and .PrefixMap from the built-in template",
			})
		}
	}
}
