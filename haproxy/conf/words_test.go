package conf

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// rawWords is what may stand after `setenv NAME` in a text, with what it means. The same table is given to Parse and to HAProxy.
var rawWords = []struct {
	raw  string
	want string // one word
	bad  bool   // refused
}{
	{raw: `plain`, want: `plain`},
	{raw: `a.b-c_d:e/f,g`, want: `a.b-c_d:e/f,g`},
	{raw: `a\ b`, want: `a b`},
	{raw: `"a b"`, want: `a b`},
	{raw: `'a b'`, want: `a b`},
	{raw: `a" "b' 'c`, want: `a b c`},
	{raw: `'a"b'`, want: `a"b`},
	{raw: `"a'b"`, want: `a'b`},
	{raw: `"a\"b"`, want: `a"b`},
	{raw: `a\"b`, want: `a"b`},
	{raw: `a\'b`, want: `a'b`},
	{raw: `'a\'`, want: `a\`},
	{raw: `'\\'`, want: `\\`},
	{raw: `"\\"`, want: `\`},
	{raw: `a\\b`, want: `a\b`},
	{raw: `a\b`, want: `a\b`},
	{raw: `"a\b"`, want: `a\b`},
	{raw: `a\`, want: `a\`},
	{raw: `a#b`, want: `a`},
	{raw: `a # b`, want: `a`},
	{raw: `a\#b`, want: `a#b`},
	{raw: `"a#b"`, want: `a#b`},
	{raw: `"a\#b"`, want: `a#b`},
	{raw: `'a#b'`, want: `a#b`},
	{raw: `$HOME`, want: `$HOME`},
	{raw: `'$HOME'`, want: `$HOME`},
	{raw: `"\$HOME"`, want: `$HOME`},
	{raw: `a\$b`, want: `a\$b`},
	{raw: `a\x41b`, want: `aAb`},
	{raw: `"\x41"`, want: `A`},
	{raw: `'\x41'`, want: `\x41`},
	{raw: `\x4a\x4A`, want: `JJ`},
	{raw: `a\tb`, want: "a\tb"},
	{raw: `a\vb`, want: `a\vb`},
	{raw: "'a\tb'", want: "a\tb"},
	{raw: "a\rb", want: `a`},
	{raw: "\v\fa\v", want: `a`},
	{raw: `é`, want: `é`},
	{raw: "a\u00a0b", want: "a\u00a0b"},
	{raw: `a;b`, want: `a;b`},
	{raw: `a''`, want: `a`},
	{raw: `a '' ''`, want: `a`},
	{raw: `"a`, bad: true},
	{raw: `'a`, bad: true},
	{raw: `"a'`, bad: true},
	{raw: `'a\''`, bad: true},
	{raw: "'a\r'", bad: true},
	{raw: `a\x`, bad: true},
	{raw: `a\x4`, bad: true},
	{raw: `a\xg0`, bad: true},
	{raw: `a\x0g`, bad: true},
	{raw: `a\x4ÿ`, bad: true},
	{raw: `"$"`, bad: true},
	{raw: `"$1"`, bad: true},
	{raw: `"${A"`, bad: true},
	{raw: `"${A[1]}"`, bad: true},
	{raw: "a\x00b", bad: true},
}

func TestParseWords(t *testing.T) {
	for _, w := range rawWords {
		text, err := Parse([]byte("global\n  setenv X " + w.raw + "\n"))
		switch {
		case w.bad:
			if err == nil || !strings.Contains(err.Error(), "line 2: ") {
				t.Errorf("%q: error %v", w.raw, err)
			}
		case err != nil:
			t.Errorf("%q: %v", w.raw, err)
		default:
			if got := text.Sections[0].Lines[0].Words; len(got) < 3 || got[2] != w.want {
				t.Errorf("%q: words %q, want %q", w.raw, got, w.want)
			}
		}
	}
}

// variables cannot be given to HAProxy for comparison: Parse keeps them unread.
func TestParseVariables(t *testing.T) {
	for raw, want := range map[string]string{
		`"$HOME/x"`:           `$HOME/x`,
		`"${HOME}x"`:          `${HOME}x`,
		`"${A-a"b 'c}d"`:      `${A-a"b 'c}d`,
		`"${LIST[*]}"`:        `${LIST[*]}`,
		`"${LIST[*]-a b}"`:    `${LIST[*]-a b}`,
		`"$.LINE"`:            `$.LINE`,
		`x"$A"'$B'"\$C" # $D`: `x$A$B$C`,
	} {
		text, err := Parse([]byte("global\nsetenv X " + raw))
		if err != nil {
			t.Errorf("%q: %v", raw, err)
		} else if got := text.Sections[0].Lines[0].Words; !slices.Equal(got, []string{"setenv", "X", want}) {
			t.Errorf("%q: words %q, want %q", raw, got, want)
		}
	}
}

// hostile words are what an outsider might send in a name, a path or a label.
var hostile = []string{
	"plain", "a b", " ", "  lead", "trail  ", "#", "a#b", "# comment", `"`, `'`, `\`, `\\`, `'"`, `"'`, `'\`, `\'`, `"\`, `\"`,
	"$HOME", `"$HOME"`, `'$HOME'`, `${HOME}`, `\$HOME`, `'\$HOME`, `'$`, `$`, `$$`, `'${`, `'"${A-"}`, `\x41`, `'\x41`, `\n`, `'\n`,
	"s1 127.0.0.1:1 disabled #", "';global", "a'b'c", `a"b"c`, "%[env(HOME)]", "`id`", "$(id)", "é", "日本語", "a\u00a0b", "\u2028", "\u202e",
	"😀'", ".if", ".notice", "if", "unless", "{ always_true }", "!x", "-n", "--", "&&", "||", ";", "a;b", "<<", "@1", "*", "?", "~",
	strings.Repeat("x", 1024), strings.Repeat("'", 1024), strings.Repeat(`'\"$`, 256), strings.Repeat("é", 512),
}

func TestQuoteAndWordsAsHAProxyReadsThem(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		var text strings.Builder
		text.WriteString("global\n")
		var names, want []string
		set := func(raw, meant string) {
			names = append(names, fmt.Sprintf("FNLB_WORD_%d", len(names)))
			want = append(want, meant)
			fmt.Fprintf(&text, "  setenv %s %s\n", names[len(names)-1], raw)
		}
		for _, w := range hostile {
			quoted, err := Quote(w)
			if err != nil {
				t.Fatal(err)
			}
			set(quoted, w)
		}
		for _, w := range rawWords {
			if !w.bad {
				set(w.raw, w.want)
			}
		}
		text.WriteString("defaults\n  mode http\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\nlisten l\n  bind 127.0.0.1:" + fmt.Sprint(haproxytest.FreePort(t)) + "\n")
		i := h.Start(t, text.String(), "words")
		for n, name := range names {
			got, err := i.Ask("@1 show env " + name)
			if err != nil {
				t.Fatal(err)
			}
			if got != name+"="+want[n]+"\n\n" {
				t.Errorf("%s: HAProxy read %q, want %q", name, got, want[n])
			}
		}
		for _, w := range rawWords {
			if w.bad && h.Check(t, "global\n  setenv X "+w.raw+"\nlisten l\n  bind 127.0.0.1:1\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\n") == nil {
				t.Errorf("%q: HAProxy accepts it, Parse does not", w.raw)
			}
		}
	})
}

func TestQuoteRefuses(t *testing.T) {
	for _, w := range []string{
		"", "\x00", "a\nb", "a\rb", "a\tb", "\x1b[0m", "\x7f", "\u0085", "\xff", "a\xc3", "\xed\xa0\x80", strings.Repeat("x", 1025),
	} {
		if got, err := Quote(w); err == nil || got != "" {
			t.Errorf("Quote(%q) = %q, %v", w, got, err)
		}
	}
}

func TestQuoteLeavesBareWords(t *testing.T) {
	for _, w := range []string{"be", "127.0.0.1:80", "[::1]:80", "/1/lb/nodes", "a_b.c-d", "3000ms", "unix@/run/x"} {
		if got, err := Quote(w); err != nil || got != w {
			t.Errorf("Quote(%q) = %q, %v", w, got, err)
		}
	}
}

func FuzzQuote(f *testing.F) {
	for _, w := range hostile {
		f.Add(w)
	}
	f.Fuzz(func(t *testing.T, w string) {
		quoted, err := Quote(w)
		if err != nil {
			return
		}
		text, err := Parse([]byte("global\n  a " + quoted + " b # c\n"))
		if err != nil {
			t.Fatalf("%q as %s: %v", w, quoted, err)
		}
		if got := text.Sections[0].Lines[0].Words; !slices.Equal(got, []string{"a", w, "b"}) {
			t.Fatalf("%q as %s: words %q", w, quoted, got)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, w := range rawWords {
		f.Add("global\n setenv X " + w.raw + "\n")
	}
	f.Add("a\n\ndefaults from x\nbackend b from x\n server s 127.0.0.1:1-2 id 3\nlisten l\n bind :80,[::]:1-3,*:4\n")
	f.Fuzz(func(t *testing.T, s string) {
		var space room
		for line := range strings.SplitSeq(s, "\n") {
			words, plain := space.split(line)
			want, err := split(line)
			if plain && (err != nil || !slices.Equal(words, want)) {
				t.Fatalf("%q: words %q, want %q, %v", line, words, want, err)
			}
		}
		text, err := Parse([]byte(s))
		if err != nil {
			return
		}
		for _, section := range text.Sections {
			for _, l := range section.Lines {
				if len(l.Words) == 0 || l.No < section.No {
					t.Fatalf("line %+v in section at %d", l, section.No)
				}
			}
		}
		text.Skeleton()
		text.Servers()
		if len(text.Binds()) > maxBinds+len(s) {
			t.Fatal("unbounded")
		}
	})
}
