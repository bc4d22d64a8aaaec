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

func TestEngineSocket(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		env  map[string]string
		want string // empty: none
	}{
		{want: "/var/run/docker.sock"},
		{env: map[string]string{"DOCKER_HOST": "unix:///a"}, want: "/a"},
		{env: map[string]string{"DOCKER_HOST": "tcp://a:2376"}},
		{env: map[string]string{"DOCKER_HOST": "unix:///a", "FNLB_DOCKER": "unix:///b"}, want: "/b"},
		{env: map[string]string{"DOCKER_HOST": "unix:///a", "FNLB_DOCKER": "auto"}, want: "/a"},
		{env: map[string]string{"FNLB_DOCKER": "off"}},
		{args: []string{"run", "--docker", "unix:///c"}, env: map[string]string{"FNLB_DOCKER": "unix:///b"}, want: "/c"},
		{args: []string{"-docker=unix:///c"}, want: "/c"},
		{args: []string{"--docker=unix:///c", "--docker=off"}},
		{args: []string{"--docker"}, want: "/var/run/docker.sock"},
		{args: []string{"docker", "unix:///c"}, want: "/var/run/docker.sock"},
	} {
		p := Program{Args: test.args, Env: func(name string) (string, bool) { v, ok := test.env[name]; return v, ok }}
		got, ok := p.engineSocket()
		if ok != (test.want != "") || ok && got != test.want {
			t.Errorf("%q %q: %q %t", test.args, test.env, got, ok)
		}
	}
}

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
