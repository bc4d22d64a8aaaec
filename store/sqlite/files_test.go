package sqlite_test

import (
	"os"
	"path/filepath"
)

func prepareFolder(path string) error { return os.MkdirAll(filepath.Dir(path), 0o700) }
