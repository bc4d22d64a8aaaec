package app

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/fnlb/fnlb/model"
)

// Bounds of the first screen; a terminal of 24 lines shows it whole in most cases.
const (
	screenRows  = 12 // of the table
	screenWhys  = 8  // of what does not serve
	screenWide  = 80 // columns, where no terminal says less
	screenLeast = 40
	listenWide  = 26 // columns of an address: one of IPv6 that is written in full is shortened
)

// screen is what the first screen is made of.
type screen struct {
	status model.Status
	state  model.State  // what is wanted
	barred []model.Bind // listeners of it that HAProxy cannot have
	url    string       // of the management API, for a curl on this host; empty: only the admin socket answers
	docker bool         // containers are followed
	pools  model.Bind   // of the gRPC service; no port: none
	noPort bool         // nodes have no port
	width  int          // columns
	color  bool
}

// leftOutWord stands in the table where a whole port is left out.
const leftOutWord = "left out"

// row is one line of the table.
type row struct {
	listen, where, service, servers string
	bad                             bool
}

// render gives the first screen: what is served, and below it what is not, why, and what to change. It holds nothing that a terminal or
// a log could take for a command, and at most a few dozen lines.
func (s *screen) render() string {
	b := &page{width: max(min(s.width, screenWide), screenLeast), color: s.color}
	b.line("")
	b.wrap("", s.heading())
	rows := s.rows()
	b.line("")
	b.table(rows[:min(len(rows), screenRows)])
	if more := len(rows) - screenRows; more > 0 {
		b.wrap("  ", s.more(more))
	}
	if unserved := s.status.Unserved(); len(unserved) > 0 {
		b.line("")
		b.bold("Not served:")
		for _, u := range unserved[:min(len(unserved), screenWhys)] {
			b.wrap("  ", u.Owner.String()+": "+u.Why)
			if u.Mend != "" {
				b.wrap("    ", "-> "+u.Mend)
			}
		}
		if more := len(unserved) - screenWhys; more > 0 {
			b.wrap("  ", s.more(more))
		}
	}
	if len(s.state.Servers) == 0 {
		b.line("")
		b.bold("It waits for the first server:")
		switch {
		case s.noPort:
		case s.url == "":
			b.line("  fnlb nodes add HOST:PORT")
		default:
			b.line("  curl -X PUT -d '{\"node\":\"HOST:PORT\"}' " + s.url + "/1/lb/nodes")
		}
		if s.pools.Port != 0 {
			b.line(fmt.Sprintf("  cli --lb=%s --pattern=/ addPool", strings.TrimPrefix(managementURL(s.pools, false), "http://")))
		}
		if s.docker {
			b.line("  docker run -d -l lb.enable=Y -l lb.publish=PORT -l lb.target=PORT IMAGE")
		}
	}
	b.line("")
	return b.text.String()
}

// more says where the rest is to be seen.
func (s *screen) more(n int) string {
	if s.url == "" {
		return fmt.Sprintf("… and %d more: fnlb explain, fnlb nodes", n)
	}
	return fmt.Sprintf("… and %d more: %s/1/lb/status", n, s.url)
}

// heading says what the table is: what is in force, or only what was asked for.
func (s *screen) heading() string {
	st := &s.status
	who := "fnlb " + st.Version
	if v := st.HAProxy.Version; v != "" {
		who += " with HAProxy " + v
	}
	switch {
	case st.Frozen != nil:
		return fmt.Sprintf("%s is frozen by %s (%s). This is what was asked for:", who, st.Frozen.By, st.Frozen.Reason)
	case st.Phase != model.Serving:
		return who + " does not serve yet. This is what was asked for:"
	case st.Applied != st.Wanted:
		return who + " serves, but not yet all of what was asked for:"
	}
	return who + " serves:"
}

// rows are those of the table, by address and port.
func (s *screen) rows() []row {
	type count struct{ up, all int }
	counts := map[string]count{}
	for i := range s.status.Servers {
		srv := &s.status.Servers[i]
		c := counts[srv.Service]
		c.all++
		if srv.Health == model.Up {
			c.up++
		}
		counts[srv.Service] = c
	}
	listeners := slices.Clone(s.state.Listeners)
	slices.SortStableFunc(listeners, func(a, b model.Listener) int {
		return cmp.Or(cmp.Compare(a.Bind.Port, b.Bind.Port), a.Bind.IP.Compare(b.Bind.IP))
	})
	routes := map[model.Bind][]model.Route{}
	for _, r := range s.state.Routes {
		routes[r.Bind] = append(routes[r.Bind], r)
	}
	var rows []row
	for i := range listeners {
		l := &listeners[i]
		listen := l.Bind.String()
		if l.TLS {
			listen += " TLS"
		}
		barred := slices.Contains(s.barred, l.Bind)
		if l.Statistics {
			servers := ""
			if barred {
				servers = leftOutWord
			}
			rows = append(rows, row{listen, "all", "HAProxy's statistics", servers, barred})
		}
		for _, r := range routes[l.Bind] {
			c := counts[r.Service]
			servers := model.UpOf(c.up, c.all)
			if barred {
				servers = leftOutWord
			}
			where := r.Pattern.String()
			switch {
			case r.Match == model.Rest && len(routes[l.Bind]) == 1:
				where = "all"
			case r.Match == model.Rest:
				where = "all else"
			}
			rows = append(rows, row{listen, where, r.Service, servers, barred || c.up < c.all})
		}
	}
	return rows
}

// page is text of bounded width.
type page struct {
	text  strings.Builder
	width int
	color bool
}

func (p *page) line(s string) { p.text.WriteString(strings.TrimRight(plain(s), " ") + "\n") }

// Colours of a terminal; each is put around text that is plain already.
const (
	bold   = "\x1b[1m"
	yellow = "\x1b[33m"
	reset  = "\x1b[0m"
)

func (p *page) painted(with, s string) {
	if s = strings.TrimRight(plain(s), " "); p.color {
		s = with + s + reset
	}
	p.text.WriteString(s + "\n")
}

func (p *page) bold(s string) { p.painted(bold, s) }

// wrap writes a text in lines that fit; those behind the first stand a little further in. A word that is too long for a line is cut up.
func (p *page) wrap(indent, s string) {
	line, empty := indent, true
	flush := func() {
		p.line(line)
		line, empty = indent+"  ", true
	}
	for word := range strings.FieldsSeq(plain(s)) {
		if !empty && columns(line)+1+columns(word) > p.width {
			flush()
		}
		if !empty {
			line += " "
		}
		for columns(line)+columns(word) > p.width {
			n := fitting(word, p.width-columns(line))
			line += word[:n]
			word = word[n:]
			flush()
		}
		line, empty = line+word, false
	}
	if !empty {
		p.line(line)
	}
}

// table writes rows in columns; the two in the middle share what the others leave.
func (p *page) table(rows []row) {
	const gap = 2
	head := row{"LISTEN", "HOST/PATH", "SERVICE", "SERVERS", false}
	var widths [4]int
	cells := func(r *row) [4]string {
		return [4]string{plain(r.listen), plain(r.where), plain(r.service), plain(r.servers)}
	}
	for _, r := range slices.Concat([]row{head}, rows) {
		for i, c := range cells(&r) {
			widths[i] = max(widths[i], columns(c))
		}
	}
	widths[0] = min(widths[0], listenWide)
	left := p.width - widths[0] - widths[3] - 3*gap
	if over := widths[1] + widths[2] - left; over > 0 { // the longer one gives first, and both keep something
		half := max(left/2, 4)
		widths[1] = max(min(widths[1], left-min(widths[2], left-half)), 4)
		widths[2] = max(left-widths[1], 4)
	}
	write := func(r *row) string {
		var b strings.Builder
		for i, c := range cells(r) {
			c = shorten(c, widths[i])
			b.WriteString(c + strings.Repeat(" ", max(widths[i]-columns(c), 0)+gap))
		}
		return b.String()
	}
	p.bold(write(&head))
	for i := range rows {
		if rows[i].bad {
			p.painted(yellow, write(&rows[i]))
		} else {
			p.line(write(&rows[i]))
		}
	}
}

// plain makes one line of visible text of what came from outside: nothing that a terminal obeys, and nothing that turns the direction.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) || unicode.Is(unicode.M, r) { // marks would pile up on what stands before
			return '?'
		}
		return r
	}, s)
}

// columns is how wide a terminal shows a plain text: the scripts of East Asia, and pictures, take two for each character.
func columns(s string) (n int) {
	for _, r := range s {
		n += wide(r)
	}
	return n
}

func wide(r rune) int {
	if r >= 0x1100 && r < 0x1160 || r >= 0x2e80 {
		return 2
	}
	return 1
}

// fitting is how many bytes of a text fit so many columns, those of one character at least.
func fitting(s string, width int) int {
	for i, r := range s {
		if width -= wide(r); width < 0 && i > 0 {
			return i
		}
	}
	return len(s)
}

// shorten keeps both ends of a text that is too wide: names of one kind begin alike and end differently.
func shorten(s string, width int) string {
	if columns(s) <= width {
		return s
	}
	runes := []rune(s)
	head, tail := []rune{}, []rune{}
	for room := width - 1; ; { // one for what stands in the middle
		r := runes[len(head)]
		if len(head) > len(tail) {
			r = runes[len(runes)-1-len(tail)]
		}
		if room -= wide(r); room < 0 {
			break
		}
		if len(head) > len(tail) {
			tail = append(tail, r)
		} else {
			head = append(head, r)
		}
	}
	slices.Reverse(tail)
	return string(head) + "…" + string(tail)
}

// managementURL is where this host's curl reaches the management API.
func managementURL(at model.Bind, tls bool) string {
	ip := at.IP
	if !ip.IsValid() || ip.IsUnspecified() {
		ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	scheme := "http"
	if tls {
		scheme = "https"
	}
	host := ip.String()
	if ip.Is6() {
		host = "[" + host + "]"
	}
	return scheme + "://" + host + ":" + strconv.Itoa(int(at.Port))
}
