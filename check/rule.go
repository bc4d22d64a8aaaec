package check

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/fnlb/fnlb/model"
)

const (
	maxPath = 255
	// maxTime is the longest time that HAProxy reads (a signed 32-bit number of milliseconds; configuration manual, 2.5).
	maxTime = (1<<31 - 1) * time.Millisecond
)

// Validate says what is wrong with the rule, in one line that ends in what to do.
func Validate(c model.Check) error {
	switch c.Kind {
	case model.CheckHTTP:
		if err := ValidPath(c.Path); err != nil {
			return fmt.Errorf("health check path %s: %w", quote(c.Path, 60), err)
		}
	case model.CheckTCP, model.CheckOff:
		if c.Path != "" || c.MinVersion != "" {
			return fmt.Errorf("health check of kind %s: it asks for no path and no version", c.Kind)
		}
		if c.Kind == model.CheckOff {
			return nil
		}
	default:
		return fmt.Errorf("health check of kind %s: there is no such kind", c.Kind)
	}
	for _, t := range []struct {
		name string
		d    time.Duration
	}{{"interval", c.Interval}, {"timeout", c.Timeout}} {
		if t.d < time.Millisecond || t.d > maxTime {
			return fmt.Errorf("health check %s %s: it must be between 1ms and %s",
				t.name, strings.ReplaceAll(t.d.String(), "µ", "u"), maxTime.Truncate(time.Hour))
		}
	}
	if c.Rise < 1 || c.Fall < 1 {
		return fmt.Errorf("health check rise %d, fall %d: both must be at least 1", c.Rise, c.Fall)
	}
	if c.MinVersion == "" {
		return nil
	}
	_, err := VersionPattern(c.MinVersion)
	return err
}

// ValidPath accepts what may stand in a request line by RFC 3986, sections 3.3 and 3.4: a path with an optional query, of at most 255
// bytes. An error ends in what to do, behind a semicolon where there is something.
func ValidPath(p string) error {
	if !strings.HasPrefix(p, "/") {
		return errors.New("it must start with /")
	}
	if len(p) > maxPath {
		return fmt.Errorf("it has %d bytes; at most %d are accepted", len(p), maxPath)
	}
	for i := range len(p) {
		switch c := p[i]; {
		case c == '%':
			if i+2 >= len(p) || !isHex(p[i+1]) || !isHex(p[i+2]) {
				return errors.New("a % must be followed by two hexadecimal digits; write %25 for a % itself")
			}
		case c <= ' ' || c >= 0x7f || strings.IndexByte(`"<>\^{|}#`+"`", c) >= 0:
			return fmt.Errorf("%s is no character of a path; write it as %%%02X", quote(string(rune(c)), 8), c)
		}
	}
	return nil
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// hostFormat is HAProxy's log format for the check's Host: the server's name, which is the node's HOST:PORT. A name cannot
// hold the brackets that an IPv6 address needs in a Host (RFC 9110, 7.2), so they are put back; hostOf does the same.
const hostFormat = `%[srv_name,regsub("^(.*:.*):([0-9]+)$","[\1]:\2")]`

// hostOf is the Host header with which the server of that name is checked.
func hostOf(server string) string {
	last := strings.LastIndexByte(server, ':')
	if last < 0 || !strings.Contains(server[:last], ":") || last+1 == len(server) || strings.Trim(server[last+1:], "0123456789") != "" {
		return server
	}
	return "[" + server[:last] + "]" + server[last:]
}

// Directives gives the lines of a backend that say what a check asks and expects, as words that are not quoted yet. An answer
// must pass every expect line. HAProxy adds "Connection: close" by itself.
func Directives(c model.Check) ([][]string, error) {
	if err := Validate(c); err != nil {
		return nil, err
	}
	switch c.Kind {
	case model.CheckOff:
		return nil, nil
	case model.CheckTCP: // what HAProxy does where no option says more
		return [][]string{{"timeout", "check", millis(c.Timeout)}}, nil
	}
	lines := [][]string{
		{"timeout", "check", millis(c.Timeout)},
		{"option", "httpchk"},
		{"http-check", "send", "meth", "GET", "uri", c.Path, "ver", "HTTP/1.1", "hdr", "Host", hostFormat},
	}
	if c.MinVersion == "" {
		return append(lines, []string{"http-check", "expect", "status", "200-399"}), nil
	}
	pattern, err := VersionPattern(c.MinVersion)
	if err != nil {
		return nil, err
	}
	// The status comes first: the pattern alone would accept an error page with a good body.
	return append(lines,
		[]string{"http-check", "expect", "status", "200"},
		[]string{"http-check", "expect", "rstring", pattern}), nil
}

// ServerWords gives the words of a server or default-server line. HAProxy starts a check every inter; the connection may take
// that long, or timeout connect if that is less, and from then on timeout check counts, even beyond inter (configuration
// manual, "timeout check"; tried). A rule that checks nothing has none.
func ServerWords(c model.Check) []string {
	if c.Kind == model.CheckOff {
		return nil
	}
	return []string{"check", "inter", millis(c.Interval), "fall", strconv.Itoa(int(c.Fall)), "rise", strconv.Itoa(int(c.Rise))}
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) + "ms" }

// quote gives s between quotes in printable ASCII, cut so that the whole has at most n bytes.
func quote(s string, n int) string {
	s = s[:min(len(s), n)]
	for {
		q := strconv.QuoteToASCII(s)
		if len(q) <= n || s == "" {
			return q
		}
		s = s[:len(s)-1-(len(q)-n-1)/4] // a byte becomes at most four
	}
}
