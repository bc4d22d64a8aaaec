package check

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/fnlb/fnlb/model"
)

const (
	maxPath    = 255
	maxAsks    = 16 // each is a connection to each server
	maxBodies  = 32
	maxPattern = 900 // bytes; a line of HAProxy 2.6 has 2,048, and quoting may double it
	// maxTime is the longest time that HAProxy reads (a signed 32-bit number of milliseconds; configuration manual, 2.5).
	maxTime = (1<<31 - 1) * time.Millisecond
)

// Validate says what is wrong with the rule, in one line that ends in what to do.
func Validate(c model.Check) error {
	switch c.Kind {
	case model.CheckHTTP:
		if len(c.Asks) == 0 || len(c.Asks) > maxAsks {
			return fmt.Errorf("health check with %d paths: there must be 1 to %d", len(c.Asks), maxAsks)
		}
		for _, a := range c.Asks {
			if err := validAsk(a); err != nil {
				return err
			}
		}
	case model.CheckTCP, model.CheckOff:
		if len(c.Asks) > 0 {
			return fmt.Errorf("health check of kind %s: it asks for no path", c.Kind)
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
	if answerTime(c) > maxTime {
		return fmt.Errorf("health check timeout %s: for %d paths together it must be at most %s", c.Timeout, len(c.Asks), maxTime.Truncate(time.Hour))
	}
	if c.Rise < 1 || c.Fall < 1 {
		return fmt.Errorf("health check rise %d, fall %d: both must be at least 1", c.Rise, c.Fall)
	}
	return nil
}

func validAsk(a model.Ask) error {
	if err := ValidPath(a.Path); err != nil {
		return fmt.Errorf("health check path %s: %w", quote(a.Path, 60), err)
	}
	switch {
	case a.MinVersion != "" && len(a.Bodies) > 0:
		return fmt.Errorf("health check path %s: it asks for a version and for a body; choose one", quote(a.Path, 60))
	case a.MinVersion != "":
		_, err := VersionPattern(a.MinVersion)
		return err
	case len(a.Bodies) > 0:
		if _, err := bodyPattern(a.Bodies); err != nil {
			return fmt.Errorf("health check path %s: %w", quote(a.Path, 60), err)
		}
	}
	return nil
}

// answerTime is how long all answers to a rule may take together. HAProxy counts it anew for each connection of a check, but not always: under
// load it was seen to count on from the first one (one check in a hundred). With the time of all for the whole, none that keeps its own is cut.
func answerTime(c model.Check) time.Duration {
	return c.Timeout * time.Duration(max(len(c.Asks), 1))
}

// bodyPattern matches a whole body that is one of the texts with any white space of ASCII around it.
func bodyPattern(texts []string) (string, error) {
	if len(texts) > maxBodies {
		return "", fmt.Errorf("it has %d healthy bodies; at most %d are accepted", len(texts), maxBodies)
	}
	quoted := make([]string, len(texts))
	for i, s := range texts {
		switch {
		case s == "": // HAProxy finds nothing in an empty body
			return "", errors.New("a healthy body must not be empty")
		case strings.TrimSpace(s) != s:
			return "", fmt.Errorf("healthy body %s: white space around it is cut off before it is compared; leave it out", quote(s, 60))
		case !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl):
			return "", fmt.Errorf("healthy body %s: it must be one line of text in UTF-8", quote(s, 60))
		}
		quoted[i] = regexp.QuoteMeta(s)
	}
	pattern := `^[[:space:]]*(` + strings.Join(quoted, "|") + `)[[:space:]]*$`
	if len(pattern) > maxPattern {
		return "", errors.New("its healthy bodies are too long together; about 800 bytes are accepted")
	}
	return pattern, nil
}

// pattern is the expression that the body of an answer must match; empty: it is not looked at.
func pattern(a model.Ask) (string, error) {
	switch {
	case a.MinVersion != "":
		return VersionPattern(a.MinVersion)
	case len(a.Bodies) > 0:
		return bodyPattern(a.Bodies)
	}
	return "", nil
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
		{"timeout", "check", millis(answerTime(c))},
		{"option", "httpchk"},
	}
	for _, a := range c.Asks {
		if len(c.Asks) > 1 {
			lines = append(lines, []string{"http-check", "connect"})
		}
		lines = append(lines, []string{"http-check", "send", "meth", "GET", "uri", a.Path, "ver", "HTTP/1.1", "hdr", "Host", hostFormat})
		expect := func(words ...string) { lines = append(lines, append([]string{"http-check", "expect"}, words...)) }
		pattern, err := pattern(a)
		switch {
		case err != nil:
			return nil, err
		case pattern == "":
			expect("status", "200-399")
		case a.MinVersion != "":
			// The status comes first: the pattern alone would accept an error page with a good body.
			expect("status", "200")
			expect("rstring", pattern)
		default:
			// What never matches is waited for until the answer is there as a whole: the beginning of another body may be a good one.
			expect("!", "rstring", never)
			expect("rstring", pattern)
		}
	}
	return lines, nil
}

// never is an expression that no body matches.
const never = "a^"

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
