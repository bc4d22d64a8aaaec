package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestRun starts the example, asks it, changes its nodes by a file and a signal, and ends it.
func TestRun(t *testing.T) {
	node := func(name string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }))
		t.Cleanup(s.Close)
		return s
	}
	a, b := node("a"), node("b")
	file := filepath.Join(t.TempDir(), "nodes")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(a.URL + "\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	again, ended := make(chan os.Signal, 1), make(chan error, 1)
	out, log := io.Pipe()
	go func() {
		ended <- run(ctx, []string{"-listen", "127.0.0.1:0", "-nodes-file", file}, again, slog.New(slog.NewTextHandler(log, nil)))
		log.Close()
	}()
	lines := bufio.NewScanner(out)
	logged := func(what string) string {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), what) {
				return lines.Text()
			}
		}
		t.Fatalf("not logged: %s", what)
		return ""
	}
	line := logged("msg=listening")
	url := "http://" + line[strings.LastIndex(line, "=")+1:]
	get := func() string {
		t.Helper()
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	if got := get(); got != "a" {
		t.Errorf("answered by %q", got)
	}
	write("a:b:c")
	again <- syscall.SIGHUP
	logged("nodes stay as they are")
	write(b.URL)
	again <- syscall.SIGHUP
	logged("nodes read again")
	if got := get(); got != "b" {
		t.Errorf("answered by %q", got)
	}
	http.DefaultClient.CloseIdleConnections()
	go io.Copy(io.Discard, out) //nolint:errcheck // the rest of the log
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestRunRefuses(t *testing.T) {
	for _, args := range [][]string{{"-nodes", "::"}, {"-nodes-file", "/does/not/exist"}, {"-listen", "nowhere"}, {"-health", "x"}} {
		if err := run(t.Context(), args, nil, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
