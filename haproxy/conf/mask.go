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

// LineOf gives line no of a text, counted from 1, as it may be shown: without the space around it, without passwords, in valid UTF-8 and
// cut to 200 bytes. The text may be one that HAProxy cannot read, such as a template; "" when there is no such line.
func LineOf(text []byte, no int) string {
	for ; no > 1 && len(text) > 0; no-- {
		_, text, _ = bytes.Cut(text, []byte{'\n'})
	}
	if no != 1 {
		return ""
	}
	raw, _, _ := bytes.Cut(text, []byte{'\n'})
	line := strings.ToValidUTF8(strings.TrimSpace(string(raw)), "\uFFFD")
	words, err := split(line)
	if err != nil {
		words = strings.Fields(line)
	}
	if masked, secret := maskWords(words); secret {
		line = strings.Join(masked, " ")
	}
	const most = 200
	if len(line) > most {
		line = strings.ToValidUTF8(line[:most], "") + "…"
	}
	return line
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
