package plan

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/fnlb/fnlb/haproxy/conf"
)

// Cause is the sort of a Reason, one of a closed set: it is the label of a metric.
type Cause string

// The causes of a reload.
const (
	ServerAdded   Cause = "server-added"   // told beside other causes
	ServerRemoved Cause = "server-removed" // told beside other causes
	ServerChanged Cause = "server-changed"
	ServerOption  Cause = "server-option" // a word that `add server` does not take, or means something else there
	ServerNamed   Cause = "server-named"  // a server that goes is named elsewhere in the text, so that haproxy -c has to be asked first
	ServerOrder   Cause = "server-order"  // balance first goes by the order of the lines
	NotDynamic    Cause = "not-dynamic"   // the backend's algorithm takes no servers at run time
	IDCollision   Cause = "id-collision"  // a newcomer changed another server's id, its place in the ring
	Listeners     Cause = "listeners"
	BackendAdded  Cause = "backend-added" // HAProxy makes no backend at run time
	BackendGone   Cause = "backend-removed"
	Settings      Cause = "settings"       // anything else in the text
	ManyChanges   Cause = "many-changes"   // the steps would take longer than a reload
	RuntimeFailed Cause = "runtime-failed" // the worker did not do what the plan took for possible
	Files         Cause = "files"          // a file beside the text that no running worker can take
	Certificate   Cause = "certificate"    // told beside other causes
	MapEntries    Cause = "map"            // told beside other causes
	Exchanged     Cause = "exchanged"      // entries of maps exchange their backends while servers of these change
)

// Reason says why a reload is needed: the cause, and what it is about.
type Reason struct {
	Cause Cause
	About []string // names, sorted as in the text; may be empty
}

// String names the cause and at most five subjects.
func (r Reason) String() string {
	const most = 5
	about := r.About
	if len(about) > most {
		about = append(slices.Clone(about[:most]), fmt.Sprintf("and %d more", len(about)-most))
	}
	text := strings.TrimSpace(string(r.Cause) + " " + strings.Join(about, ", "))
	switch r.Cause {
	case BackendAdded:
		text += " (HAProxy makes no backend at run time)"
	case BackendGone:
		text += " (HAProxy deletes no backend at run time)"
	}
	return text
}

// Plan is what it takes: nothing, steps at run time, or a reload. A Plan without Reload may have no Steps although the texts differ:
// then they mean the same.
type Plan struct {
	Changes []Reason // what becomes of servers, for people
	Steps   []Step   // in the order to take them; none where a reload is needed
	Names   Names    // how the worker calls files of the new text after them
	Reload  []Reason // why a reload is needed; none: it is not

	fileSteps []Step
}

// MostCommands is how many commands the steps of a plan may take before a reload is better. A command costs 0.13 to 0.2 ms through the master
// socket, a server takes three, and nothing else is changed meanwhile; a reload to 10,000 servers is ready after 0.9 s, with haproxy -c (2.6
// and 3.0, measured on two busy cores). So this is a second, and for fewer servers a reload would be quicker as well: but it costs a process.
const MostCommands = 6000

// Commands is about how many commands the steps take.
func (p Plan) Commands() int {
	n := len(p.Steps)
	for _, s := range p.Steps {
		if s.Kind == Add {
			n += 2
		}
	}
	return n
}

// Reasons gives changes and reasons as people read them, each once.
func (p Plan) Reasons() []string {
	var out []string
	for _, r := range slices.Concat(p.Changes, p.Reload) {
		if s := r.String(); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// Bundle is a configuration whose text was read.
type Bundle struct {
	conf.Text
	Main  []byte
	Files map[string]conf.File
}

// Read reads the text of a bundle.
func Read(b conf.Bundle) (Bundle, error) {
	t, err := conf.Parse(b.Main)
	return Bundle{t, b.Main, b.Files}, err
}

// Make compares the bundle in force with the next one; names says how the worker calls files of the one in force. Two texts that differ in
// nothing that was read differ in comments, and one must stay the text that a worker has loaded: that is a reload.
func Make(was, now Bundle, names Names) Plan {
	var p Plan
	paths, same := renamed(was, now)
	p.changedFiles(was, now, paths, names)
	if !bytes.Equal(was.Main, now.Main) {
		p.compare(was.Text, same)
	}
	if len(p.Reload) > 0 {
		p.Steps, p.Names = nil, nil
		return p
	}
	var why []Reason
	if p.Steps, why = arrange(now.Text, p.Steps, p.fileSteps); len(why) > 0 {
		p.add(why...)
		p.Names = nil
	}
	return p
}

// compare adds what the difference of two texts takes.
func (p *Plan) compare(was, now conf.Text) {
	pairs := pair(was.Pools(), now.Pools())
	about := servers(pairs)
	moved := listeners(was, now)
	p.add(moved)
	added, gone := backends(was, now), backends(now, was)
	same := slices.Equal(rest(was, gone), rest(now, added))
	p.add(reason(BackendAdded, added), reason(BackendGone, gone))
	if same && moved.Cause == "" && !slices.Equal(bindLines(was), bindLines(now)) { // the same addresses, with the options of others
		p.add(reason(Listeners, diff(bindLines(was), bindLines(now), "")))
	}
	if !same || len(p.Reload) == 0 && len(about) == 0 && len(p.Changes) == 0 {
		p.add(Reason{Cause: Settings})
	}
	p.Changes = append(about, p.Changes...)
	if len(p.Reload) == 0 {
		p.Steps, p.Reload = steps(now, pairs)
	}
}

func (p *Plan) add(reasons ...Reason) {
	for _, r := range reasons {
		if r.Cause != "" {
			p.Reload = append(p.Reload, r)
		}
	}
}

type serverKey struct{ backend, name string }

func (k serverKey) String() string { return k.backend + "/" + k.name }

// pools is one backend in both texts, and the servers that may differ.
type pools struct {
	was, now  conf.Pool
	left, new []conf.Member
}

// pair puts the backends of two texts side by side. Where they do not have the same ones, all servers are in one of them.
func pair(was, now []conf.Pool) []pools {
	if !slices.EqualFunc(was, now, func(a, b conf.Pool) bool { return a.Name == b.Name }) {
		was, now = together(was), together(now)
	}
	pairs := make([]pools, len(now))
	for i := range now {
		left, new := differing(was[i].Members, now[i].Members)
		pairs[i] = pools{was[i], now[i], left, new}
	}
	return pairs
}

// servers tells what becomes of servers, for people.
func servers(pairs []pools) []Reason {
	var added, removed, changed, moved []string
	for _, p := range pairs {
		left, new := p.left, p.new
		old := make(map[serverKey]conf.Member, len(left))
		for _, m := range left {
			old[serverKey{m.Backend, m.Name}] = m
		}
		seen := make(map[serverKey]bool, len(new))
		for _, m := range new {
			key := serverKey{m.Backend, m.Name}
			seen[key] = true
			o, ok := old[key]
			switch {
			case !ok:
				added = append(added, key.String())
			case o.ID != m.ID && o.Raw == m.Raw:
				moved = append(moved, key.String())
			case !slices.Equal(o.Words, m.Words):
				changed = append(changed, key.String())
			}
		}
		for _, m := range left {
			if key := (serverKey{m.Backend, m.Name}); !seen[key] {
				removed = append(removed, key.String())
			}
		}
	}
	var out []Reason
	for _, r := range []Reason{reason(ServerAdded, added), reason(ServerRemoved, removed), reason(ServerChanged, changed), reason(IDCollision, moved)} {
		if r.Cause != "" {
			out = append(out, r)
		}
	}
	return out
}

// together makes one pool of all, where texts have different ones.
func together(pools []conf.Pool) []conf.Pool {
	var all conf.Pool
	for _, p := range pools {
		all.Members = append(all.Members, p.Members...)
	}
	return []conf.Pool{all}
}

func listeners(was, now conf.Text) Reason {
	about := diff(binds(was), binds(now), "+")
	return reason(Listeners, append(about, diff(binds(now), binds(was), "-")...))
}

func binds(t conf.Text) []string {
	var out []string
	for _, b := range t.Binds() {
		out = append(out, b.Section+" "+b.Raw)
	}
	return out
}

// bindLines are the whole lines in their order.
func bindLines(t conf.Text) []string {
	var out []string
	for _, s := range t.Sections {
		for _, l := range s.Lines {
			if l.Words[0] == "bind" {
				out = append(out, s.Name+" "+strings.Join(l.Words[1:], " "))
			}
		}
	}
	return out
}

// diff gives what b has and a has not.
func diff(a, b []string, mark string) []string {
	have := map[string]bool{}
	for _, x := range a {
		have[x] = true
	}
	var out []string
	for _, x := range b {
		if !have[x] {
			out = append(out, mark+x)
		}
	}
	return out
}

func reason(c Cause, about []string) Reason {
	if len(about) == 0 {
		return Reason{}
	}
	return Reason{Cause: c, About: about}
}

// backends lists those that b has and a has not.
func backends(a, b conf.Text) (out []string) {
	have := map[string]bool{}
	for _, s := range a.Sections {
		have[s.Kind+" "+s.Name] = true
	}
	for _, s := range b.Sections {
		if s.Kind == "backend" && !have["backend "+s.Name] {
			out = append(out, s.Name)
		}
	}
	return out
}

// rest is the text without these backends, and without the servers of its backends and the addresses of its binds: what is left counts as settings.
func rest(t conf.Text, less []string) []string {
	var out []string
	for _, s := range t.Sections {
		if s.Kind == "backend" && len(less) > 0 && slices.Contains(less, s.Name) {
			continue
		}
		out = append(out, s.Kind+" "+s.Name+" from "+s.From)
		for _, l := range s.Lines {
			switch {
			case len(l.Words) == 0, s.Members(l):
			case l.Words[0] == "bind" && len(l.Words) > 1:
				out = append(out, strings.Join(l.Words[2:], "\x00"))
			default:
				out = append(out, strings.Join(l.Words, "\x00"))
			}
		}
	}
	return out
}
