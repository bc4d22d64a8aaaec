package conf

import "slices"

// Pool is a backend or listen section with what it takes from the defaults that hold for it.
type Pool struct {
	Name     string
	Balance  []string // words behind balance; nil: none given, which means roundrobin
	HashType []string // words behind hash-type; nil: none given, which means map-based
	Members  []Member // its server lines, in the order of the text
}

// Member is one server line with what default-server lines add to it.
type Member struct {
	Server
	Options []string // words that hold for it: of default-server lines, those of its defaults first, then its own from the third on
}

// Pools lists the backend and listen sections of the text. Sections take over the directives of the defaults section that they name, or
// of the last one above them (configuration manual, section 4, "defaults"); a default-server line holds for the server lines below it
// (section 5.2).
func (t Text) Pools() []Pool {
	type inherited struct{ balance, hashType, options []string }
	var last inherited // of the last defaults section
	named := map[string]inherited{}
	read := func(h *inherited, words []string) {
		switch words[0] {
		case "balance":
			h.balance = words[1:]
		case "hash-type":
			h.hashType = words[1:]
		case "default-server":
			h.options = slices.Concat(h.options, words[1:])
		}
	}
	servers := map[int][]Server{} // by line
	for _, s := range t.Servers() {
		servers[s.No] = append(servers[s.No], s)
	}
	var pools []Pool
	for _, s := range t.Sections {
		from := last
		if s.From != "" {
			from = named[s.From]
		}
		switch s.Kind {
		case "defaults":
			last = inherited{}
			if s.From != "" {
				last = from
			}
			for _, l := range s.Lines {
				read(&last, l.Words)
			}
			if s.Name != "" {
				named[s.Name] = last
			}
		case "backend", "listen":
			p := Pool{Name: s.Name}
			for _, l := range s.Lines {
				for _, srv := range servers[l.No] {
					m := Member{Server: srv, Options: slices.Concat(from.options, srv.Words[3:])}
					m.Weight = number(m.Options, "weight", 1)
					p.Members = append(p.Members, m)
				}
				read(&from, l.Words)
			}
			p.Balance, p.HashType = from.balance, from.hashType
			pools = append(pools, p)
		}
	}
	return pools
}
