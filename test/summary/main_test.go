package main

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	for _, c := range []struct {
		name, in       string
		skipFails      bool
		passed, failed int
		want           string
	}{
		{"pass", `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"noise\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.1}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"pass","Package":"p","Elapsed":0.25}
{"Action":"skip","Package":"q"}`, false, 1, 0, "ok   p 0.25s\nnone q\n1 passed, 0 failed\n"},
		{"a failure shows its output once", `{"Action":"output","Package":"p","Test":"TestA/b","Output":"a_test.go:3: why\n"}
{"Action":"output","Package":"p","Test":"TestC","Output":"noise\n"}
{"Action":"fail","Package":"p","Test":"TestA/b","Elapsed":1}
{"Action":"fail","Package":"p","Test":"TestA","Elapsed":1}
{"Action":"pass","Package":"p","Test":"TestC"}
{"Action":"output","Package":"p","Output":"exit status 1\n"}
{"Action":"fail","Package":"p","Elapsed":1}`, false, 1, 2,
			"FAIL p TestA/b (1.00s)\n    a_test.go:3: why\nFAIL p TestA (1.00s)\nFAIL p 1.00s\n    exit status 1\n1 passed, 2 failed\n"},
		{"a skip", `{"Action":"skip","Package":"p","Test":"TestA"}`, false, 0, 0, "SKIP p TestA\n0 passed, 0 failed\n"},
		{"a skip in CI", `{"Action":"skip","Package":"p","Test":"TestA"}`, true, 0, 1, "SKIP p TestA (0.00s)\n0 passed, 1 failed\n"},
		{"does not build", `{"ImportPath":"p [p.test]","Action":"build-output","Output":"p.go:1: oh\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`, false, 0, 1, "FAIL p 0.00s\n    p.go:1: oh\n0 passed, 1 failed\n"},
		{"dies in a test", `{"Action":"output","Package":"p","Test":"TestB","Output":"=== RUN   TestB\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Output":"exit status 2\n"}
{"Action":"fail","Package":"p","Elapsed":0.5}`, false, 0, 1,
			"FAIL p 0.50s\n    exit status 2\n  not ended: TestA\n    === RUN   TestA\n  not ended: TestB\n    === RUN   TestB\n0 passed, 1 failed\n"},
		{"no event", "go: no such tool\n{}\n", false, 0, 0, "go: no such tool\n{}\n0 passed, 0 failed\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			s := summary{out: &out, skipFails: c.skipFails}
			if err := s.read(strings.NewReader(c.in)); err != nil {
				t.Fatal(err)
			}
			if out.String() != c.want || s.passed != c.passed || s.failed != c.failed {
				t.Errorf("%q, %d and %d\nwant %q, %d and %d", out.String(), s.passed, s.failed, c.want, c.passed, c.failed)
			}
		})
	}
}
