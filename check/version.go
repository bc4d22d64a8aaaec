package check

import (
	"fmt"
	"strconv"
	"strings"
)

// VersionPattern gives a regular expression that finds {"version":"x.y.z"} with a version of at least least in a body. A
// pre-release is lower than its release and build metadata does not count (semver.org 2.0.0, 10 and 11); a leading v is
// accepted. The expression is valid for PCRE2, PCRE, RE2 and POSIX, and takes no look at where in the body the member stands.
//
// HAProxy has no comparison of versions in health checks, so each number is written out digit by digit. least must be x.y.z
// with at most nine digits a number: the order of pre-releases cannot be written as an expression of a bearable length.
func VersionPattern(least string) (string, error) {
	parts := strings.Split(least, ".")
	if strings.ContainsAny(least, "-") {
		return "", fmt.Errorf("least version %s: a pre-release cannot be the least version; write the release, x.y.z", quote(least, 60))
	}
	if len(parts) != 3 {
		return "", fmt.Errorf("least version %s: it is no semantic version; write x.y.z, such as 0.0.235", quote(least, 60))
	}
	for _, p := range parts {
		if n, err := strconv.ParseUint(p, 10, 32); err != nil || len(p) > 9 || strconv.FormatUint(n, 10) != p {
			return "", fmt.Errorf("least version %s: each of its three numbers has one to nine digits and no leading zero", quote(least, 60))
		}
	}
	const (
		number     = `(0|[1-9][0-9]*)`
		space      = `[[:space:]]*`
		identifier = `(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)`
		prerelease = `(-` + identifier + `(\.` + identifier + `)*)?`
		build      = `(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?`
	)
	major, minor, patch := parts[0], parts[1], parts[2]
	greater := `(` + above(major) + `\.` + number + `\.` + number +
		`|` + major + `\.` + above(minor) + `\.` + number +
		`|` + major + `\.` + minor + `\.` + above(patch) + `)`
	equal := major + `\.` + minor + `\.` + patch
	return `"version"` + space + `:` + space + `"v?(` + greater + prerelease + `|` + equal + `)` + build + `"`, nil
}

// above matches the decimal numbers greater than n, which has no leading zero: longer ones, and those of the same length
// whose first different digit is greater.
func above(n string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "([1-9][0-9]{%d,}", len(n))
	for i := range len(n) {
		switch d := n[i]; d {
		case '9':
			continue
		case '8':
			b.WriteString("|" + n[:i] + "9")
		default:
			fmt.Fprintf(&b, "|%s[%c-9]", n[:i], d+1)
		}
		if rest := len(n) - i - 1; rest > 0 {
			fmt.Fprintf(&b, "[0-9]{%d}", rest)
		}
	}
	b.WriteByte(')')
	return b.String()
}
