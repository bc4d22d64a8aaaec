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
