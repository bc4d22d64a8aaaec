package conf

import (
	"slices"
	"sync"
)

// Pool is a backend or listen section with what it takes from the defaults that hold for it.
type Pool struct {
	Name     string
	Balance  []string // words behind balance; nil: none given, which means roundrobin
	HashType []string // words behind hash-type; nil: none given, which means map-based
	Members  []Member // its server lines, in the order of the text
}

// Member is one server line, and what default-server lines add to it.
type Member struct {
	Server
	Defaults []string // words of default-server lines that hold for it, those of its defaults first; do not change
}

// Options lists the words that hold for a server: those of default-server lines, then its own from the third on.
func (m Member) Options() []string { return slices.Concat(m.Defaults, m.Words[3:]) }

// read is what was made of a text once; nothing changes a text that was read.
type read struct {
	once  sync.Once
	pools []Pool
}

// Pools lists the backend and listen sections of the text. Sections take over the directives of the defaults section that they name, or
// of the last one above them (configuration manual, section 4, "defaults"); a default-server line holds for the server lines below it
// (section 5.2). Of a text that Parse has read the list is made once: do not change it.
func (t Text) Pools() []Pool {
	if t.read == nil {
		return t.listPools()
	}
	t.read.once.Do(func() { t.read.pools = t.listPools() })
	return t.read.pools
}

func (t Text) listPools() []Pool {
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
			p.Members = make([]Member, 0, len(s.Lines))
			for _, l := range s.Lines {
				if s.Members(l) {
					weight := number(from.options, "weight", 1)
					for srv := range serversOf(s, l, weight) {
						p.Members = append(p.Members, Member{srv, from.options})
					}
				}
				read(&from, l.Words)
			}
			p.Balance, p.HashType = from.balance, from.hashType
			pools = append(pools, p)
		}
	}
	return pools
}
