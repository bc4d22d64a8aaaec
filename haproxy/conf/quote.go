package conf

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxWord bounds a quoted word; nothing that is put into a text from outside needs more.
const maxWord = 1024

// Quote gives s as one word of HAProxy's text: HAProxy reads back exactly s, with no variable, comment or escape in it
// (configuration manual 2.2 and 2.3). Words of harmless characters stay as they are.
//
// An error says why s cannot be a word: NUL, line ends and other control characters, broken UTF-8, more than 1024 bytes, or
// nothing at all (HAProxy takes an empty word for the end of the line, and would ignore what stands after it).
//
// It guards the words of a line only. Where a keyword reads its word once more, as in a log format (%) or in a sample expression
// (commas, parentheses), the caller has to make that level safe first.
func Quote(s string) (string, error) {
	switch {
	case s == "":
		return "", errors.New("quote: empty word")
	case len(s) > maxWord:
		return "", fmt.Errorf("quote: word of %d bytes, at most %d fit", len(s), maxWord)
	case !utf8.ValidString(s):
		return "", fmt.Errorf("quote %q: not UTF-8", s)
	}
	if i := strings.IndexFunc(s, unicode.IsControl); i >= 0 {
		return "", fmt.Errorf("quote %q: control character at byte %d", s, i)
	}
	if strings.IndexFunc(s, func(r rune) bool { return !bare(r) }) < 0 && s[0] != '.' {
		return s, nil // a leading dot could make the line a directive such as .if
	}
	if !strings.Contains(s, "'") {
		return "'" + s + "'", nil // nothing has a meaning within single quotes
	}
	return `"` + escaper.Replace(s) + `"`, nil
}

// escaper is for double quotes, where only these three have a meaning.
var escaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`)

// bare reports whether a character means itself anywhere in a line.
func bare(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:,@%+=[]()|*?!<>^~;&", r)
}
