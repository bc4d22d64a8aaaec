package access

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	private = Rules{}
	token   = Rules{Token: []byte("s3cret")}
	chosen  = Rules{Allow: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, AllowSet: true}
)

// request is one row's request; the zero value is GET /1/lb/nodes from and to loopback.
type request struct {
	kind                    ListenerKind
	method, path            string
	peer, local, host       string
	header                  http.Header
	noPeer, noLocal, noHost bool
}

func (q request) do(t *testing.T, r Rules) *httptest.ResponseRecorder {
	t.Helper()
	or := func(s, d string) string {
		if s == "" {
			return d
		}
		return s
	}
	req := httptest.NewRequestWithContext(t.Context(), or(q.method, "GET"), or(q.path, "/1/lb/nodes"), nil)
	req.RemoteAddr = or(q.peer, "127.0.0.1:40000")
	if q.noPeer {
		req.RemoteAddr = "@"
	}
	req.Host = or(q.host, "127.0.0.1:8081")
	if q.noHost {
		req.Host = ""
	}
	if !q.noLocal {
		local := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(or(q.local, "127.0.0.1:8081")))
		req = req.WithContext(context.WithValue(req.Context(), http.LocalAddrContextKey, net.Addr(local)))
	}
	for k, v := range q.header {
		req.Header[k] = v
	}
	w := httptest.NewRecorder()
	r.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }), q.kind).ServeHTTP(w, req)
	return w
}

func head(kv ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(kv); i += 2 {
		h.Add(kv[i], kv[i+1])
	}
	return h
}

const passed = http.StatusTeapot

func TestRules(t *testing.T) {
	for _, tt := range []struct {
		name   string
		rules  Rules
		q      request
		status int
		says   string
	}{
		{"loopback", private, request{kind: Port}, passed, ""},
		{"loopback v6", private, request{kind: Port, peer: "[::1]:1"}, passed, ""},
		{"mapped v4", private, request{kind: Port, peer: "[::ffff:10.1.2.3]:1"}, passed, ""},
		{"10/8", private, request{kind: Traffic, peer: "10.1.2.3:1"}, passed, ""},
		{"172.16/12, last", private, request{kind: Port, peer: "172.31.255.255:1"}, passed, ""},
		{"after 172.16/12", private, request{kind: Port, peer: "172.32.0.0:1"}, 403, "172.32.0.0 may not use the management API; --mgmt-allow lists who may"},
		{"192.168/16", private, request{kind: Port, peer: "192.168.1.1:1"}, passed, ""},
		{"unique local", private, request{kind: Port, peer: "[fd00::1]:1"}, passed, ""},
		{"carrier-grade NAT", private, request{kind: Port, peer: "100.64.0.1:1"}, 403, "--mgmt-allow"},
		{"link-local", private, request{kind: Port, peer: "[fe80::1%eth0]:1"}, 403, "--mgmt-allow"},
		{"public", private, request{kind: Port, peer: "203.0.113.9:1"}, 403, "--mgmt-allow"},
		{"public, traffic", private, request{kind: Traffic, peer: "203.0.113.9:1"}, 403, "--mgmt-allow"},
		{"public, with a header that lies", private, request{kind: Port, peer: "203.0.113.9:1", header: head("X-Forwarded-For", "127.0.0.1", "X-Real-Ip", "127.0.0.1")}, 403, "203.0.113.9"},
		{"no address", private, request{kind: Traffic, noPeer: true}, 403, "address did not arrive"},
		{"no address, own port", private, request{kind: Port, noPeer: true}, 403, "address did not arrive"},

		{"listed", chosen, request{kind: Port, peer: "198.51.100.7:1", local: "198.51.100.1:1"}, passed, ""},
		{"not listed, loopback", chosen, request{kind: Port}, 403, "127.0.0.1 may not"},
		{"nobody listed", Rules{AllowSet: true}, request{kind: Port}, 403, "127.0.0.1 may not"},

		{"through a proxy: X-Forwarded-For", private, request{kind: Traffic, header: head("X-Forwarded-For", "1.2.3.4")}, 403, "another proxy (header X-Forwarded-For)"},
		{"through a proxy: Forwarded", private, request{kind: Traffic, header: head("Forwarded", "for=1.2.3.4")}, 403, "header Forwarded"},
		{"through a proxy: Via", private, request{kind: Traffic, header: head("Via", "")}, 403, "header Via"},
		{"through a proxy, token", token, request{kind: Traffic, header: head("Via", "1.1 x", "Authorization", "Bearer s3cret")}, 403, "header Via"},
		{"through a proxy, ranges chosen", chosen, request{kind: Traffic, peer: "198.51.100.7:1", header: head("Via", "1.1 x")}, passed, ""},
		{"through a proxy, own port", private, request{kind: Port, header: head("X-Forwarded-For", "1.2.3.4")}, passed, ""},

		{"Host localhost", private, request{kind: Port, host: "LocalHost.:8081"}, passed, ""},
		{"Host v6", private, request{kind: Port, host: "[::1]:8081"}, passed, ""},
		{"Host v6, no port", private, request{kind: Port, host: "[::1]"}, passed, ""},
		{"Host another address", private, request{kind: Port, host: "203.0.113.5"}, passed, ""},
		{"Host rebound", private, request{kind: Port, host: "evil.example:8081"}, 403, `the Host "evil.example:8081" is not accepted on a loopback address`},
		{"Host rebound, traffic", private, request{kind: Traffic, host: "evil.example:8081"}, 403, HostFlag},
		{"Host rebound, 127/8", private, request{kind: Port, local: "127.9.9.9:80", host: "evil.example"}, 403, HostFlag},
		{"Host rebound, mapped loopback", private, request{kind: Port, local: "[::ffff:127.0.0.1]:80", host: "evil.example"}, 403, HostFlag},
		{"Host rebound, v6", private, request{kind: Port, local: "[::1]:80", host: "evil.example"}, 403, HostFlag},
		{"Host rebound, local unknown", private, request{kind: Port, noLocal: true, host: "evil.example"}, 403, HostFlag},
		{"Host rebound, like an address", private, request{kind: Port, host: "127.0.0.1.evil.example"}, 403, HostFlag},
		{"Host rebound, like localhost", private, request{kind: Port, host: "localhost.evil.example"}, 403, HostFlag},
		{"Host rebound, token", token, request{kind: Port, host: "evil.example", header: head("Authorization", "Bearer s3cret")}, 403, HostFlag},
		{"Host absent", private, request{kind: Port, noHost: true}, 403, HostFlag},
		{"Host listed", Rules{Hosts: []string{"LB.example"}}, request{kind: Port, host: "lb.example.:8081"}, passed, ""},
		{"Host, not on loopback", private, request{kind: Port, local: "10.0.0.1:80", host: "lb.example"}, passed, ""},

		{"token missing", token, request{kind: Port}, 401, "--mgmt-token-file"},
		{"token wrong", token, request{kind: Port, header: head("Authorization", "Bearer s3cres")}, 401, "bearer token"},
		{"token longer", token, request{kind: Port, header: head("Authorization", "Bearer s3cret ")}, 401, "bearer token"},
		{"token empty", token, request{kind: Port, header: head("Authorization", "Bearer ")}, 401, "bearer token"},
		{"token twice", token, request{kind: Port, header: head("Authorization", "Bearer s3cret", "Authorization", "Bearer x")}, 401, "bearer token"},
		{"another scheme", token, request{kind: Port, header: head("Authorization", "Basic s3cret")}, 401, "bearer token"},
		{"token right", token, request{kind: Port, header: head("Authorization", "bearer s3cret")}, passed, ""},
		{"token right, traffic", token, request{kind: Traffic, header: head("Authorization", "Bearer s3cret")}, passed, ""},
		{"token right, public", token, request{kind: Port, peer: "203.0.113.9:1", header: head("Authorization", "Bearer s3cret")}, 403, "--mgmt-allow"},
		{"empty token file", Rules{Token: []byte{}}, request{kind: Port, header: head("Authorization", "Bearer ")}, 401, "bearer token"},

		{"write, foreign Origin", private, request{kind: Port, method: "PUT", header: head("Origin", "https://evil.example")}, 403, "another site"},
		{"write, Origin null", private, request{kind: Port, method: "DELETE", header: head("Origin", "null")}, 403, "another site"},
		{"write, cross-site", private, request{kind: Port, method: "DELETE", header: head("Sec-Fetch-Site", "cross-site")}, 403, "another site"},
		{"write, same-site", private, request{kind: Traffic, method: "PUT", header: head("Sec-Fetch-Site", "same-site")}, 403, "another site"},
		{"write, own Origin", private, request{kind: Port, method: "PUT", header: head("Origin", "http://127.0.0.1:8081")}, passed, ""},
		{"write, same-origin", private, request{kind: Port, method: "PUT", header: head("Sec-Fetch-Site", "same-origin")}, passed, ""},
		{"write, curl", private, request{kind: Port, method: "PUT"}, passed, ""},
		{"read, cross-site", private, request{kind: Port, header: head("Sec-Fetch-Site", "cross-site")}, passed, ""},

		{"live, all rules broken", token, request{kind: Traffic, path: "/1/lb/healthz", peer: "203.0.113.9:1", host: "x.example", header: head("Via", "x")}, passed, ""},
		{"ready, all rules broken", token, request{kind: Port, path: "/1/lb/readyz?strict=1", peer: "203.0.113.9:1", host: "x.example"}, passed, ""},
		{"ready, no address", private, request{kind: Traffic, path: "/1/lb/readyz", noPeer: true}, passed, ""},
		{"short form, own port", token, request{kind: Port, path: "/healthz", peer: "203.0.113.9:1"}, passed, ""},
		{"short form, traffic", private, request{kind: Traffic, path: "/readyz", peer: "203.0.113.9:1"}, 403, "--mgmt-allow"},
		{"metrics ask", token, request{kind: Port, path: "/metrics"}, 401, "bearer token"},
		{"not live: another spelling", private, request{kind: Port, path: "/1/lb/%68ealthz", peer: "203.0.113.9:1"}, 403, "--mgmt-allow"},
		{"not live: unclean", private, request{kind: Port, path: "/1/lb/nodes/../healthz", peer: "203.0.113.9:1"}, 403, "--mgmt-allow"},

		{"administration", token, request{kind: Admin, method: "PUT", noPeer: true, host: "fnlb", header: head("Via", "x")}, passed, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := tt.q.do(t, tt.rules)
			if w.Code != tt.status {
				t.Fatalf("status %d, want %d: %s", w.Code, tt.status, w.Body)
			}
			if tt.status == passed {
				return
			}
			var answer map[string]string
			if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || len(answer) != 1 || !strings.Contains(answer["msg"], tt.says) {
				t.Errorf("body %q, want a msg with %q", w.Body, tt.says)
			}
			if !strings.HasSuffix(w.Body.String(), "}\n") || w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("answer %q, headers %v", w.Body, w.Header())
			}
			if challenge := w.Header().Get("WWW-Authenticate"); (challenge != "") != (tt.status == 401) {
				t.Errorf("WWW-Authenticate %q with %d", challenge, tt.status)
			}
			if strings.Contains(w.Body.String(), "s3cret") {
				t.Error("the token is in the answer")
			}
		})
	}
}

func TestRefusedBodiesAreNotWaitedFor(t *testing.T) {
	req := httptest.NewRequestWithContext(t.Context(), "PUT", "/1/lb/nodes", strings.NewReader("{}"))
	req.RemoteAddr = "203.0.113.9:1"
	w := httptest.NewRecorder()
	private.Wrap(http.NotFoundHandler(), Port).ServeHTTP(w, req)
	if w.Code != 403 || w.Header().Get("Connection") != "close" {
		t.Errorf("status %d, headers %v", w.Code, w.Header())
	}
}

// No bytes in what a client chooses may end in a pass, a broken answer or a panic.
func FuzzJudge(f *testing.F) {
	f.Add("evil.example", "Bearer x", "1.2.3.4", "https://evil.example")
	f.Add("[::1", "Bearer", "", "null")
	f.Add("\xff\"\n", "Bearer \x00", ",", "\x00")
	f.Fuzz(func(t *testing.T, host, auth, via, origin string) {
		q := request{kind: Traffic, method: "PUT", host: host, header: http.Header{"Authorization": {auth}, "Via": {via}, "Origin": {origin}}}
		if host == "" {
			q.noHost = true
		}
		w := q.do(t, token)
		var answer map[string]string
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || answer["msg"] == "" || w.Code != 403 {
			t.Errorf("status %d, body %q", w.Code, w.Body)
		}
		// Without the proxy's header only the right token and no Origin at all may pass.
		delete(q.header, "Via")
		if w := q.do(t, token); w.Code == passed && !strings.EqualFold(auth, "Bearer s3cret") && !strings.HasSuffix(auth, " s3cret") {
			t.Errorf("passed with %q", auth)
		}
	})
}
