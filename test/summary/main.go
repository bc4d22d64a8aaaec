// Command summary reads `go test -json` and prints what a person wants of it: one line for each package, the whole output of
// each test that failed, and at the end "N passed, N failed".
//
//	go test -json ./... | go run ./test/summary
//
// It counts tests and subtests. A skipped test counts as failed when CI is set in the environment: there, a part that is
// missing is a fault of the setup. The exit status is 1 when anything failed or nothing ran.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// event is a line of test2json (go doc test2json), build output included (go doc cmd/go, buildjson).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build output
	Test        string
	Elapsed     float64 // seconds
	Output      string
	FailedBuild string
}

type key struct{ pkg, test string }

type summary struct {
	out            io.Writer
	skipFails      bool
	passed, failed int
	output         map[key]*strings.Builder
	failures       map[string]int // tests by package
}

func main() {
	s := summary{out: os.Stdout, skipFails: os.Getenv("CI") != ""}
	if err := s.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
		os.Exit(1)
	}
	if s.failed > 0 || s.passed == 0 {
		os.Exit(1)
	}
}

// read prints while it reads. A line that is no event is printed as it is.
func (s *summary) read(r io.Reader) error {
	s.output, s.failures = map[key]*strings.Builder{}, map[string]int{}
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil && e.Action != "" {
				s.event(e)
			} else {
				fmt.Fprintf(s.out, "%s\n", strings.TrimRight(string(line), "\n"))
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
	}
	fmt.Fprintf(s.out, "%d passed, %d failed\n", s.passed, s.failed)
	return nil
}

func (s *summary) event(e event) {
	k := key{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		k = key{e.ImportPath, ""}
		fallthrough
	case "output":
		if s.output[k] == nil {
			s.output[k] = &strings.Builder{}
		}
		s.output[k].WriteString(e.Output)
	case "pass", "skip", "fail":
		if e.Test == "" {
			s.pkg(e)
		} else {
			s.test(e)
		}
		delete(s.output, k)
	}
}

func (s *summary) test(e event) {
	k := key{e.Package, e.Test}
	switch {
	case e.Action == "pass":
		s.passed++
		return
	case e.Action == "skip" && !s.skipFails:
		fmt.Fprintf(s.out, "SKIP %s %s\n", e.Package, e.Test)
		return
	}
	s.failed++
	s.failures[e.Package]++
	fmt.Fprintf(s.out, "%s %s %s (%.2fs)\n", strings.ToUpper(e.Action), e.Package, e.Test, e.Elapsed)
	s.show(k)
}

func (s *summary) pkg(e event) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(s.out, "ok   %s %.2fs\n", e.Package, e.Elapsed)
	case "skip":
		fmt.Fprintf(s.out, "none %s\n", e.Package)
	case "fail":
		fmt.Fprintf(s.out, "FAIL %s %.2fs\n", e.Package, e.Elapsed)
		if s.failures[e.Package] == 0 {
			s.failed++ // it did not build, or it died outside a test
		}
		if e.FailedBuild != "" {
			s.show(key{e.FailedBuild, ""})
		}
		s.show(key{e.Package, ""})
		// Tests that never ended: the process died in one of them.
		var open []string
		for k := range s.output {
			if k.pkg == e.Package && k.test != "" {
				open = append(open, k.test)
			}
		}
		slices.Sort(open)
		for _, test := range open {
			fmt.Fprintf(s.out, "  not ended: %s\n", test)
			s.show(key{e.Package, test})
		}
	}
}

func (s *summary) show(k key) {
	if b := s.output[k]; b != nil {
		fmt.Fprint(s.out, "    ", strings.ReplaceAll(strings.TrimRight(b.String(), "\n"), "\n", "\n    "), "\n")
	}
}
