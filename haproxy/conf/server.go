package conf

import (
	"net/netip"
	"strconv"
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

// Servers lists the server lines of backend and listen sections, in the order of the text.
func (t Text) Servers() []Server {
	var all []Server
	for _, s := range t.Sections {
		if s.Kind != "backend" && s.Kind != "listen" {
			continue
		}
		weight := 1
		for _, l := range s.Lines {
			switch {
			case l.Words[0] == "default-server":
				weight = number(l.Words[1:], "weight", weight)
			case l.Words[0] == "server" && len(l.Words) >= 3:
				v := Server{Backend: s.Name, Name: l.Words[1], Raw: l.Words[2], No: l.No, Words: l.Words}
				if a := parseAddress(v.Raw); a.ip.IsValid() {
					if port, ok := parsePort(a.port); ok {
						v.Addr = netip.AddrPortFrom(a.ip, port)
					}
				}
				v.ID = uint32(number(l.Words[3:], "id", 0))
				v.Weight = number(l.Words[3:], "weight", weight)
				all = append(all, v)
			}
		}
	}
	return all
}

// number is the value of a keyword with a number from 0 to 2^31-1, as the last one in words says, else the default.
func number(words []string, key string, n int) int {
	for i := 0; i+1 < len(words); i++ {
		if words[i] != key {
			continue
		}
		if v, err := strconv.ParseUint(words[i+1], 10, 31); err == nil {
			n = int(v)
		}
		i++
	}
	return n
}

// Templates reports whether the section of this name makes servers by a server-template line.
func (t Text) Templates(section string) bool {
	for _, s := range t.Sections {
		if s.Name != section || s.Kind != "backend" && s.Kind != "listen" {
			continue
		}
		for _, l := range s.Lines {
			if l.Words[0] == "server-template" {
				return true
			}
		}
	}
	return false
}
