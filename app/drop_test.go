package app

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestMendRead(t *testing.T) {
	t.Parallel()
	if got := mendRead("/x", fs.ErrNotExist, "the usual"); got != "the usual" {
		t.Errorf("missing: %s", got)
	}
	file := filepath.Join(t.TempDir(), "it's a key")
	if err := os.WriteFile(file, nil, 0o000); err != nil {
		t.Fatal(err)
	}
	quoted := "'" + strings.ReplaceAll(file, "'", `'\''`) + "'"
	want := "run: chgrp " + strconv.Itoa(os.Getegid()) + " " + quoted + " && chmod g+r " + quoted
	if got := mendRead(file, errors.Join(fs.ErrPermission), "the usual"); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
