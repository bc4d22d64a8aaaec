package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mendRead is what to do when a file could not be read: the exact command where only our user may not, else the usual advice. The first
// folder on the way that keeps us out is what is to be changed; more may come to light after it.
func mendRead(path string, err error, usual string) string {
	if !errors.Is(err, fs.ErrPermission) {
		return usual
	}
	name := shellQuote(path)
	mend := fmt.Sprintf("run: chgrp %d %s && chmod g+r %s", os.Getegid(), name, name)
	for i, c := range path {
		if dir := path[:i]; c == filepath.Separator && i > 0 && errors.Is(unix.Access(dir, unix.X_OK), unix.EACCES) {
			name = shellQuote(dir)
			mend = fmt.Sprintf("run: chgrp %d %s && chmod g+x %s", os.Getegid(), name, name)
			break
		}
	}
	if os.Getenv(dropVariable) != "" {
		mend += " where it is mounted from, or start the container with --user root"
	}
	return mend
}

// shellQuote writes a word as a shell reads it.
func shellQuote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+,:@=") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
