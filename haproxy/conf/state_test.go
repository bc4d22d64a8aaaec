package conf

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

const stateHeading = "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change " +
	"srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port " +
	"srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n"

func TestRewriteState(t *testing.T) {
	text := parse(t, `
backend be
  server same 127.0.0.1:80 check id 7
  server moved [::1]:81
  server unix unix@/x
  server name example.org:82
  server other example.net:83
  server port 10.0.0.1:+5
  server none 10.0.0.2
  server env "$X:80"
  server rest unreadable:port
listen li
  server same 127.0.0.1:90
frontend fe
  server gone 127.0.0.1:80
`)
	const tail = " 0 0 20 20 2 8 2 0 6 0 0 1 "
	row := func(names, rest string) string { return names + tail + rest + "\n" }
	state := "1\n" + stateHeading +
		row("2 be 7 same 127.0.0.1", "- 80 - 1 99 10.9.9.9 10.9.9.8 98") +
		row("2 be 8 moved 127.0.0.1", "- 80 - 0 0 - - 0") +
		row("2 be 9 unix 127.0.0.1", "- 80 - 0 0 - - 0") +
		row("2 be 10 name 127.0.0.9", "example.org 80 - 0 0 - - 0") +
		row("2 be 11 other 127.0.0.9", "example.org 80 - 0 0 - - 0") +
		row("2 be 12 port 127.0.0.1", "- 80 - 0 0 - - 0") +
		row("2 be 13 none 127.0.0.1", "- 80 - 0 0 - - 0") +
		row("2 be 14 env 127.0.0.1", "- 80 - 0 0 - - 0") +
		row("2 be 15 rest 127.0.0.1", "- 80 - 0 0 - - 0") +
		row("2 be 16 gone 127.0.0.1", "- 80 - 0 0 - - 0") +
		row("2 be 7 same 127.0.0.2", "- 80 - 0 0 - - 0") + // twice
		row("3 li 8 same 127.0.0.1", "- 80 -") + // without the optional columns
		"3 li 8\n" + "3 li 8 same 127.0.0.1 x 0 20 20 2 8 2 0 6 0 0 1 - 80 - 0 0 - - 0\n" + "\n" +
		strings.TrimSuffix(row("3 li 8 same 127.0.0.1", "- 80 - 0 0 - - 0"), "\n")
	want := "1\n" + stateHeading +
		row("2 be 7 same 127.0.0.1", "- 80 -") +
		row("2 be 9 unix -", "- 0 -") +
		row("2 be 10 name 127.0.0.9", "example.org 82 -") +
		row("2 be 11 other -", "example.net 83 -") +
		row("2 be 12 port 10.0.0.1", "- 5 -") +
		row("2 be 13 none 10.0.0.2", "- 0 -")
	if got := string(RewriteState([]byte(state), text)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestRewriteStateOfUnknownVersion(t *testing.T) {
	for _, state := range []string{"", "\n", "2\n", "1", "1 \n", "x", "Unknown command\n", "11\n"} {
		if got := RewriteState([]byte(state), Text{}); (state == "1") != (got != nil) {
			t.Errorf("%q: %q", state, got)
		}
	}
}

func FuzzRewriteState(f *testing.F) {
	f.Add("1\n"+stateHeading+"2 be 7 s1 127.0.0.1 0 0 20 20 2 8 2 0 6 0 0 1 - 80 - 1 99 10.9.9.9 10.9.9.8 98\n", "127.0.0.1:80")
	f.Add("1\n2 be 7 s1 - 0 0 20 20 2 8 2 0 6 0 0 1 x 80 -\n", "x:+1")
	f.Add("1\n0 be 0 s1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n", "")
	f.Add("1\n0 be 0 s1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n", "a\tb:1")
	f.Fuzz(func(t *testing.T, state, addr string) {
		out := string(RewriteState([]byte(state), Text{Sections: []Section{{Kind: "backend", Name: "be", Lines: []Line{
			{Words: []string{"server", "s1", addr}},
		}}}}))
		if out == "" {
			return
		}
		rows := 0
		for line := range strings.Lines(strings.TrimPrefix(out, "1\n")) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			rows++
			if cols := strings.Fields(line); len(cols) != colRequired || cols[colBackend] != "be" || cols[colServer] != "s1" || !strings.HasSuffix(line, "\n") {
				t.Fatalf("row %q of %q", line, out)
			}
		}
		if rows > 1 {
			t.Fatalf("%d rows in %q", rows, out)
		}
	})
}

// rows are the columns of `show servers state` by server name.
func rows(t *testing.T, i *haproxytest.Instance) (raw string, by map[string][]string) {
	t.Helper()
	raw, err := i.Ask("@1 show servers state be")
	if err != nil {
		t.Fatal(err)
	}
	by = map[string][]string{}
	for line := range strings.Lines(raw) {
		if cols := strings.Fields(line); len(cols) > colRequired && cols[0] != "#" {
			by[cols[colServer]] = cols
		}
	}
	return raw, by
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("never: %s", what)
		}
	}
}

// A reload with the rewritten state keeps what was found out, and takes everything else from the new text.
func TestRewriteStateInHAProxy(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		live, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, which is all that a check asks for
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := live.Close(); err != nil {
				t.Error(err)
			}
		})
		up := live.Addr().(*net.TCPAddr).Port
		free := haproxytest.FreePorts(t, 3)
		dead, elsewhere := free[0], free[1]
		stateFile := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(stateFile, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		head := fmt.Sprintf("global\n  server-state-file %s\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 1s\n"+
			"  timeout server 1s\n  load-server-state-from-file global\nfrontend fe\n  bind 127.0.0.1:%d\n  default_backend be\n", stateFile, free[2])
		line := func(name string, port, id int, more string) string {
			return fmt.Sprintf("  server %s 127.0.0.1:%d id %d check %s\n", name, port, id, more)
		}
		i := h.Start(t, head+"backend be\n  balance uri\n  hash-type consistent\n  default-server inter 100ms fall 1 rise 1\n"+
			line("up", up, 11, "")+line("dead", dead, 12, "")+line("deadmoved", dead, 13, "")+line("moved", up, 14, "")+
			line("heavier", up, 15, "weight 10")+line("light", up, 16, "weight 10")+line("maint", up, 17, "")+
			line("drain", up, 18, "")+line("gone", up, 19, "")+line("tls", up, 20, "")+line("port", up, 21, fmt.Sprintf("port %d", up)),
			"one")
		for _, cmd := range []string{"set server be/light weight 3", "set server be/heavier weight 3", "set server be/maint state maint", "set server be/drain state drain"} {
			if reply, err := i.Ask("@1 " + cmd); err != nil || strings.TrimSpace(reply) != "" {
				t.Fatal(cmd, reply, err)
			}
		}
		var raw string
		eventually(t, "dead servers are down", func() bool {
			var by map[string][]string
			raw, by = rows(t, i)
			return by["dead"][colOp] == "0" && by["deadmoved"][colOp] == "0"
		})

		// Another order, other ids, a backend before it; and no check ends soon, so that what shows comes from the file.
		next := head + "backend before\n  server x 127.0.0.1:1\nbackend be\n  balance uri\n  hash-type consistent\n  default-server inter 1h fall 1 rise 1\n" +
			line("new", up, 11, "") + line("port", up, 12, fmt.Sprintf("port %d", elsewhere)) + line("tls", up, 13, "ssl verify none") +
			line("drain", up, 14, "") + line("maint", up, 15, "") + line("light", up, 16, "weight 10") + line("heavier", up, 17, "weight 50") +
			line("moved", elsewhere, 18, "") + line("deadmoved", elsewhere, 19, "") + line("dead", dead, 20, "") + line("up", up, 21, "")
		file := RewriteState([]byte(raw), parse(t, next))
		if err := os.WriteFile(stateFile, file, 0o600); err != nil {
			t.Fatal(err)
		}
		said := len(i.Output())
		i.Write(t, next, "two")
		if _, err := i.Ask("reload"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the new worker answers", func() bool {
			got, err := i.Ask("@1 show env FNLB_REVISION")
			return err == nil && strings.Contains(got, "=two\n")
		})
		_, by := rows(t, i)
		cols := func(name string) string {
			c := by[name]
			return strings.Join([]string{c[colServerID], c[colAddr], c[colPort], "up" + c[colOp], "admin" + c[6], "weight" + c[7] + "/" + c[8], "tls" + c[20], "check" + c[21]}, " ")
		}
		at := strconv.Itoa
		for name, want := range map[string]string{
			"new":       "11 127.0.0.1 " + at(up) + " up2 admin0 weight1/1 tls0 check0",
			"port":      "12 127.0.0.1 " + at(up) + " up2 admin0 weight1/1 tls0 check" + at(elsewhere),
			"tls":       "13 127.0.0.1 " + at(up) + " up2 admin0 weight1/1 tls1 check0",
			"drain":     "14 127.0.0.1 " + at(up) + " up2 admin8 weight1/1 tls0 check0",
			"maint":     "15 127.0.0.1 " + at(up) + " up0 admin1 weight1/1 tls0 check0",
			"light":     "16 127.0.0.1 " + at(up) + " up2 admin0 weight3/10 tls0 check0",
			"heavier":   "17 127.0.0.1 " + at(up) + " up2 admin0 weight50/50 tls0 check0",
			"moved":     "18 127.0.0.1 " + at(elsewhere) + " up2 admin0 weight1/1 tls0 check0",
			"deadmoved": "19 127.0.0.1 " + at(elsewhere) + " up2 admin0 weight1/1 tls0 check0",
			"dead":      "20 127.0.0.1 " + at(dead) + " up0 admin0 weight1/1 tls0 check0",
			"up":        "21 127.0.0.1 " + at(up) + " up2 admin0 weight1/1 tls0 check0",
		} {
			if got := cols(name); got != want {
				t.Errorf("%-9s: %s\nwant       %s", name, got, want)
			}
		}
		if len(by) != 11 {
			t.Errorf("%d servers", len(by))
		}
		for line := range strings.Lines(i.Output()[said:]) {
			if strings.Contains(line, "state file") || strings.Contains(line, "server-state") && !strings.Contains(line, "changed from server-state after a reload") {
				t.Errorf("HAProxy objects: %s", line)
			}
		}
		if !slices.Contains(strings.Split(string(file), "\n"), strings.TrimSpace(stateHeading)) {
			t.Error("the file has no heading")
		}
	})
}

func TestFilterState(t *testing.T) {
	const state = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state\n" +
		"3 be 1 a 192.0.2.1 2 0 1\n3 be 2 b 192.0.2.2 0 1 1\n3 be 3 c 192.0.2.3 0 5 1\n4 other 1 a 192.0.2.1 0 4 1\nshort line\n"
	var asked []string
	got := FilterState([]byte(state), func(backend, server string, maint bool) bool {
		asked = append(asked, fmt.Sprint(backend, "/", server, " ", maint))
		return !maint
	})
	if want := "be/a false, be/b true, be/c true, other/a false"; strings.Join(asked, ", ") != want {
		t.Errorf("asked for %q, want %q", asked, want)
	}
	want := strings.Replace(strings.Replace(state, "3 be 2 b 192.0.2.2 0 1 1\n", "", 1), "3 be 3 c 192.0.2.3 0 5 1\n", "", 1)
	if string(got) != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestSetInitialWeights(t *testing.T) {
	const row = "3 be 1 a 192.0.2.1 2 0 9 1 5 6 3 4 6 0 0 0 - 80 - 0 0 - - 0\n"
	got := SetInitialWeights([]byte("1\n# be_id\n"+row+strings.Replace(row, " a ", " b ", 1)), map[string]int{"be/a": 9})
	want := "1\n# be_id\n" + strings.Replace(row, " 9 1 ", " 9 9 ", 1) + strings.Replace(row, " a ", " b ", 1)
	if string(got) != want {
		t.Errorf("%q, want %q", got, want)
	}
}
