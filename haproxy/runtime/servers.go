package runtime

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// ServerState is one row of `show servers state` (management manual, format version 1).
type ServerState struct {
	Backend, Server string
	Addr            netip.AddrPort // invalid for one without IP and port, such as a Unix socket
	Up              bool           // not stopped: what checks say, or true without checks
	Maint           bool           // forced, inherited or from the text
	Forced          bool           // in maintenance because somebody, or the word disabled in the text, said so
	Drain           bool           // forced or inherited
	Checked         bool           // has checks, and they are not disabled
	CheckPending    bool           // Checked, and no check of this worker or of a state file has ended yet
	Weight          int            // in force, before slowstart
	InitialWeight   int            // of the text
	Since           time.Duration  // last change of Up, whole seconds
}

// Bits of srv_admin_state and srv_check_state.
const (
	adminMaint  = adminForced | 0x02 | 0x04 | 0x20 // forced, inherited, of the text, no resolution
	adminForced = 0x01
	adminDrain  = 0x08 | 0x10
	checkOn     = 0x02 | 0x04 // configured and enabled
	checkNone   = 1           // srv_check_status: initialising; 0 is unknown
)

// ServersState asks a worker for all its servers, within 2 s. Raw is the reply for conf.RewriteState.
func (c *Client) ServersState(ctx context.Context, worker int) (raw []byte, rows []ServerState, err error) {
	text, err := c.one(ctx, worker, showState)
	if err != nil {
		return nil, nil, err
	}
	rows, err = parseServersState(text)
	if err != nil {
		return nil, nil, fmt.Errorf("worker %d: %s: %w", worker, showState, err)
	}
	return []byte(text + "\n"), rows, nil
}

func parseServersState(text string) ([]ServerState, error) {
	first, rest, _ := strings.Cut(text, "\n")
	if first != "1" {
		return nil, fmt.Errorf("unknown format version %q", clean(first))
	}
	rows := make([]ServerState, 0, strings.Count(rest, "\n"))
	var cols []string
	for line := range strings.Lines(rest) {
		cols = slices.AppendSeq(cols[:0], strings.FieldsSeq(line))
		if len(cols) == 0 || strings.HasPrefix(cols[0], "#") {
			continue
		}
		if len(cols) < 20 {
			return nil, fmt.Errorf("row %q has %d columns, at least 20 are known", clean(line), len(cols))
		}
		var n [20]int
		for _, i := range [...]int{5, 6, 7, 8, 9, 10, 13, 18} {
			var err error
			if n[i], err = strconv.Atoi(cols[i]); err != nil {
				return nil, fmt.Errorf("row %q, column %d: %w", clean(line), i+1, err)
			}
		}
		row := ServerState{
			Backend: cols[1], Server: cols[3],
			Up:     n[5] != 0,
			Maint:  n[6]&adminMaint != 0,
			Forced: n[6]&adminForced != 0,
			Drain:  n[6]&adminDrain != 0,
			Weight: n[7], InitialWeight: n[8],
			Since:   seconds(n[9]),
			Checked: n[13]&checkOn == checkOn,
		}
		row.CheckPending = row.Checked && n[10] <= checkNone
		if ip, err := netip.ParseAddr(cols[4]); err == nil && n[18] > 0 && n[18] <= 65535 {
			row.Addr = netip.AddrPortFrom(ip, uint16(n[18]))
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// seconds keeps what HAProxy says within what a Duration can hold.
func seconds(n int) time.Duration {
	const most = int(100 * 365 * 24 * time.Hour / time.Second)
	return time.Duration(min(max(n, 0), most)) * time.Second
}

// Stat is one server of `show stat` with its last check.
type Stat struct {
	Backend, Server string
	Status          string         // such as "UP", "UP 1/2", "DOWN", "no check", "MAINT", "DRAIN"
	CheckStatus     string         // such as "L7OK", "L4CON", "INI"; "" without checks
	CheckCode       int            // HTTP status of the check, 0 if there is none
	LastCheck       string         // HAProxy's words on the last check; printable, at most 200 bytes
	Since           time.Duration  // last change of Status, whole seconds
	Sessions        uint64         // requests in HTTP mode, connections in TCP mode, since the worker began or the server was added
	Addr            netip.AddrPort // invalid for one without IP and port, and where HAProxy does not tell it
}

// Stats asks a worker for the health of all servers, within 2 s.
func (c *Client) Stats(ctx context.Context, worker int) ([]Stat, error) {
	text, err := c.one(ctx, worker, showStat)
	if err != nil {
		return nil, err
	}
	stats, err := parseStats(text)
	if err != nil {
		return nil, fmt.Errorf("worker %d: %s: %w", worker, showStat, err)
	}
	return stats, nil
}

// parseStats reads the CSV by the names in its heading, since each version has more columns.
func parseStats(text string) ([]Stat, error) {
	heading, ok := strings.CutPrefix(text, "# ")
	if !ok {
		return nil, errors.New("no heading")
	}
	r := csv.NewReader(strings.NewReader(heading))
	r.FieldsPerRecord, r.LazyQuotes, r.ReuseRecord = -1, true, true
	names, err := r.Read()
	if err != nil {
		return nil, err
	}
	at := map[string]int{}
	for i, name := range names {
		at[name] = i
	}
	for _, name := range [...]string{"pxname", "svname", "status", "lastchg", "check_status", "check_code", "last_chk", "type", "stot"} {
		if _, ok := at[name]; !ok {
			return nil, fmt.Errorf("no column %s", name)
		}
	}
	var stats []Stat
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return stats, nil
		}
		if err != nil {
			return nil, err
		}
		if len(row) < len(names)-1 { // the heading ends in a comma
			return nil, fmt.Errorf("row of %d columns below a heading of %d", len(row), len(names))
		}
		get := func(name string) string { return row[min(at[name], len(row)-1)] }
		if get("type") != "2" {
			continue
		}
		code, errCode := optional(get("check_code"))
		since, errSince := optional(get("lastchg"))
		sessions, errSessions := optional(get("stot"))
		if err := errors.Join(errCode, errSince, errSessions); err != nil {
			return nil, err
		}
		var addr netip.AddrPort
		if _, known := at["addr"]; known {
			addr, _ = netip.ParseAddrPort(get("addr")) // a Unix socket is none
		}
		stats = append(stats, Stat{
			Backend: strings.Clone(get("pxname")), Server: strings.Clone(get("svname")), Status: clean(get("status")),
			CheckStatus: clean(strings.TrimPrefix(get("check_status"), "* ")), // "* " while a check runs
			CheckCode:   code, LastCheck: clean(get("last_chk")), Since: seconds(since),
			Sessions: uint64(max(sessions, 0)), Addr: addr,
		})
	}
}

// optional is a number, or 0 for an empty column.
func optional(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	return strconv.Atoi(s)
}

// maxWords bounds what of HAProxy's words goes into a log or a status.
const maxWords = 200

// clean makes outside text printable and at most 200 bytes long.
func clean(s string) string {
	if len(s) > 4*maxWords {
		s = s[:4*maxWords]
	}
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s))
	if len(s) <= maxWords {
		return s
	}
	cut := maxWords - len("…")
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
