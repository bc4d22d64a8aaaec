package conf

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"
)

// Columns of `show servers state`, format version 1 (management manual 9.3); the same in 2.6, 3.0 and 3.2.
const (
	colBackend  = 1
	colServerID = 2
	colServer   = 3
	colAddr     = 4
	colOp       = 5 // first of the numbers that end with srv_f_forced_id
	colAdmin    = 6
	colInitial  = 8
	colForced   = 16
	colFQDN     = 17
	colPort     = 18
	colRequired = 20 // this many columns must be there; what follows is optional
)

// RewriteState turns the reply to `show servers state` into a server-state file that fits the text t, so that a reload to t
// keeps what checks and people have found out about the servers, and nothing else.
//
// HAProxy lets the file beat the text for addresses, ports, TLS, and check and agent addresses. Here the text has to win: lines
// of servers that t does not have, or has at another address, are dropped, the id is that of t, and the optional columns from
// srv_use_ssl on are left out. The weight stays, because HAProxy keeps the running weight only while the configured one is the
// same. Lines that HAProxy could not read are dropped too: one of them would make it ignore the whole file.
//
// The result is nil for another format version: no state is better than a wrong one.
func RewriteState(state []byte, t Text) []byte {
	first, rest, _ := bytes.Cut(state, []byte{'\n'})
	if string(first) != "1" {
		return nil
	}
	type key struct{ backend, server string }
	servers := map[key]Server{}
	for _, s := range t.Servers() {
		servers[key{s.Backend, s.Name}] = s
	}
	out := append(make([]byte, 0, len(state)), "1\n"...)
	for line := range strings.Lines(string(rest)) {
		if strings.HasPrefix(line, "#") {
			out = append(out, strings.TrimRight(line, "\r\n")+"\n"...)
			continue
		}
		cols := strings.Fields(line)
		if len(cols) < colRequired || !numbers(cols[colOp:colForced+1]) || !strings.HasSuffix(line, "\n") {
			continue
		}
		s, known := servers[key{cols[colBackend], cols[colServer]}]
		if !known || !place(cols, s) {
			continue
		}
		delete(servers, key{s.Backend, s.Name}) // once only
		out = append(out, strings.Join(cols[:colRequired], " ")+"\n"...)
	}
	return out
}

// forcedMaint is the bit of srv_admin_state that `set server … state maint` sets.
const forcedMaint = 1

// FilterState takes the lines of servers out of a reply to `show servers state` that keep does not want; maint says that somebody put
// the server into maintenance at run time.
func FilterState(state []byte, keep func(backend, server string, maint bool) bool) []byte {
	out := make([]byte, 0, len(state))
	for line := range bytes.Lines(state) {
		cols := strings.Fields(string(line))
		if len(cols) > colAdmin && !strings.HasPrefix(cols[0], "#") {
			admin, err := strconv.Atoi(cols[colAdmin])
			if !keep(cols[colBackend], cols[colServer], err == nil && admin&forcedMaint != 0) {
				continue
			}
		}
		out = append(out, line...)
	}
	return out
}

// SetInitialWeights writes the weights of the text that a worker stands for, by BACKEND/SERVER, into the column srv_iweight: after a
// change at run time the worker itself still tells the weight that it was started with.
func SetInitialWeights(state []byte, weights map[string]int) []byte {
	out := make([]byte, 0, len(state))
	for line := range strings.Lines(string(state)) {
		cols := strings.Fields(line)
		if len(cols) >= colRequired && !strings.HasPrefix(cols[0], "#") {
			if w, ok := weights[cols[colBackend]+"/"+cols[colServer]]; ok && cols[colInitial] != strconv.Itoa(w) {
				cols[colInitial] = strconv.Itoa(w)
				line = strings.Join(cols, " ") + "\n"
			}
		}
		out = append(out, line...)
	}
	return out
}

// place writes where s is into the columns, and reports whether that is known.
func place(cols []string, s Server) bool {
	if s.ID != 0 {
		cols[colServerID] = strconv.FormatUint(uint64(s.ID), 10)
	}
	if s.Addr.IsValid() {
		if was, err := netip.ParseAddr(cols[colAddr]); err == nil && (was.Unmap() != s.Addr.Addr().Unmap() || cols[colPort] != strconv.Itoa(int(s.Addr.Port()))) {
			return false // what was found there says nothing about another machine
		}
		cols[colAddr], cols[colFQDN], cols[colPort] = s.Addr.Addr().String(), "-", strconv.Itoa(int(s.Addr.Port()))
		return true
	}
	a := parseAddress(s.Raw)
	switch {
	case strings.Contains(s.Raw, "$"):
		return false // HAProxy's secret
	case !a.stream:
		cols[colAddr], cols[colFQDN], cols[colPort] = "-", "-", "0"
		return true
	}
	port, err := strconv.ParseUint("0"+strings.TrimPrefix(a.port, "+"), 10, 16) // none, or relative to the client's
	if err != nil || !a.ip.IsValid() && (!isName(a.host) || a.host[0] == '_') { // _http._tcp.NAME: each server has a name of its own
		return false
	}
	cols[colPort] = strconv.FormatUint(port, 10)
	switch {
	case a.ip.IsValid():
		cols[colAddr], cols[colFQDN] = a.ip.String(), "-"
	case cols[colFQDN] != a.host: // another name: what the old one resolved to is of no use
		cols[colAddr], cols[colFQDN] = "-", a.host
	}
	return true
}

// isName reports whether s can be a host name, and so a column.
func isName(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_')
	}) < 0
}

// numbers reports whether all are whole numbers.
func numbers(cols []string) bool {
	for _, c := range cols {
		if _, err := strconv.ParseInt(c, 10, 64); err != nil {
			return false
		}
	}
	return true
}
