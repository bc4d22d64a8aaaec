package conf

import (
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Server is one server line.
type Server struct {
	Backend, Name string
	Raw           string         // address as it is written
	Addr          netip.AddrPort // invalid when Raw is not IP:port
	ID            uint32         // 0: none given
	Weight        int            // 1 when neither the line nor a default-server line above it in its section says more
	No            int            // line number
	Words         []string       // the whole line; do not change
}

// mostTemplated bounds how many servers one server-template line stands for here; a line with more counts as a setting.
const mostTemplated = 1 << 16

// Members reports whether the line makes servers of a section.
func (s Section) Members(l Line) bool {
	if s.Kind != "backend" && s.Kind != "listen" || len(l.Words) < 3 {
		return false
	}
	return l.Words[0] == "server" || l.Words[0] == "server-template" && len(templated(l)) > 0
}

// templated gives the lines that a server-template line stands for: server-template PREFIX N|LOW-HIGH ADDRESS … (configuration manual 4.2).
// Nil for one that cannot be read.
func templated(l Line) [][]string {
	if len(l.Words) < 4 {
		return nil
	}
	first, last, ranged := strings.Cut(l.Words[2], "-")
	if !ranged {
		first, last = "1", first
	}
	low, err := strconv.ParseUint(first, 10, 31)
	high, errHigh := strconv.ParseUint(last, 10, 31)
	if err != nil || errHigh != nil || low > high || high-low >= mostTemplated || slices.Contains(l.Words[4:], "id") {
		return nil
	}
	out := make([][]string, 0, high-low+1)
	for n := low; n <= high; n++ {
		out = append(out, append([]string{"server", l.Words[1] + strconv.FormatUint(n, 10)}, l.Words[3:]...))
	}
	return out
}

// Servers lists the servers of backend and listen sections, in the order of the text: of server lines, and of server-template lines each one
// that they stand for.
func (t Text) Servers() []Server {
	var all []Server
	for _, s := range t.Sections {
		weight := 1
		for _, l := range s.Lines {
			switch {
			case l.Words[0] == "default-server":
				weight = number(l.Words[1:], "weight", weight)
			case !s.Members(l):
			default:
				all = slices.AppendSeq(all, serversOf(s, l, weight))
			}
		}
	}
	return all
}

// serversOf gives the servers of a line that makes some.
func serversOf(s Section, l Line, weight int) iter.Seq[Server] {
	return func(yield func(Server) bool) {
		if l.Words[0] == "server" {
			yield(newServer(s, l.No, l.Words, weight))
			return
		}
		for _, words := range templated(l) {
			if !yield(newServer(s, l.No, words, weight)) {
				return
			}
		}
	}
}

func newServer(s Section, no int, words []string, weight int) Server {
	v := Server{Backend: s.Name, Name: words[1], Raw: words[2], No: no, Words: words}
	if a := parseAddress(v.Raw); a.ip.IsValid() {
		if port, ok := parsePort(a.port); ok {
			v.Addr = netip.AddrPortFrom(a.ip, port)
		}
	}
	v.ID = uint32(number(words[3:], "id", 0))
	v.Weight = number(words[3:], "weight", weight)
	return v
}

// number is the value of a keyword with a number from 0 to 2^31-1, as the last one in words says, else the default.
func number(words []string, key string, n int) int {
	for i := 0; i+1 < len(words); i++ {
		if words[i] != key {
			continue
		}
		digits := strings.TrimPrefix(words[i+1], "+")
		for j, c := range []byte(digits) { // HAProxy reads as many as there are
			if c < '0' || c > '9' {
				digits = digits[:j]
				break
			}
		}
		if v, err := strconv.ParseUint(digits, 10, 31); err == nil {
			n = int(v)
		}
		i++
	}
	return n
}
