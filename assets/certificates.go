package assets

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fnlb/fnlb/model"
)

const (
	maxFile     = 1 << 20 // bytes of a PEM file
	maxPath     = 255     // bytes of a path that somebody names
	maxVersions = 4       // of one file that are kept: what is in force may still name an earlier one
	maxFiles    = 1000    // in all
)

// Options are what Certificates need.
type Options struct {
	Dirs []string // absolute; only files below them may be named
	// Earlier gives the newest copy that an earlier process made of the certificate of that base name, for a file that cannot be read
	// now; nil: there is none.
	Earlier func(base string) []byte
	// Copy gives the copy of that path below the folder of bundles, for a name that an earlier process gave; nil: there is none.
	Copy func(file string) []byte
	UID  int // whose rights the files are read with, for the mend
	Now  func() time.Time
}

// Certificates are PEM files with a certificate and its key, by the paths at which people put them. Its methods may be called by any
// goroutine.
type Certificates struct {
	o Options

	mu    sync.Mutex
	files map[string]*certificate // by path
	named map[string]version      // by name, of all files
}

// certificate is one file.
type certificate struct {
	seen    stamp  // what the file looked like when it was read last
	real    string // where it was then, behind symbolic links
	unread  bool   // it could not be read: that may be different now, however it looks
	names   []string
	problem *model.Problem // what is wrong with the newest content
	expires time.Time      // of the one in use
}

// version is one content of a file.
type version struct {
	file string // below the folder of bundles: HASH/BASE
	pem  []byte
}

// stamp tells whether a file may have changed since it was read.
type stamp struct {
	inode    uint64
	size     int64
	modified time.Time
	changed  syscall.Timespec // its rights, too
	mode     fs.FileMode
}

// NewCertificates reads nothing yet.
func NewCertificates(o Options) *Certificates {
	return &Certificates{o: o, files: map[string]*certificate{}, named: map[string]version{}}
}

var goodPath = regexp.MustCompile(`^(/[A-Za-z0-9_.+@:-]+)+$`)

// Use gives the name by which a Route refers to the newest good content of that file. Where the file cannot be used and never could,
// the name is empty. The Problem, without an owner, says what is wrong with the file; a name beside it means that the earlier content
// stays.
func (c *Certificates) Use(file string) (name string, problem *model.Problem) {
	if err := c.allowed(file); err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	have := c.files[file]
	if have == nil {
		if len(c.files) >= maxFiles {
			return "", &model.Problem{Kind: model.Refused, Reason: fmt.Sprintf("there are %d certificate files already", maxFiles), Mend: "put several names into one certificate"}
		}
		have = &certificate{}
		c.files[file] = have
	}
	c.read(file, have)
	if n := len(have.names); n > 0 {
		name = have.names[n-1]
	}
	return name, have.problem
}

// allowed says why that path may not be named.
func (c *Certificates) allowed(file string) *model.Problem {
	refuse := func(mend, format string, args ...any) *model.Problem {
		return &model.Problem{Kind: model.Refused, Reason: fmt.Sprintf(format, args...), Mend: mend}
	}
	switch {
	case len(file) > maxPath:
		return refuse("choose a shorter one", "the path of the certificate has %d bytes, at most %d are accepted", len(file), maxPath)
	case !goodPath.MatchString(file) || path.Clean(file) != file:
		return refuse("write the whole path, of letters, digits and _ . + @ : - only", "%s is no plain absolute path of a certificate", strconv.QuoteToASCII(file))
	}
	if !slices.ContainsFunc(c.o.Dirs, func(dir string) bool { return below(dir, file) }) {
		return refuse("put it into one of these folders, or name its folder with --cert-dir", "certificate %s is in none of the folders %s", file, strings.Join(c.o.Dirs, ", "))
	}
	return nil
}

func below(dir, file string) bool { return strings.HasPrefix(file, strings.TrimSuffix(dir, "/")+"/") }

// read takes over the content of the file when it has changed; c.mu is held.
func (c *Certificates) read(file string, have *certificate) {
	have.real = realPath(file)
	pem, now, err := c.content(file, have.seen)
	have.unread = err != nil
	if err == nil && pem == nil {
		return // as before
	}
	have.seen = now
	var expires time.Time
	if err == nil {
		expires, err = judge(pem)
	}
	if err == nil {
		in := len(have.names) > 0
		if at := c.o.Now(); expires.Before(at) {
			have.problem = &model.Problem{Kind: model.Invalid, Reason: fmt.Sprintf("certificate %s has expired on %s", file, expires.UTC().Format(time.DateOnly)), Mend: "renew it; it is read again by itself"}
			if in && have.expires.After(at) {
				return // the one in use is better
			}
		} else {
			have.problem = nil
		}
		have.expires = expires
		c.add(file, have, pem)
		return
	}
	have.problem = c.unusable(file, err)
	if len(have.names) > 0 || c.o.Earlier == nil {
		return
	}
	if pem := c.o.Earlier(base(file)); pem != nil {
		if at, err := judge(pem); err == nil {
			have.expires = at
			c.add(file, have, pem)
		}
	}
}

// content reads the file, unless it looks as it did then. A symbolic link that leads out of the folders is refused.
func (c *Certificates) content(file string, then stamp) ([]byte, stamp, error) {
	real, err := filepath.EvalSymlinks(file)
	if err != nil {
		return nil, stamp{}, err
	}
	inside := slices.ContainsFunc(c.o.Dirs, func(dir string) bool {
		resolved, err := filepath.EvalSymlinks(dir)
		return err == nil && below(resolved, real)
	})
	if !inside {
		return nil, stamp{}, fmt.Errorf("it is a link to %s, which is in none of the folders %s", real, strings.Join(c.o.Dirs, ", "))
	}
	// Without O_NONBLOCK the open of a named pipe would wait for somebody who writes.
	f, err := os.OpenFile(real, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, stampOf(real), err
	}
	defer f.Close() //nolint:errcheck // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, stamp{}, err
	}
	now := newStamp(info)
	switch {
	case now == then:
		return nil, now, nil
	case !info.Mode().IsRegular():
		return nil, now, errors.New("it is no regular file")
	case info.Size() > maxFile:
		return nil, now, fmt.Errorf("it has more than %d bytes", maxFile)
	}
	pem, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err == nil && len(pem) == 0 {
		err = errors.New("it is empty")
	}
	return pem, now, err
}

func stampOf(file string) stamp {
	info, err := os.Stat(file)
	if err != nil {
		return stamp{}
	}
	return newStamp(info)
}

func newStamp(info fs.FileInfo) stamp {
	s := stamp{size: info.Size(), modified: info.ModTime(), mode: info.Mode()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode, s.changed = sys.Ino, sys.Ctim
	}
	return s
}

// Changed reports whether Use may say otherwise now than it did last: a file looks other than when it was read, or could not be read. It
// opens none.
func (c *Certificates) Changed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for file, have := range c.files {
		if have.unread || realPath(file) != have.real || stampOf(have.real) != have.seen {
			return true
		}
	}
	return false
}

// realPath is where a path leads to, behind symbolic links; empty: nowhere.
func realPath(file string) string {
	real, err := filepath.EvalSymlinks(file)
	if err != nil {
		return ""
	}
	return real
}

// judge reads a PEM file as HAProxy will: a certificate, those that signed it, and the key that belongs to it.
func judge(pem []byte) (expires time.Time, err error) {
	pair, err := tls.X509KeyPair(pem, pem)
	if err != nil {
		return time.Time{}, err
	}
	return pair.Leaf.NotAfter, nil
}

// add makes the content the newest of the file; c.mu is held.
func (c *Certificates) add(file string, have *certificate, pem []byte) {
	sum := sha256.Sum256(pem)
	b := base(file)
	name := hex.EncodeToString(sum[:8]) + "_" + b
	have.names = slices.DeleteFunc(have.names, func(n string) bool { return n == name })
	have.names = append(have.names, name)
	c.named[name] = version{file: path.Join(hex.EncodeToString(sum[:8]), b), pem: pem}
	for len(have.names) > maxVersions {
		delete(c.named, have.names[0])
		have.names = have.names[1:]
	}
}

// base is the file's name among HAProxy's files: two files of the same name in different folders have different ones.
func base(file string) string {
	sum := sha256.Sum256([]byte(file))
	name := path.Base(file)
	return hex.EncodeToString(sum[:4]) + "_" + name[max(0, len(name)-100):]
}

// unusable says what is wrong, and what to do as exactly as possible.
func (c *Certificates) unusable(file string, err error) *model.Problem {
	p := &model.Problem{Kind: model.Invalid, Reason: fmt.Sprintf("certificate %s: %v", file, err), Mend: "put a PEM file with a certificate and its key there; it is read again by itself"}
	if errors.Is(err, fs.ErrPermission) {
		p.Kind = model.Refused
		p.Mend = fmt.Sprintf("let user %d read it: chgrp %d %s && chmod 0640 %s where it lies, or start fnlb as root (see the page on Docker)", c.o.UID, c.o.UID, file, file)
	}
	return p
}

// Content gives the file of a name that Use gave, here or in an earlier process: its path below the folder of bundles, and what is in it.
func (c *Certificates) Content(name string) (file string, pem []byte, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.named[name]; ok {
		return v.file, v.pem, true
	}
	hash, b, ok := strings.Cut(name, "_")
	if !ok || c.o.Copy == nil || !goodHash.MatchString(hash) || !model.ValidName(b) {
		return "", nil, false
	}
	file = path.Join(hash, b)
	pem = c.o.Copy(file)
	if sum := sha256.Sum256(pem); pem == nil || hex.EncodeToString(sum[:8]) != hash {
		return "", nil, false
	}
	c.named[name] = version{file, pem}
	return file, pem, true
}

var goodHash = regexp.MustCompile(`^[0-9a-f]{16}$`)
