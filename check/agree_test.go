package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/model"
)

// The times of the table: long enough that a busy machine does not change an outcome.
const (
	tableInterval = time.Second
	tableTimeout  = 2500 * time.Millisecond
)

// behaviour is what a node does with a connection whose request it has read.
type behaviour func(c net.Conn, gone <-chan struct{})

// say writes the text and closes.
func say(text string) behaviour {
	return func(c net.Conn, _ <-chan struct{}) { io.WriteString(c, text) } //nolint:errcheck // the peer may have had enough
}

// sized is an answer with its length.
func sized(status, body string, headers ...string) behaviour {
	h := strings.Join(append(headers, fmt.Sprintf("Content-Length: %d", len(body))), "\r\n")
	return say("HTTP/1.1 " + status + "\r\n" + h + "\r\n\r\n" + body)
}

// hold writes the text and keeps the connection open.
func hold(text string) behaviour {
	return func(c net.Conn, gone <-chan struct{}) {
		io.WriteString(c, text) //nolint:errcheck // as above
		<-gone
	}
}

// drip writes the parts with a pause after each.
func drip(pause time.Duration, parts ...string) behaviour {
	return func(c net.Conn, gone <-chan struct{}) {
		for _, p := range parts {
			if _, err := io.WriteString(c, p); err != nil {
				return
			}
			select {
			case <-time.After(pause):
			case <-gone:
				return
			}
		}
	}
}

// reset ends the connection with RST.
func reset(text string) behaviour {
	return func(c net.Conn, _ <-chan struct{}) {
		io.WriteString(c, text)       //nolint:errcheck // as above
		c.(*net.TCPConn).SetLinger(0) //nolint:errcheck // as above
	}
}

const (
	least  = "0.0.235"
	good   = `{"version":"0.0.235"}`
	header = "HTTP/1.1 200 OK\r\n"
)

// answers is the table: what a node does, and whether that passes a rule with and one without a least version.
var answers = []struct {
	name            string
	does            behaviour
	version, status bool   // passes with the least version, passes without
	reason, mend    string // parts of what Probe says with the least version, where it does not pass
}{
	{"good", sized("200 OK", good), true, true, "", ""},
	{"spaces", sized("200 OK", "{ \"version\" :\t\"1.2.3\"\r\n}\n"), true, true, "", ""},
	{"v", sized("200 OK", `{"version":"v0.0.236"}`), true, true, "", ""},
	{"old", sized("200 OK", `{"version":"0.0.234"}`), false, true, `its version "0.0.234" is lower than 0.0.235`, "--min-api-version"},
	{"pre-release", sized("200 OK", `{"version":"0.0.235-rc.1"}`), false, true, "0.0.235-rc.1", "--min-api-version"},
	{"pre-release of a later one", sized("200 OK", `{"version":"0.1.0-rc.1"}`), true, true, "", ""},
	{"build", sized("200 OK", `{"version":"0.0.235+linux.amd64"}`), true, true, "", ""},
	{"no version", sized("200 OK", "hello\x00\xff\x1b[31m"), false, true, `hello\x00\xff\x1b[31m`, "--hc-path"},
	{"no semantic version", sized("200 OK", `{"version":"latest"}`), false, true, `"latest" is no semantic version`, "--min-api-version="},
	{"no number twice", sized("200 OK", `{"version":"01.2.3"}`), false, true, "no semantic version", "--min-api-version="},
	{"version is a number", sized("200 OK", `{"version":2}`), false, true, `holds no`, "--hc-path"},
	{"empty body", sized("200 OK", ""), false, true, "holds no", "--hc-path"},
	{"HTTP/1.0", say("HTTP/1.0 200 OK\r\n\r\n" + good), true, true, "", ""},
	{"201", sized("201 Created", good), false, true, "status 201", "--hc-path"},
	{"204", say("HTTP/1.1 204 No Content\r\n\r\n"), false, true, "status 204", "--hc-path"},
	{"redirect", sized("302 Found", good, "Location: /elsewhere"), false, true, "status 302", "--hc-path"},
	{"304", say("HTTP/1.1 304 Not Modified\r\n\r\n"), false, true, "status 304", "--hc-path"},
	{"400", sized("400 Bad Request", good), false, false, "status 400", "--hc-path"},
	{"401", sized("401 Unauthorized", good), false, false, "status 401", "credentials"},
	{"404", sized("404 Not Found", "404 page not found\n"), false, false, "GET /version gave status 404 Not Found", "--hc-path"},
	{"500", sized("500 Internal Server Error", good), false, false, "status 500", ""},
	{"503", sized("503 Service Unavailable", good), false, false, "status 503", ""},
	{"early hints", say("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n" + good), false, false, "status 103", ""},
	{"switching", sized("101 Switching Protocols", good), false, false, "status 101", ""},
	{"chunked", say(header + "Transfer-Encoding: chunked\r\n\r\n15\r\n" + good + "\r\n0\r\n\r\n"), true, true, "", ""},
	{"chunked within the version", say(header + "Transfer-Encoding: chunked\r\n\r\na\r\n{\"version\"\r\nb\r\n:\"0.0.235\"}\r\n0\r\n\r\n"), true, true, "", ""},
	{"chunked, cut", say(header + "Transfer-Encoding: chunked\r\n\r\n15\r\n" + good + "\r\n"), true, true, "", ""},
	{"chunked, no hexadecimal", say(header + "Transfer-Encoding: chunked\r\n\r\nzz\r\n" + good), false, false, "no HTTP", ""},
	{"until the end", say(header + "\r\n" + good), true, true, "", ""},
	{"kept open", hold(header + "Content-Length: 21\r\n\r\n" + good), true, true, "", ""},
	{"kept open without length", hold(header + "\r\n" + good), true, true, "", ""},
	{"body never comes", hold(header + "Content-Length: 21\r\n\r\n"), false, true, "no answer", ""},
	{"rest of the body never comes", hold(header + "Content-Length: 4000\r\n\r\n" + good), true, true, "", ""},
	{"version never comes", hold(header + "Content-Length: 4000\r\n\r\n" + good[:12]), false, true, "no answer", ""},
	{"two pieces", drip(50*time.Millisecond, header, "Content-Length: 21\r\n\r\n"+good[:7], good[7:]), true, true, "", ""},
	{"later than the interval", drip(tableInterval+200*time.Millisecond, "", header+"Content-Length: 21\r\n\r\n"+good), true, true, "", ""},
	{"later than the timeout", drip(tableTimeout+1500*time.Millisecond, "", header+"Content-Length: 21\r\n\r\n"+good), false, false, "no answer to GET /version within 2.5s", ""},
	{"silent", hold(""), false, false, "no answer", ""},
	{"slow headers", drip(100*time.Millisecond, strings.SplitAfter(header+"X: aaaaaaaaaa\r\n\r\n", "")...), false, false, "no answer", ""},
	{"closed", say(""), false, false, "cut off", ""},
	{"reset", reset(""), false, false, "reset", ""},
	{"cut in the status line", say("HTTP/1.1 20"), false, false, "cut off", ""},
	{"cut in the headers", say(header + "Content-Length: 21\r\n"), false, false, "cut off", ""},
	{"cut in the body", say(header + "Content-Length: 4000\r\n\r\n" + good), true, true, "", ""},
	{"cut in the version", say(header + "Content-Length: 4000\r\n\r\n" + good[:12]), false, true, "cut off", ""},
	{"no words after the status", say("HTTP/1.1 200\r\nContent-Length: 21\r\n\r\n" + good), true, true, "", ""},
	{"line feeds alone", say("HTTP/1.1 200 OK\nContent-Length: 21\n\n" + good), true, true, "", ""},
	{"folded header", say(header + "X: a\r\n b\r\nContent-Length: 21\r\n\r\n" + good), true, true, "", ""},
	{"space before the colon", say(header + "X : a\r\nContent-Length: 21\r\n\r\n" + good), false, false, "no HTTP", ""},
	{"header without colon", say(header + "nonsense\r\nContent-Length: 21\r\n\r\n" + good), false, false, "no HTTP", ""},
	{"length and chunked", say(header + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n" + good + "\r\n0\r\n\r\n"), true, true, "", ""},
	{"negative length", say(header + "Content-Length: -1\r\n\r\n" + good), false, false, "no HTTP", ""},
	{"status 999", sized("999 What", good), false, false, "status 999", ""},
	{"status 99", sized("99 What", good), false, false, "no HTTP", ""},
	{"HTTP/2.0", say("HTTP/2.0 200 OK\r\nContent-Length: 21\r\n\r\n" + good), true, true, "", ""},
	{"http in lower case", say("http/1.1 200 OK\r\nContent-Length: 21\r\n\r\n" + good), false, false, "no HTTP", ""},
	{"two answers", say(header + "Content-Length: 2\r\n\r\nok" + header + "Content-Length: 21\r\n\r\n" + good), false, true, "holds no", "--hc-path"},
	{"garage", say("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n"), false, false, "no HTTP", ""},
	{"no HTTP", say("SSH-2.0-OpenSSH_9.2\r\n"), false, false, "no HTTP", ""},
	{"two lengths", say(header + "Content-Length: 21\r\nContent-Length: 22\r\n\r\n" + good), false, false, "no HTTP", ""},
	{"huge, version first", sized("200 OK", good+strings.Repeat("x", 1<<20)), true, true, "", ""},
	{"huge, version last", sized("200 OK", strings.Repeat("x", 1<<20)+good), false, true, "holds no", "--hc-path"},
	{"huge headers", say(header + "X: " + strings.Repeat("x", 20<<10) + "\r\nContent-Length: 21\r\n\r\n" + good), false, false, "larger than", ""},
}

// node listens and does it for each connection until the test ends.
func node(t *testing.T, does behaviour) netip.AddrPort {
	t.Helper()
	return listen(t, func(c net.Conn, _ string, gone <-chan struct{}) { does(c, gone) })
}

// listen is node for what depends on the request.
func listen(t *testing.T, does func(c net.Conn, request string, gone <-chan struct{})) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	var all sync.WaitGroup
	t.Cleanup(func() {
		close(gone)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		all.Wait()
	})
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
				return
			}
			all.Go(func() {
				defer c.Close() //nolint:errcheck // the peer may have been first
				if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
					return
				}
				var request []byte
				for b := make([]byte, 1024); !strings.Contains(string(request), "\r\n\r\n"); {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					request = append(request, b[:n]...)
				}
				does(c, string(request), gone)
			})
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func tableRule(version string) model.Check {
	return model.Check{Interval: tableInterval, Timeout: tableTimeout, Rise: 1, Fall: 1, Asks: []model.Ask{{Path: "/version", MinVersion: version}}}
}

// TestAgree gives one table of answers to our probe and to the checks of each HAProxy: both must find what the table says.
func TestAgree(t *testing.T) {
	t.Parallel()
	addrs := make([]netip.AddrPort, len(answers))
	for i, a := range answers {
		addrs[i] = node(t, a.does)
	}
	t.Run("probe", func(t *testing.T) {
		t.Parallel()
		p := NewProber()
		found := make([][2]Result, len(answers))
		var asking sync.WaitGroup // all at once: most of them wait
		for i := range answers {
			for j, version := range []string{"", least} {
				asking.Go(func() { found[i][j] = p.Probe(t.Context(), tableRule(version), addrs[i], "node:80") })
			}
		}
		asking.Wait()
		for i, a := range answers {
			t.Run(a.name, func(t *testing.T) {
				r := found[i][0]
				if r.OK != a.status {
					t.Errorf("without a least version: passed is %v: %s", r.OK, r.Reason)
				}
				r = found[i][1]
				if r.OK != a.version || !strings.Contains(r.Reason, a.reason) || !strings.Contains(r.Mend, a.mend) {
					t.Errorf("with a least version: %+v", r)
				}
				if r.Final != (a.mend != "") || (r.Mend != "") != r.Final {
					t.Errorf("final %v with mend %q", r.Final, r.Mend)
				}
				if len(r.Reason) > maxReason || strings.Trim(r.Reason, printable) != "" {
					t.Errorf("reason %q", r.Reason)
				}
			})
		}
	})
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		found := checked(t, h, addrs)
		for i, a := range answers {
			for rule, want := range map[string]bool{"version": a.version, "status": a.status} {
				if got := found[fmt.Sprintf("%s/s%d", rule, i)]; strings.HasPrefix(got, "L7OK") != want {
					t.Errorf("%s, rule %s: HAProxy found %s, want pass %v", a.name, rule, got, want)
				}
			}
		}
	})
}

// TestConnect gives a server that listens and one that does not to our probe and to the checks of each HAProxy.
func TestConnect(t *testing.T) {
	t.Parallel()
	rule := model.Check{Kind: model.CheckTCP, Interval: tableInterval, Timeout: tableTimeout, Rise: 1, Fall: 1}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().(*net.TCPAddr).AddrPort() //nolint:errcheck // it is one of TCP
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	addrs := []netip.AddrPort{node(t, say("no HTTP")), closed}
	p := NewProber()
	for i, want := range []bool{true, false} {
		if r := p.Probe(t.Context(), rule, addrs[i], "web"); r.OK != want {
			t.Errorf("probe of server %d: %+v", i, r)
		}
		if r := p.Probe(t.Context(), model.Check{Kind: model.CheckOff}, addrs[i], "web"); !r.OK {
			t.Errorf("probe of server %d by the rule that asks for nothing: %+v", i, r)
		}
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		cfg := "defaults\n  mode http\n  timeout connect 2s\n  timeout server 2s\n  timeout client 2s\n" + backend(t, "tcp", rule, addrs)
		found := finished(t, h.Start(t, cfg, "r1"))
		if !strings.HasPrefix(found["tcp/s0"], "L4OK") || !strings.HasPrefix(found["tcp/s1"], "L4CON") {
			t.Errorf("HAProxy found %v", found)
		}
	})
}

var printable = func() string {
	var b strings.Builder
	for c := byte(' '); c < 0x7f; c++ {
		b.WriteByte(c)
	}
	return b.String()
}()

// backend is a backend of HAProxy with the rule and servers s0, s1, ….
func backend(t *testing.T, name string, rule model.Check, addrs []netip.AddrPort) string {
	t.Helper()
	lines, err := Directives(rule)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "backend %s\n", name)
	for _, words := range lines {
		for _, w := range words {
			q, err := conf.Quote(w)
			if err != nil {
				t.Fatal(err)
			}
			b.WriteString(" " + q)
		}
		b.WriteString("\n")
	}
	for i, a := range addrs {
		fmt.Fprintf(&b, "  server s%d %s %s\n", i, a, strings.Join(ServerWords(rule), " "))
	}
	return b.String()
}

// checked starts HAProxy with both rules for each address and waits until each server was checked. It gives the check's
// status by "BACKEND/SERVER".
func checked(t *testing.T, h haproxytest.HAProxy, addrs []netip.AddrPort) map[string]string {
	t.Helper()
	cfg := "defaults\n  mode http\n  timeout connect 2s\n  timeout server 2s\n  timeout client 2s\n" +
		backend(t, "version", tableRule(least), addrs) + backend(t, "status", tableRule(""), addrs)
	return finished(t, h.Start(t, cfg, "r1"))
}

// finished waits until every server of the instance was checked.
func finished(t *testing.T, i *haproxytest.Instance) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		found, waiting := map[string]string{}, 0
		out, err := i.Ask("@1 show stat -1 4 -1")
		if err != nil {
			t.Fatal(err)
		}
		rows := strings.Split(out, "\n")
		columns := map[string]int{}
		for n, c := range strings.Split(strings.TrimPrefix(rows[0], "# "), ",") {
			columns[c] = n
		}
		for _, row := range rows[1:] {
			f := strings.Split(row, ",")
			if len(f) < len(columns) {
				continue
			}
			status := strings.TrimPrefix(f[columns["check_status"]], "* ")
			if status == "INI" || status == "" {
				waiting++
			}
			found[f[columns["pxname"]]+"/"+f[columns["svname"]]] = status + " " + f[columns["check_desc"]]
		}
		if waiting == 0 && len(found) > 0 {
			return found
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d servers were not checked in time", waiting)
		}
	}
}
