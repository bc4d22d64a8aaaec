package supervisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/model"
)

// Frozen is where a freeze is noted. It outlives a clean stop: only a thaw removes it.
func (f Files) Frozen() string { return filepath.Join(f.Dir, "frozen.json") }

// frozenFile is a freeze as it is noted, with what it pins: the files that make up the text in force, by their common hash.
type frozenFile struct {
	Reason     string       `json:"reason"`
	Since      time.Time    `json:"since"`
	By         string       `json:"by"`
	RolledBack bool         `json:"rolled_back,omitempty"`
	Revision   string       `json:"revision"`
	Config     string       `json:"config"`
	Files      []bundleFile `json:"files,omitempty"`
}

type bundleFile struct {
	Name   string `json:"name"` // relative to the run directory
	Secret bool   `json:"secret,omitempty"`
}

// writeFrozen notes the freeze of what is in force.
func (f Files) writeFrozen(fr model.Freeze, inForce *accepted) error {
	note := frozenFile{
		Reason: fr.Reason, Since: fr.Since, By: fr.By, RolledBack: fr.RolledBack, Revision: inForce.revision, Config: f.Config,
	}
	for name, file := range inForce.bundle.Files {
		note.Files = append(note.Files, bundleFile{Name: name, Secret: file.Secret})
	}
	slices.SortFunc(note.Files, func(a, b bundleFile) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	data, err := json.MarshalIndent(note, "", "  ")
	if err != nil {
		return err
	}
	return write(f.Frozen(), append(data, '\n'), 0o640)
}

// removeFrozen forgets the freeze; without one there is nothing to do.
func (f Files) removeFrozen() error {
	if err := os.Remove(f.Frozen()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(f.Dir)
}

// readFrozen reads the freeze that an earlier fnlb noted, and the text that it pins, as it lies on disk. Without a freeze both are
// nil. A file that cannot be read, or a text that is not the one that was frozen, is an error that says what to do: to serve
// something else is what the freeze forbids.
func (f Files) readFrozen() (*model.Freeze, *accepted, error) {
	data, err := os.ReadFile(f.Frozen())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	mend := "; put the right file back, or delete " + f.Frozen() + " to start from what the sources list"
	var note frozenFile
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(data))
		d.DisallowUnknownFields()
		err = d.Decode(&note)
	}
	if err == nil && note.Revision == "" {
		err = errors.New("it names no revision")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the freeze noted in %s: %w%s", f.Frozen(), err, mend)
	}
	fr := &model.Freeze{Reason: model.Printable(note.Reason), Since: note.Since, By: model.Printable(note.By), Revision: note.Revision, RolledBack: note.RolledBack}
	about := fmt.Sprintf("frozen since %s by %s (%s)", fr.Since.Format(time.RFC3339), fr.By, fr.Reason)
	if note.Config != f.Config {
		return nil, nil, fmt.Errorf("%s: that was the text %s, and --haproxy-config is %s now%s", about, model.Printable(note.Config), f.Config, mend)
	}
	text, err := f.read(note.Files)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w%s", about, err, mend)
	}
	if text.revision != note.Revision {
		return nil, nil, fmt.Errorf("%s: %s or a file of it was changed since: its revision is %s, frozen was %s%s", about, f.Config, text.revision, note.Revision, mend)
	}
	return fr, text, nil
}

// read makes a configuration of the text that lies in place, and of these files beside it.
func (f Files) read(files []bundleFile) (*accepted, error) {
	main, err := f.readText(f.Config)
	if err != nil {
		return nil, err
	}
	b := conf.Bundle{Main: main}
	for _, file := range files {
		if !filepath.IsLocal(filepath.FromSlash(file.Name)) {
			return nil, fmt.Errorf("file %q lies outside of the run directory", file.Name)
		}
		data, err := os.ReadFile(filepath.Join(f.Dir, filepath.FromSlash(file.Name)))
		if err != nil {
			return nil, err
		}
		if b.Files == nil {
			b.Files = map[string]conf.File{}
		}
		b.Files[file.Name] = conf.File{Data: data, Secret: file.Secret}
	}
	return whole(b)
}

// whole is a configuration that no renderer of ours has made.
func whole(b conf.Bundle) (*accepted, error) {
	text, err := conf.Parse(b.Main)
	if err != nil {
		return nil, err
	}
	return &accepted{bundle: b, revision: b.Revision(), text: text}, nil
}

// readLast makes a configuration of the last good text before the one in force, with the files beside it that it mentions.
func (f Files) readLast() (*accepted, error) {
	main, err := f.readText(f.Last())
	if err != nil {
		return nil, err
	}
	b := conf.Bundle{Main: main}
	err = f.eachBundled(func(name, path string, d fs.DirEntry) error {
		if !mentions(main, path) {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if b.Files == nil {
			b.Files = map[string]conf.File{}
		}
		b.Files[name] = conf.File{Data: data, Secret: info.Mode().Perm()&0o077 == 0}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return whole(b)
}

// mentions reports whether a text names a file, or the folder that the file lies in.
func mentions(text []byte, path string) bool { return bytes.Contains(text, []byte(filepath.Dir(path))) }

// eachBundled calls do for every file of a bundle that lies in the run directory.
func (f Files) eachBundled(do func(name, path string, d fs.DirEntry) error) error {
	err := filepath.WalkDir(filepath.Join(f.Dir, Bundled), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(f.Dir, path)
		if err != nil {
			return err
		}
		return do(filepath.ToSlash(name), path, d)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// readText reads a configuration as it was rendered.
func (f Files) readText(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	return f.rendered(text), err
}
