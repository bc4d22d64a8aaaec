package watch

import (
	"os"
	"path/filepath"
	"strings"
)

// maxLinks is where following symlinks ends, as in the kernel (path_resolution(7)).
const maxLinks = 40

// trail is what has to be watched for one path.
type trail struct {
	dirs  map[string]bool // folders that are there
	names map[string]bool // paths whose coming, going and changing matters
	file  string          // where the path leads to in the end; empty when it ends early
}

// follow walks an absolute path. Of the folders on the way only those count in which something can be swapped without a sign from the
// last folder: the ones with a symlink, and the one in which the next piece is missing.
func follow(path string) trail {
	t := trail{dirs: map[string]bool{}, names: map[string]bool{}}
	dir, rest := "/", strings.Split(strings.TrimPrefix(filepath.Clean(path), "/"), "/")
	for links := 0; len(rest) > 0 && links <= maxLinks; {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			dir = filepath.Dir(dir)
			continue
		}
		at := filepath.Join(dir, name)
		info, err := os.Lstat(at)
		switch {
		case err != nil: // not there, or not to be seen
			t.dirs[dir], t.names[at] = true, true
			return t
		case info.Mode()&os.ModeSymlink != 0:
			links++
			t.dirs[dir], t.names[at] = true, true
			target, err := os.Readlink(at)
			if err != nil {
				return t
			}
			if filepath.IsAbs(target) {
				dir = "/"
			}
			// Not cleaned: after a symlink, ".." is the parent of where it led.
			rest = append(pieces(target), rest...)
		case len(rest) == 0:
			t.dirs[dir], t.names[at], t.file = true, true, at
		default:
			dir = at
			if !info.IsDir() { // a file where a folder should be
				t.dirs[filepath.Dir(at)], t.names[at] = true, true
				return t
			}
		}
	}
	return t
}

func pieces(path string) []string {
	var out []string
	for p := range strings.SplitSeq(path, "/") {
		if p != "" && p != "." {
			out = append(out, p)
		}
	}
	return out
}
