package runtime

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	replyProc = `#<PID>          <type>          <reloads>       <uptime>        <version>      
6019            master          4 [failed: 1]   0d00h00m05s     2.6.12-1+deb12u3
# workers
6329            worker          0               0d00h00m01s     2.6.12-1+deb12u3
# old workers
6069            worker          2               0d00h00m03s     2.6.12-1+deb12u3
6000            worker          4               1d00h00m03s                     
# programs
6001            prog            0               0d00h00m01s     -               

`
	replyState = `1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port
2 be 7 s1 127.0.0.1 0 0 20 10 2 8 2 0 6 0 0 1 - 18802 - 0 0 - - 0
2 be 3 s3 ::1 2 9 1 1 2 1 0 2 0 0 0 0 - 18804 - 0 0 - - 0
2 be 4 s4 - 2 8 1 1 2 1 0 2 6 0 0 0 - 0 - 0 0 - - 0
`
	replyStat = "# pxname,svname,status,lastchg,type,check_status,check_code,last_chk,stot,addr,\n" +
		"be,s1,DOWN,2,2,* L7STS,500,\"a \"\"b\"\",\n\x01c\",17,[::1]:80,\n" +
		"be,BACKEND,UP,,1,,,,17,,\n" +
		"be,s2,no check,,2,,,,,unix,\n"
	replyInfo = "Name: HAProxy\nVersion: 3.0.11-1+deb13u3\nPid: 27530\nUlimit-n: 20000\nMaxconn: 9972\nHard_maxconn: 9\nCurrConns: 3\nStopping: 1\nnode: vm\n"
)

func TestParseProcesses(t *testing.T) {
	got, err := parseProcesses(replyProc)
	want := Processes{
		Master:  Process{6019, 4, "0d00h00m05s", "2.6.12-1+deb12u3"},
		Reloads: 4, Failed: 1,
		Workers: []Process{{6329, 0, "0d00h00m01s", "2.6.12-1+deb12u3"}},
		Old:     []Process{{6069, 2, "0d00h00m03s", "2.6.12-1+deb12u3"}, {6000, 4, "1d00h00m03s", ""}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestParseServersState(t *testing.T) {
	got, err := parseServersState(replyState)
	want := []ServerState{
		{Backend: "be", Server: "s1", Addr: netip.MustParseAddrPort("127.0.0.1:18802"), Checked: true, Weight: 20, InitialWeight: 10, Since: 2 * time.Second},
		{Backend: "be", Server: "s3", Addr: netip.MustParseAddrPort("[::1]:18804"), Up: true, Maint: true, Forced: true, Drain: true, Weight: 1, InitialWeight: 1, Since: 2 * time.Second},
		{Backend: "be", Server: "s4", Up: true, Drain: true, Checked: true, CheckPending: true, Weight: 1, InitialWeight: 1, Since: 2 * time.Second},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestParseStats(t *testing.T) {
	got, err := parseStats(replyStat)
	want := []Stat{
		{Backend: "be", Server: "s1", Status: "DOWN", CheckStatus: "L7STS", CheckCode: 500, LastCheck: `a "b",  c`, Since: 2 * time.Second,
			Sessions: 17, Addr: netip.MustParseAddrPort("[::1]:80")},
		{Backend: "be", Server: "s2", Status: "no check"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestParseInfo(t *testing.T) {
	got, err := parseInfo(replyInfo)
	if want := (Info{PID: 27530, MaxConn: 9972, CurrConns: 3, Version: "3.0.11-1+deb13u3", UlimitN: 20000, Stopping: true}); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"": "", " a\n": "a", "a\tb\x00c": "a b c", "\xff": "", "é": "é", "a\u202eb": "a b",
		strings.Repeat("x", 200): strings.Repeat("x", 200), strings.Repeat("x", 1<<20): strings.Repeat("x", 197) + "…",
		strings.Repeat("é", 101): strings.Repeat("é", 98) + "…",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func isClean(s string) bool {
	return len(s) <= maxWords && utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

func FuzzReplies(f *testing.F) {
	for _, s := range []string{replyProc, replyState, replyStat, replyInfo, "", "1\n", "# a\n", "1 master 0 [failed: 0] 1\n\n", "1 master 0 [failed: 0] 1 v\n\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := parseProcesses(s); err == nil {
			for _, w := range append(append(p.Old, p.Workers...), p.Master) {
				if w.PID <= 0 {
					t.Errorf("pid %d", w.PID)
				}
			}
		}
		if rows, err := parseServersState(s); err == nil {
			for _, r := range rows {
				if r.Since < 0 || r.Backend == "" || r.Server == "" {
					t.Errorf("%+v", r)
				}
			}
		}
		if stats, err := parseStats(s); err == nil {
			for _, r := range stats {
				if r.Since < 0 || !isClean(r.LastCheck) || !isClean(r.Status) || !isClean(r.CheckStatus) {
					t.Errorf("%+v", r)
				}
			}
		}
		if info, err := parseInfo(s); err == nil && !isClean(info.Version) {
			t.Errorf("%+v", info)
		}
		if !isClean(clean(s)) {
			t.Error(clean(s))
		}
	})
}

// TestReloadHint: a person can do something about too few files.
func TestReloadHint(t *testing.T) {
	for _, test := range []struct{ output, want string }{
		{"[ALERT] [haproxy.main()] Cannot raise FD limit to 257, limit is 256.", "LimitNOFILE="},
		{"[ALERT] nothing that is known", "reload refused: [ALERT] nothing that is known"},
		{"", "HAProxy's log"},
	} {
		if got := (&ReloadError{Output: test.output}).Error(); !strings.Contains(got, test.want) {
			t.Errorf("%q says nothing of %q", got, test.want)
		}
	}
}
