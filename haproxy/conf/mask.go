package conf

import (
	"bytes"
	"strings"
)

// Mask hides the passwords of a text, for people who may see it but not them: those of `user` lines in a userlist (password,
// insecure-password) and of `stats auth` (configuration manual 3.4 and 4.2). A line with a secret is written anew from its words; a
// text that cannot be read is hidden as a whole.
func Mask(text []byte) []byte {
	t, err := Parse(text)
	if err != nil {
		return []byte("# hidden: " + strings.ReplaceAll(err.Error(), "\n", " ") + "\n")
	}
	hidden := map[int]string{}
	for _, s := range t.Sections {
		for _, l := range s.Lines {
			if words, secret := maskWords(l.Words); secret {
				hidden[l.No] = strings.Join(words, " ")
			}
		}
	}
	if len(hidden) == 0 {
		return text
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	for i, line := range lines {
		if clean, ok := hidden[i+1]; ok {
			indent := line[:len(line)-len(bytes.TrimLeft(line, " \t"))]
			lines[i] = append(bytes.Clone(indent), clean+"\n"...)
		}
	}
	return bytes.Join(lines, nil)
}

func maskWords(words []string) (masked []string, secret bool) {
	const stars = "********"
	masked = append(masked, words...)
	for i := range len(masked) - 1 {
		switch {
		case masked[i] == "password" || masked[i] == "insecure-password":
			masked[i+1], secret = stars, true
		case masked[i] == "auth" && i > 0 && masked[i-1] == "stats":
			user, _, _ := strings.Cut(masked[i+1], ":")
			masked[i+1], secret = user+":"+stars, true
		}
	}
	return masked, secret
}
