package conf

import (
	"strings"
	"testing"
)

func TestMask(t *testing.T) {
	text := `userlist u
  user a password $5$abc # word
	user b insecure-password "s3 cret"
listen s
  bind :80
  stats auth admin:pa55
  stats uri /
`
	want := `userlist u
  user a password ********
	user b insecure-password ********
listen s
  bind :80
  stats auth admin:********
  stats uri /
`
	if got := string(Mask([]byte(text))); got != want {
		t.Errorf("got\n%s", got)
	}
	plain := "global\n  # password x\n"
	if got := string(Mask([]byte(plain))); got != plain {
		t.Errorf("got %q", got)
	}
	if got := string(Mask([]byte("userlist u\n  user a password \"open\n"))); strings.Contains(got, "open\n") {
		t.Errorf("a text that cannot be read is shown: %q", got)
	}
}

// TestLineOf: a line as it may be shown, of texts that HAProxy reads and of templates.
func TestLineOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		no   int
		want string
	}{
		{"a\n  b \nc", 2, "b"},
		{"a\n  b \nc", 3, "c"},
		{"a\n", 2, ""},
		{"a\n", 3, ""},
		{"a", 0, ""},
		{"a", -1, ""},
		{"", 1, ""},
		{"\tstats auth admin:secret # x", 1, "stats auth admin:********"},
		{"user {{.Name}} insecure-password {{print \"secret\"}}", 1, "user {{.Name}} insecure-password ********"},
		{"user a password 'open secret", 1, "user a password ********"},
		{"password", 1, "password"},
		{strings.Repeat("x", 300), 1, strings.Repeat("x", 200) + "…"},
		{"a\xffb", 1, "a\uFFFDb"},
	} {
		if got := LineOf([]byte(c.text), c.no); got != c.want {
			t.Errorf("line %d of %q: %q, want %q", c.no, c.text, got, c.want)
		}
	}
}
