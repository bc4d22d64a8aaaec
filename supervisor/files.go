package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/supervisor/plan"
)

// Files are the places where a configuration lives.
type Files struct {
	Dir    string // run directory
	Config string // haproxy.cfg, what HAProxy loads
	Single bool   // HAProxy reads that file alone: what is ours stands at its end
	Worker string // socket that the worker opens for rows of changes; "" none
	Peers  string // socket at which workers hand over their stick tables, if the text has it; "" none

	step func(string) // Options.Step
}

// at tells that a step of an apply is done.
func (f Files) at(step string) {
	if f.step != nil {
		f.step(step)
	}
}

// Own is the second configuration file, which carries what is ours whatever the template says.
func (f Files) Own() string { return filepath.Join(f.Dir, "own.cfg") }

// State is HAProxy's server-state file, written before every reload.
func (f Files) State() string { return filepath.Join(f.Dir, "servers.state") }

// Applied describes what is in force, for the next fnlb.
func (f Files) Applied() string { return filepath.Join(f.Dir, "applied.json") }

// Last is the last good text before the one in force.
func (f Files) Last() string { return f.Config + ".last" }

// Refused is the newest text that was refused, kept for reading.
func (f Files) Refused() string { return f.Config + ".refused" }

// PidFile and StatsSocket are names that users' templates may use for their own.
func (f Files) PidFile() string     { return filepath.Join(f.Dir, "haproxy.pid") }
func (f Files) StatsSocket() string { return filepath.Join(f.Dir, "private", "stats.sock") }

func (f Files) candidate() string    { return f.Config + ".candidate" }
func (f Files) ownCandidate() string { return f.Own() + ".candidate" }

// Bundled is the folder below the run directory in which the files of bundles lie, and nothing else.
const Bundled = "bundle"

// noState is a server-state file that knows nothing, in the format's only version: HAProxy warns about one that is missing or empty.
var noState = []byte("1\n")

// Remove deletes what must not outlive a clean stop, keys above all. The configuration, the last good one and the log stay for
// reading; frozen, the files beside the configuration stay as well, because the next start is made from them.
func (f Files) Remove(frozen bool) error {
	var errs []error
	if !frozen {
		errs = append(errs, os.RemoveAll(filepath.Join(f.Dir, Bundled)))
	}
	for _, name := range []string{f.Own(), f.State(), f.Applied(), f.candidate(), f.ownCandidate(), f.PidFile(), f.StatsSocket(), f.Worker, f.Peers} {
		if name == "" {
			continue
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeTorn deletes what a fnlb that was killed in the middle of a write left beside the file.
func (f Files) removeTorn() error {
	var errs []error
	for _, name := range []string{f.Config, f.candidate(), f.Last(), f.Own(), f.ownCandidate(), f.State(), f.Applied()} {
		// As renameio names them.
		torn, err := filepath.Glob(filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+"[0-9]*"))
		errs = append(errs, err)
		for _, t := range torn {
			errs = append(errs, os.Remove(t))
		}
	}
	return errors.Join(errs...)
}

// write replaces a file as a whole: temporary file, fsync, rename, fsync of the folder. On error the old file is as it was.
func write(name string, data []byte, mode fs.FileMode) error {
	if err := renameio.WriteFile(name, data, mode, renameio.WithTempDir(filepath.Dir(name)), renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	err = d.Sync()
	if err := errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}

// ownText is the second configuration file. Both texts are read as one, so what stands in it holds for any template.
func (f Files) ownText(revision string) []byte {
	socket := ""
	if f.Worker != "" {
		if path, err := conf.Quote(f.Worker); err == nil { // else rows of changes go through the master
			socket = "  stats socket " + path + " mode 600 level admin\n"
		}
	}
	return []byte(ownMark + "global\n" + socket + "  setenv FNLB_REVISION " + revision + "\n")
}

// ownMark is the first line of what is ours.
const ownMark = "# Written by fnlb beside every configuration, so that the worker itself tells what it has loaded.\n"

// Text is what stands in the configuration file.
func (f Files) Text(b conf.Bundle) []byte {
	if !f.Single {
		return b.Main
	}
	return slices.Concat(b.Main, []byte("\n"), f.ownText(b.Revision()))
}

// rendered is the template's part of what stands in the configuration file.
func (f Files) rendered(text []byte) []byte {
	if i := bytes.LastIndex(text, []byte("\n"+ownMark)); f.Single && i >= 0 {
		return text[:i]
	}
	return text
}

// candidates are the files to ask HAProxy about.
func (f Files) candidates() []string {
	if f.Single {
		return []string{f.candidate()}
	}
	return []string{f.candidate(), f.ownCandidate()}
}

// Bootstrap writes a text and its files where there is no configuration file yet, so that a HAProxy of somebody else's can start.
func (f Files) Bootstrap(b conf.Bundle) error {
	if _, err := os.Lstat(f.Config); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(f.bundled(b), ensure(f.State(), noState, 0o640), ensure(f.Config, f.Text(b), 0o640))
}

// stage writes the bundle beside the files in force. Files of a bundle are named by their content's owner (app gives every
// content a name of its own), so they overwrite nothing that is in use.
func (f Files) stage(b conf.Bundle, revision string) error {
	if _, err := os.Stat(f.State()); errors.Is(err, fs.ErrNotExist) {
		if err := write(f.State(), noState, 0o640); err != nil {
			return err
		}
	}
	if err := f.bundled(b); err != nil {
		return err
	}
	if !f.Single {
		if err := write(f.ownCandidate(), f.ownText(revision), 0o640); err != nil {
			return err
		}
	}
	return write(f.candidate(), f.Text(b), 0o640)
}

// draft writes the bundle where stage would, for a question to HAProxy and nothing else: it is not made to outlive a crash.
func (f Files) draft(b conf.Bundle, revision string) error {
	if _, err := os.Stat(f.State()); errors.Is(err, fs.ErrNotExist) {
		if err := write(f.State(), noState, 0o640); err != nil {
			return err
		}
	}
	if err := f.bundled(b); err != nil {
		return err
	}
	if !f.Single {
		if err := os.WriteFile(f.ownCandidate(), f.ownText(revision), 0o640); err != nil {
			return err
		}
	}
	return os.WriteFile(f.candidate(), f.Text(b), 0o640)
}

// bundled writes the files of a bundle where they are not yet.
func (f Files) bundled(b conf.Bundle) error {
	for name, file := range b.Files {
		path := filepath.Join(f.Dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := ensure(path, file.Data, modeOf(file)); err != nil {
			return err
		}
	}
	return nil
}

// Try stages the bundle and asks HAProxy about it; nothing is put into force.
func (f Files) Try(ctx context.Context, checker Checker, b conf.Bundle) (warnings string, err error) {
	if err := f.stage(b, b.Revision()); err != nil {
		return "", err
	}
	warnings, err = checker.Check(ctx, f.candidates()...)
	return warnings, place(err, b, f.candidate()+":")
}

// refuse keeps the candidate for reading.
func (f Files) refuse() error {
	errs := []error{os.Rename(f.candidate(), f.Refused())}
	if !f.Single {
		errs = append(errs, os.Remove(f.ownCandidate()))
	}
	return errors.Join(errs...)
}

// commit puts the candidate into place. The text in force, which a worker has confirmed, becomes the last good one.
func (f Files) commit(inForce []byte) error {
	if inForce != nil {
		if err := write(f.Last(), inForce, 0o640); err != nil {
			return err
		}
	} else if err := f.preserve(); err != nil {
		return err
	}
	f.at("kept")
	if !f.Single {
		if err := os.Rename(f.ownCandidate(), f.Own()); err != nil {
			return err
		}
	}
	f.at("own")
	if err := os.Rename(f.candidate(), f.Config); err != nil {
		return err
	}
	return errors.Join(syncDir(filepath.Dir(f.Config)), syncDir(f.Dir))
}

// preserve keeps, once, a configuration that was there before us: it may be somebody's own.
func (f Files) preserve() error {
	kept := f.Config + ".before-fnlb"
	for _, name := range []string{kept, f.Last()} {
		if _, err := os.Lstat(name); err == nil {
			return nil // we have been here
		}
	}
	text, err := os.ReadFile(f.Config)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return write(kept, text, 0o640)
}

// restore makes the files those of the bundle, after a reload failed or before HAProxy is started again. A file that is right
// already is left alone, so that a full disk does not keep HAProxy from starting.
func (f Files) restore(b conf.Bundle, revision string) error {
	if len(b.Main) == 0 {
		return nil // nothing is known of it
	}
	errs := []error{f.bundled(b), ensure(f.Config, f.Text(b), 0o640)}
	if !f.Single {
		errs = append(errs, ensure(f.Own(), f.ownText(revision), 0o640))
	}
	return errors.Join(errs...)
}

func ensure(name string, data []byte, mode fs.FileMode) error {
	if have, err := os.ReadFile(name); err == nil && bytes.Equal(have, data) {
		return nil
	}
	return write(name, data, mode)
}

// Noted is what the next fnlb needs to know about the HAProxy that it may find.
type Noted struct {
	Revision string     `json:"revision"`
	Loaded   string     `json:"loaded"`          // what the worker reports: another one after changes at run time
	Doubt    bool       `json:"doubt,omitempty"` // a change at run time was begun and is not complete: the worker has no text of ours
	Names    plan.Names `json:"names,omitempty"` // how the worker calls files, where the text says otherwise
	Config   string     `json:"config"`
	Files    []string   `json:"files,omitempty"` // of the bundle
	Master   int        `json:"master_pid"`
	Ticks    uint64     `json:"master_start"` // in the kernel's clock: with the pid it names a process for good
	Worker   int        `json:"worker_pid"`
	Started  time.Time  `json:"started"`
	At       time.Time  `json:"at"`
	Launch
}

// Noted reads applied.json.
func (f Files) Noted() (Noted, error) {
	var n Noted
	data, err := os.ReadFile(f.Applied())
	if err == nil {
		if err = json.Unmarshal(data, &n); err != nil {
			err = fmt.Errorf("read %s: %w", f.Applied(), err)
		}
	}
	return n, err
}

// find looks for the bundle of this revision: the text in place, or the last good one when fnlb was killed in the middle of an apply.
// Where it is neither, what the files give is returned, and false.
// The last one says whether it is the text in place.
func (f Files) find(revision string, noted Noted) (b conf.Bundle, found, inPlace bool) {
	all := f.present()
	var first conf.Bundle
	for i, name := range []string{f.Config, f.Last()} {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it is not there, or of no use
		}
		text = f.rendered(text)
		mentioned := maps.Clone(all)
		maps.DeleteFunc(mentioned, func(name string, _ conf.File) bool {
			return !mentions(text, filepath.Join(f.Dir, filepath.FromSlash(name)))
		})
		recorded := maps.Clone(all)
		maps.DeleteFunc(recorded, func(name string, _ conf.File) bool { return !slices.Contains(noted.Files, name) })
		for _, files := range []map[string]conf.File{recorded, mentioned, all} {
			if b := (conf.Bundle{Main: text, Files: files}); b.Revision() == revision {
				return b, true, i == 0
			}
		}
		if i == 0 {
			first = conf.Bundle{Main: text, Files: mentioned}
		}
	}
	return first, false, true
}

// present reads the files of bundles that are there. One that cannot be read is left out: then no revision fits.
func (f Files) present() map[string]conf.File {
	out := map[string]conf.File{}
	_ = filepath.WalkDir(filepath.Join(f.Dir, Bundled), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // it is left out
		}
		name, errRel := filepath.Rel(f.Dir, path)
		data, errRead := os.ReadFile(path)
		info, errInfo := d.Info()
		if errors.Join(errRel, errRead, errInfo) == nil {
			out[filepath.ToSlash(name)] = conf.File{Data: data, Secret: info.Mode().Perm()&0o040 == 0}
		}
		return nil
	})
	return out
}

// noteDoubt notes that what the worker has is not certain any more. Where nothing is noted, nothing is believed anyway.
func (f Files) noteDoubt() error {
	n, err := f.Noted()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return os.Remove(f.Applied())
	}
	n.Doubt = true
	return f.writeNoted(n)
}

func (f Files) writeNoted(n Noted) error {
	n.Config = f.Config
	data, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err
	}
	return write(f.Applied(), append(data, '\n'), 0o640)
}

// sweep deletes files of earlier bundles, but for those of the last good text, to which a rollback goes.
func (f Files) sweep(b conf.Bundle) error {
	last, err := f.readText(f.Last())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return f.eachBundled(func(name, path string, _ fs.DirEntry) error {
		if _, ok := b.Files[name]; ok || mentions(last, path) {
			return nil
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		dir := filepath.Dir(path)
		if dir == filepath.Join(f.Dir, Bundled) {
			return nil
		}
		// The folder is named by a content that is gone; another file may still be there.
		if err := os.Remove(dir); err != nil && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EEXIST) {
			return err
		}
		return nil
	})
}

// Named reads the files beside a text that it mentions and that are called like files of another bundle, whatever folder they lie in. One
// that cannot be read is left out.
func (f Files) Named(text []byte, like map[string]conf.File) map[string]conf.File {
	names := map[string]bool{}
	for name := range like {
		names[filepath.Base(name)] = true
	}
	out := f.present()
	maps.DeleteFunc(out, func(name string, _ conf.File) bool {
		return !names[filepath.Base(name)] || !mentions(text, filepath.Join(f.Dir, filepath.FromSlash(name)))
	})
	return out
}
