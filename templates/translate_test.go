package templates

import (
	"os"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// TestTranslate: what has an exact successor is replaced in its line, everything else stays as it is.
func TestTranslate(t *testing.T) {
	t.Parallel()
	const same = ""
	for _, c := range []struct{ was, now string }{
		{`rspdel ^ETag:.*`, `http-response del-header ETag`},
		{`rspidel ^etag:`, `http-response del-header etag`},
		{`rspdel "^ETag:.*$"`, same}, // in double quotes a variable could stand
		{`rspdel '^ETag:.*$'`, `http-response del-header ETag`},
		{`rspdel ^ETag:.*$ # why`, `http-response del-header ETag`},
		{`reqdel ^X-Forwarded-For:.*`, `http-request del-header X-Forwarded-For`},
		{`reqidel ^Proxy: if { path /x } !{ src 10.0.0.0/8 }`, `http-request del-header Proxy if '{' path /x '}' '!{' src 10.0.0.0/8 '}'`},
		{`reqdel ^X: unless a`, `http-request del-header X unless a`},
		{`rspadd X-Via:\ fnlb`, `http-response add-header X-Via fnlb`},
		{`reqadd 'X-Proto: https and 100% "x"'`, same},
		{`reqadd X-Proto:\ 100%\ of`, `http-request add-header X-Proto '100%% of'`},
		{`reqadd X-Proto:%[src] if a`, `http-request add-header X-Proto %%[src] if a`},
		{`rspdel ETag:.*`, same},      // anywhere in the line
		{`rspdel ^X-.*:.*`, same},     // more than one header
		{`rspdel ^ETag:\ W/.*`, same}, // one value of it
		{`rspdel ^`, same},
		{`rspdel`, same},
		{`rspdel ^ETag:.* when x`, same},
		{`rspadd novalue:`, same},
		{`rspadd no\ colon`, same},
		{`rsprep ^Server:.* Server:\ x`, same},
		{`reqrep ^GET\ /a GET\ /b`, same},
		{`reqallow ^GET`, same},
		{"rspdel ^ETag:.*\n  rspadd ETag:\\ x", same},                // which of them is first matters
		{"rspdel ^ETag:.*\n  http-response set-header ETag x", same}, // the order matters
		{"rspdel ^X: if a\n  http-response set-header Y z", same},    // it may change what a sees
		{"rspdel ^ETag:.*\n  http-response set-header Y %[res.hdr(etag)]", same},
		{"acl a res.hdr(etag) -m found\n  rspdel ^ETag:.*\n  http-response set-header Y z if a", same},
		{"reqdel ^ETag:.*\n  http-response set-header ETag x", "http-request del-header ETag\n  http-response set-header ETag x"},
		{"http-response set-header Y z\n  rspdel ^ETag:.*", "http-response set-header Y z\n  http-response del-header ETag"},
		{"http-request set-header ETag z\n  rspdel ^ETag:.*", "http-request set-header ETag z\n  http-response del-header ETag"},
	} {
		text := func(line string) string {
			return "global\n  rspdel ^ETag:.*\nfrontend f\n  bind :80\n\t" + line + "\n  mode http\n# rspdel ^ETag:.*\n"
		}
		want, notes := text(c.now), 1
		if c.now == same {
			want, notes = text(c.was), 0
		}
		got, told := translate([]byte(text(c.was)))
		if string(got) != want || len(told) != notes {
			t.Errorf("%s: got\n%s%+v", c.was, got, told)
		}
		if notes == 1 && (!strings.Contains(told[0].Reason, "2.1") || !strings.HasPrefix(told[0].Mend, "write \"http-") || told[0].Line < 5 || told[0].Line > 6) {
			t.Errorf("%s: %+v", c.was, told[0])
		}
	}
	for _, text := range []string{"frontend f\n rspdel ^A:\n \"open\n", "rspdel ^A:.*\n", "", "defaults\n  rspdel ^ETag:.*"} {
		if got, notes := translate([]byte(text)); string(got) != text || len(notes) > 0 {
			t.Errorf("%q became %q, %v", text, got, notes)
		}
	}
}

// TestTranslateInHAProxy: every HAProxy takes the successors.
func TestTranslateInHAProxy(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		text, notes := translate([]byte(`defaults
  mode http
  timeout client 1s
  timeout server 1s
  timeout connect 1s
frontend f
  bind 127.0.0.1:1
  reqdel ^X-Gone:.*
  reqidel ^X-Also: if { path /x } !{ src 10.0.0.0/8 }
  reqadd X-New:\ 100%\ of\ it unless { path /x }
  default_backend b
backend b
  rspidel ^etag:.*
  rspadd X-Via:\ %[src]
  rspdel ^X-Cond: if { status 404 }
`))
		if len(notes) != 6 {
			t.Errorf("%+v", notes)
		}
		if err := h.Check(t, string(text)); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	})
}

// TestReference: the template of docker-loadbalancer's documentation gives a text that every HAProxy takes.
func TestReference(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("testdata/docker-loadbalancer.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := Parse("/haproxy.tmpl", source)
	if err != nil {
		t.Fatal(err)
	}
	g := cases()["everything"].globals
	g.PidFile, g.SockFile = "/tmp/haproxy.pid", "/tmp/haproxy.sock"
	b, err := tmpl.Render(full(), g, abilities(t, "2.6"))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "docker-loadbalancer.cfg", string(b.Main))
	lines := map[int]bool{}
	for _, n := range b.Notes {
		lines[b.Origin.Line(n.Line)] = true
	}
	if want := strings.Count(string(source[:strings.Index(string(source), "rspdel")]), "\n") + 1; len(lines) != 2 || !lines[want] || !lines[0] {
		t.Errorf("notes of lines %v, want one of %d and one of the whole", lines, want)
	}
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		if err := h.Check(t, local(t, string(b.Main))); err != nil {
			t.Error(err)
		}
	})
}
