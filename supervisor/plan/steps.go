package plan

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/fnlb/fnlb/haproxy/conf"
)

// Kind is what a Step does.
type Kind uint8

// The steps that a running worker can take.
const (
	Remove Kind = iota // no new requests; those that run finish, and the server is deleted when it can be
	Add                // with its checks, and takes requests at once
	Move               // to another address
	Weight
	MaxConn
	Cert   // the data of a certificate's file
	Map    // all entries of a map
	Return // of a server that was removed and is still there; never in a Plan
)

// Step changes one server of the running worker, or one file that it has read.
type Step struct {
	Kind            Kind
	Backend, Server string
	Address         string   // of Add and Move, and of Remove where it could be added again
	Options         []string // of Add and Remove: words for `add server`
	Checked         bool     // of Add and Move: it has health checks
	Value           string   // of Weight and MaxConn
	File            string   // of Cert and Map: how the worker calls it
	Data            []byte   // the same: what stands in it from now on; may be secret
	Was             []byte   // of Map: what the worker has
}

// steps says how a running worker comes to the text now from one that differs in server lines only. Reasons say why it cannot.
func steps(now conf.Text, pairs []pools) (out []Step, why []Reason) {
	if word := opaque(now); word != "" {
		return nil, []Reason{{Cause: NotDynamic, About: []string{word}}}
	}
	var removals, additions, changes []Step
	freed := map[netip.AddrPort][]int{} // which removals free an address
	var wanted []netip.AddrPort         // by additions
	refuse := func(cause Cause, about string) { why = append(why, Reason{Cause: cause, About: []string{about}}) }
	for _, p := range pairs {
		before, next, left, new := p.was, p.now, p.left, p.new
		old := make(map[string]conf.Member, len(left))
		for _, m := range left {
			old[m.Name] = m
		}
		same := map[string]bool{}
		var joined []conf.Member
		for _, m := range new {
			o, known := old[m.Name]
			if !known {
				joined = append(joined, m)
				continue
			}
			same[m.Name] = true
			if equal(&o, &m) {
				continue
			}
			changed, ok := alter(o, m)
			switch word := dynamic(next); {
			case !ok:
				refuse(cause(o, m), key(m))
			case word != "" && slices.ContainsFunc(changed, func(s Step) bool { return s.Kind == Weight }):
				refuse(NotDynamic, next.Name+" "+word) // the worker refuses it
			}
			changes = append(changes, changed...)
		}
		for _, m := range left {
			if !same[m.Name] {
				freed[m.Addr] = append(freed[m.Addr], len(removals))
				gone, word := add(before, m)
				if word != "" {
					gone = Step{Backend: m.Backend, Server: m.Name}
				}
				gone.Kind = Remove
				removals = append(removals, gone)
			}
		}
		if len(joined) > 0 || len(same) < len(left) {
			if word := dynamic(next); word != "" {
				refuse(NotDynamic, next.Name+" "+word)
			}
		}
		if name := renumbered(before, next); name != "" {
			refuse(ServerOption, name+" without id")
		}
		for _, m := range joined {
			step, word := add(next, m)
			if word != "" {
				refuse(ServerOption, key(m)+" "+word)
				continue
			}
			wanted = append(wanted, m.Addr)
			additions = append(additions, step)
		}
		if !ordered(before, next) {
			refuse(ServerOrder, next.Name)
		}
	}
	if names := named(now, removals); len(names) > 0 {
		why = append(why, Reason{Cause: ServerNamed, About: names})
	}
	if len(why) > 0 {
		return nil, why
	}
	// What frees an address comes before what takes it; otherwise capacity must not dip.
	var moves []Step
	for _, s := range changes {
		if s.Kind == Move {
			moves = append(moves, s)
			wanted = append(wanted, netip.MustParseAddrPort(s.Address))
		}
	}
	changes = slices.DeleteFunc(changes, func(s Step) bool { return s.Kind == Move })
	var taken []int
	for _, addr := range wanted {
		taken = append(taken, freed[addr]...)
	}
	var first, last []Step
	for i, r := range removals {
		if slices.Contains(taken, i) {
			first = append(first, r)
		} else {
			last = append(last, r)
		}
	}
	return slices.Concat(first, moves, additions, changes, last), nil
}

// equal reports whether two lines mean the same server.
func equal(o, m *conf.Member) bool {
	return o.Backend == m.Backend && slices.Equal(o.Words, m.Words) && slices.Equal(o.Defaults, m.Defaults)
}

// differing cuts off the servers at the beginning and at the end that two lists share: one change among thousands is then about one. Where a
// name stands on both sides of a cut, the lists come back whole.
func differing(was, now []conf.Member) (before, after []conf.Member) {
	first, last := 0, min(len(was), len(now))
	for first < last && equal(&was[first], &now[first]) {
		first++
	}
	last -= first
	n := 0
	for n < last && equal(&was[len(was)-1-n], &now[len(now)-1-n]) {
		n++
	}
	before, after = was[first:len(was)-n], now[first:len(now)-n]
	names := make(map[string]bool, len(before)+len(after))
	for _, list := range [][]conf.Member{before, after} {
		for i := range list {
			names[list[i].Name] = true
		}
	}
	for _, list := range [][]conf.Member{was[:first], was[len(was)-n:]} {
		for i := range list {
			if names[list[i].Name] {
				return was, now
			}
		}
	}
	return before, after
}

// named lists servers that are to go and that other lines name, as use-server, track and fetches like srv_is_up do: whether the text is
// good without them HAProxy has to say.
func named(t conf.Text, gone []Step) []string {
	if len(gone) == 0 {
		return nil
	}
	used := map[string]bool{} // BACKEND/SERVER
	var expressions []string  // in which such a name may stand
	for _, s := range t.Sections {
		for _, l := range s.Lines {
			from := 1
			if s.Members(l) {
				from = min(3, len(l.Words))
			}
			for i, w := range l.Words[from:] {
				switch {
				case i == 0 && l.Words[0] == "use-server":
					used[s.Name+"/"+w] = true
				case l.Words[from+i-1] == "track":
					used[s.Name+"/"+w] = true
					used[w] = true
				case strings.ContainsRune(w, '('):
					expressions = append(expressions, w)
				}
			}
		}
	}
	all := strings.Join(expressions, " ")
	var out []string
	for _, g := range gone {
		if name := g.Backend + "/" + g.Server; used[name] || all != "" && (strings.Contains(all, name+")") || strings.Contains(all, "("+g.Server+")")) {
			out = append(out, name)
		}
	}
	return out
}

// renumbered names a server that stays and whose automatic id, its place on the ring, is another one in the new text; "" there is none.
func renumbered(was, now conf.Pool) string {
	automatic := func(m conf.Member) bool { return m.ID == 0 }
	if !hashed(now) || !slices.ContainsFunc(was.Members, automatic) && !slices.ContainsFunc(now.Members, automatic) {
		return ""
	}
	before, after := numbers(was), numbers(now)
	for _, m := range now.Members {
		id, stays := before[m.Name]
		if o, _ := read(m.Options()); stays && id != after[m.Name] && o["hash-key"] != "addr" && o["hash-key"] != "addr-port" {
			return key(m)
		}
	}
	return ""
}

// numbers gives the id of each server of a pool, by name. HAProxy numbers the servers without an id by their place among all of them, and
// takes the next number that is free (2.6, 3.0 and 3.2, tried).
func numbers(p conf.Pool) map[string]uint32 {
	out, taken := make(map[string]uint32, len(p.Members)), make(map[uint32]bool, len(p.Members))
	for _, m := range p.Members {
		taken[m.ID] = true
	}
	next := uint32(1)
	for _, m := range p.Members {
		id := m.ID
		if id == 0 {
			for taken[next] {
				next++
			}
			id = next
		}
		out[m.Name] = id
		next++
	}
	return out
}

func key(m conf.Member) string { return m.Backend + "/" + m.Name }

// cause is why a changed server needs a reload.
func cause(o, m conf.Member) Cause {
	if o.ID != m.ID && o.Raw == m.Raw {
		return IDCollision
	}
	return ServerChanged
}

// add is the step for a new server, or the word that stands in the way.
func add(p conf.Pool, m conf.Member) (Step, string) {
	o, word := read(m.Options())
	if word != "" {
		return Step{}, word
	}
	if !m.Addr.IsValid() {
		return Step{}, m.Raw // a name, a socket, an offset: not proven to be the same at run time
	}
	if _, backup := o["backup"]; backup {
		return Step{}, "backup" // of several the first line counts, and an added server is the last
	}
	if k := o["hash-key"]; hashed(p) && m.ID == 0 && (k == "" || k == "id") {
		return Step{}, "without id" // the worker and the file would choose different ones
	}
	_, checked := o["check"]
	return Step{Kind: Add, Backend: m.Backend, Server: m.Name, Address: m.Addr.String(), Options: o.words(), Checked: checked}, ""
}

// alter gives the steps from one line of a server to another, where only its address, weight or maxconn differ.
func alter(o, m conf.Member) ([]Step, bool) {
	was, unknown := read(o.Options())
	now, unknownNow := read(m.Options())
	if unknown != "" || unknownNow != "" {
		return nil, false
	}
	var out []Step
	if same := o.Addr.IsValid() && o.Addr == m.Addr && o.Addr.Port() != 0; o.Raw != m.Raw && !same {
		if !o.Addr.IsValid() || !m.Addr.IsValid() || o.Addr.Port() == 0 || m.Addr.Port() == 0 {
			return nil, false // a name, a socket, an offset: not proven to be the same at run time
		}
		_, checked := now["check"]
		out = append(out, Step{Kind: Move, Backend: m.Backend, Server: m.Name, Address: m.Addr.String(), Checked: checked})
	}
	for kind, name := range map[Kind]string{Weight: "weight", MaxConn: "maxconn"} {
		value, given := now[name]
		if strings.Trim(value, "0123456789") != "" { // HAProxy reads 50% as 50 in a text, and as a half at run time
			return nil, false
		}
		if value != was[name] {
			if !given {
				value = map[Kind]string{Weight: "1", MaxConn: "0"}[kind]
			}
			out = append(out, Step{Kind: kind, Backend: m.Backend, Server: m.Name, Value: value})
		}
		delete(was, name)
		delete(now, name)
	}
	slices.SortFunc(out, func(a, b Step) int { return int(a.Kind) - int(b.Kind) })
	return out, maps.Equal(was, now)
}

// ordered reports whether the order of the lines makes no difference: `balance first` and a map-based hash go by it, and of several
// backup servers the first one serves.
func ordered(was, now conf.Pool) bool {
	if !slices.Equal(backups(was, now), backups(now, was)) {
		return false
	}
	if dynamic(now) == "" && (len(now.Balance) == 0 || now.Balance[0] != "first") {
		return true
	}
	return slices.EqualFunc(was.Members, now.Members, func(a, b conf.Member) bool { return a.Name == b.Name })
}

// backups lists the servers of p that are backups and that o has as well, in their order.
func backups(p, o conf.Pool) []string {
	var out []string
	for _, m := range p.Members {
		last := ""
		for _, words := range [][]string{m.Defaults, m.Words[3:]} { // m.Options would copy them, of each server
			for _, w := range words {
				if w == "backup" || w == "no-backup" {
					last = w
				}
			}
		}
		if last == "backup" {
			out = append(out, m.Name)
		}
	}
	if len(out) == 0 {
		return nil
	}
	there := map[string]bool{}
	for _, m := range o.Members {
		there[m.Name] = true
	}
	return slices.DeleteFunc(out, func(name string) bool { return !there[name] })
}
