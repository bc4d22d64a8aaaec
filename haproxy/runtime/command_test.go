package runtime

import (
	"strings"
	"testing"
)

func TestCmd(t *testing.T) {
	for _, words := range [][]string{
		{"show", "info"}, {"set", "server", "be/s1", "addr", "::1", "port", "80"}, {"x", "#1"}, {"x", "a<b"}, {"x", "@1"}, {"x", "50%"}, {"x", "*"},
	} {
		if cmd, err := Cmd(words...); err != nil || cmd.String() != strings.Join(words, " ") {
			t.Errorf("%q: %q, %v", words, cmd, err)
		}
	}
	for _, words := range [][]string{
		nil, {""}, {"x", ""}, {"a b"}, {"a;b"}, {"a\nb"}, {"a\rb"}, {"a\tb"}, {"a\x00"}, {"a\\"}, {`a"`}, {"a'"}, {"x", "<<"}, {"x", "a<<b"},
		{"@1", "reload"}, {"@!7", "x"}, {"é"}, {"\x7f"}, {"\xff"}, {"x", strings.Repeat("x", maxCommand)},
	} {
		if cmd, err := Cmd(words...); err == nil || cmd != (Command{}) {
			t.Errorf("%q: %q, %v", words, cmd, err)
		}
	}
}

func FuzzCmd(f *testing.F) {
	f.Add("show", "info")
	f.Add("a;b", "c")
	f.Add("x", "<<\nadd server")
	f.Fuzz(func(t *testing.T, a, b string) {
		cmd, err := Cmd(a, b)
		if err != nil {
			return
		}
		if strings.ContainsAny(cmd.line, ";\n\r\\\"'\x00") || strings.Contains(cmd.line, "<<") || len(strings.Fields(cmd.line)) != 2 || cmd.line[0] == '@' {
			t.Errorf("%q", cmd.line)
		}
	})
}
