package conf

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
)

// Bundle is everything that one configuration of HAProxy consists of.
type Bundle struct {
	Main  []byte          // haproxy.cfg
	Files map[string]File // certificates and the like, by path relative to the run directory

	// What people are told about Main; neither is part of the revision.
	Origin Origin
	Notes  []Note
}

// Origin says which template made a text.
type Origin struct {
	Template string // its file
	Text     []byte // the template itself
	Lines    []int  // for each line of the text the line of the template that made it, from 1; 0: not known
}

// Line gives the template's line for a line of the text, both counted from 1; 0 when it is not known.
func (o Origin) Line(no int) int {
	if no < 1 || no > len(o.Lines) {
		return 0
	}
	return o.Lines[no-1]
}

// Note is what a person should know about a text that is good.
type Note struct {
	Line         int // of the text, from 1; 0: it is about the template as a whole
	Reason, Mend string
}

// File is one file beside the main text.
type File struct {
	Data   []byte
	Secret bool // readable by the owner alone
}

// Revision names the bundle's content: equal bundles have equal revisions. It is a token of 32 hexadecimal digits.
func (b Bundle) Revision() string {
	h := sha256.New()
	part := func(name string, data []byte) {
		fmt.Fprintf(h, "%d %s %d\n", len(name), name, len(data))
		h.Write(data) //nolint:errcheck // a hash never fails
	}
	part("", b.Main)
	for _, name := range slices.Sorted(maps.Keys(b.Files)) {
		part(name, b.Files[name].Data)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Abilities is what one HAProxy binary can do, read from haproxy -vv.
type Abilities struct {
	Version    string // as printed, such as 2.6.12-1+deb12u4
	Major      int
	Minor      int
	Prometheus bool // has the service prometheus-exporter
	OpenSSL    bool // knows the directives of TLS; not told by the version
}

// VersionAbilities is what is known of a HAProxy by its version alone, such as 2.6.12-1+deb12u4.
func VersionAbilities(version string) (Abilities, error) {
	a := Abilities{Version: version}
	if _, err := fmt.Sscanf(version, "%d.%d", &a.Major, &a.Minor); err != nil {
		return a, fmt.Errorf("its version %q is none", version)
	}
	return a, nil
}

// AtLeast reports whether the version is major.minor or newer.
func (a Abilities) AtLeast(major, minor int) bool {
	return a.Major > major || a.Major == major && a.Minor >= minor
}

// HashKey reports whether servers may have hash-key addr-port, which makes the ring independent of ids (3.0).
func (a Abilities) HashKey() bool { return a.AtLeast(3, 0) }
