package rest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fnlb/fnlb/api"
	"github.com/fnlb/fnlb/model"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is the Nodes of a test.
type store struct {
	nodes []string
	rows  []model.NodeRow
	calls []string
	err   error
}

func (s *store) Set(_ context.Context, n string, w model.NodeWish) error {
	call := "set " + n
	if w.Weight != nil {
		call += " weight " + w.Weight.String()
	}
	if w.Admin != nil {
		call += " state " + w.Admin.String()
	}
	s.calls = append(s.calls, call)
	return s.err
}

func (s *store) Delete(_ context.Context, n string) error {
	s.calls = append(s.calls, "delete "+n)
	return s.err
}

func (s *store) List() []model.NodeRow {
	var rows []model.NodeRow
	for _, n := range s.nodes {
		rows = append(rows, model.NodeRow{Node: n, Server: strings.NewReplacer("[", "", "]", "").Replace(n)})
	}
	return append(rows, s.rows...)
}

// The store is the Brake as well.
func (s *store) Freeze(ctx context.Context, reason string) (string, error) {
	s.calls = append(s.calls, fmt.Sprintf("freeze %q by %s", reason, model.Asker(ctx)))
	return "frozen", s.err
}

func (s *store) Thaw(ctx context.Context) (string, error) {
	s.calls = append(s.calls, "thaw by "+model.Asker(ctx))
	return "thawed", s.err
}

func (s *store) Rollback(ctx context.Context) (string, error) {
	s.calls = append(s.calls, "rollback by "+model.Asker(ctx))
	return "rolled back", s.err
}

// report is the Reporter of a test.
type report struct {
	requests map[model.ServedAt]uint64

	status  model.Status
	changes []model.Apply
	config  []byte
}

func (r *report) Status() model.Status   { return r.status }
func (r *report) Changes() []model.Apply { return r.changes }
func (r *report) Config() []byte         { return r.config }
func (r *report) Explain(url string) (model.Explanation, error) {
	if url == "" {
		return model.Explanation{}, model.Problem{Kind: model.Invalid, Reason: "the URL is empty"}
	}
	return model.Explanation{URL: url, Fate: model.Unrouted, Why: "no route takes it"}, nil
}

func (r *report) Counters() api.Counters { return api.Counters{} }

func (r *report) Requests(context.Context) map[model.ServedAt]uint64 { return r.requests }

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func full() *report {
	second := model.Apply{Revision: 2, At: noon.Add(time.Minute), Method: model.Reload, Reasons: []string{"server 10.0.0.2:80 added"}, Millis: 12.5, Worker: 77}
	return &report{
		status: model.Status{
			Version: "1.2.3", Phase: model.Serving, Wanted: 2, Applied: 2, LastApply: &second,
			HAProxy: model.HAProxyStatus{Version: "2.6.12", Master: 70, Worker: 77, MaxConn: 1000, Started: noon},
			Servers: []model.ServerStatus{
				{Service: "nodes", Name: "10.0.0.1:80", Health: model.Up, Since: noon},
				{Service: "nodes", Name: "10.0.0.2:80", Health: model.Down, Since: noon, LastCheck: "connection <refused>"},
				{Service: "nodes", Name: "::1:80", Health: model.Up, Since: noon},
			},
		},
		changes: []model.Apply{{Revision: 1, At: noon, Method: model.Start, Reasons: []string{"start"}}, second},
		config:  []byte("global\n\tmaxconn 5\n"),
	}
}

func handlerOf(s *store, r *report, own bool) (http.Handler, *atomic.Uint64) {
	var panics atomic.Uint64
	return New(Options{Nodes: s, Brake: s, Reporter: r, Traffic: r, Own: own, Panics: &panics, Log: slog.New(slog.DiscardHandler),
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "fnlb_ready 1\n") })}), &panics
}

func TestCalls(t *testing.T) {
	const usage = `; send {\"node\":\"HOST:PORT\"}"}` + "\n"
	const weights = `; the weight is a whole number from 0 to 256, where 1 is a node's usual one"}` + "\n"
	const states = `; the state is one of \"ready\", \"drain\" and \"maint\""}` + "\n"
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		answer                   string
		calls                    string // of the store
	}{
		{"add", "PUT", "/1/lb/nodes", `{"node":"10.0.0.9:80"}`, 200, `{"msg":"node added"}` + "\n", "set 10.0.0.9:80"},
		{"add, spaces", "PUT", "/1/lb/nodes", " {\n\t\"node\" : \"h:1\" } \r\n", 200, `{"msg":"node added"}` + "\n", "set h:1"},
		{"add, escaped", "PUT", "/1/lb/nodes", `{"n\u006fde":"\u0068:1"}`, 200, `{"msg":"node added"}` + "\n", "set h:1"},
		{"delete", "DELETE", "/1/lb/nodes", `{"node":"10.0.0.9:80"}`, 200, `{"msg":"node deleted"}` + "\n", "delete 10.0.0.9:80"},
		{"list", "GET", "/1/lb/nodes", "", 200, `{"nodes":{"10.0.0.1:80":"online","10.0.0.2:80":"offline","10.0.0.3:80":"offline","[::1]:80":"online"}}` + "\n", ""},
		{"explain", "GET", "/1/lb/explain?url=http%3A%2F%2Fh%2F%3Ca%3E", "", 200, "{\n  \"url\": \"http://h/<a>\",\n  \"fate\": \"no-route\",\n  \"why\": \"no route takes it\"\n}\n", ""},
		{"explain nothing", "GET", "/1/lb/explain", "", 400, `{"msg":"the URL is empty"}` + "\n", ""},
		{"list, with a query", "GET", "/1/lb/nodes?x=1", "", 200, `{"nodes":{"10.0.0.1:80":"online","10.0.0.2:80":"offline","10.0.0.3:80":"offline","[::1]:80":"online"}}` + "\n", ""},

		{"freeze", "PUT", "/1/lb/freeze", `{"reason":"incident 7"}`, 200, `{"msg":"frozen"}` + "\n", `freeze "incident 7" by API from 192.0.2.1`},
		{"freeze, no reason", "PUT", "/1/lb/freeze", "", 200, `{"msg":"frozen"}` + "\n", `freeze "" by API from 192.0.2.1`},
		{"freeze, another key", "PUT", "/1/lb/freeze", `{"node":"h:1"}`, 400, `{"msg":"unknown key \"node\"; send {\"reason\":\"TEXT\"}"}` + "\n", ""},
		{"freeze, form", "PUT", "/1/lb/freeze", "why=not", 400, `{"msg":"the body is no JSON: at byte 1: invalid character 'w' looking for beginning of value; send {\"reason\":\"TEXT\"}"}` + "\n", ""},
		{"frozen", "GET", "/1/lb/freeze", "", 200, `{"frozen":false}` + "\n", ""},
		{"thaw", "DELETE", "/1/lb/freeze", "", 200, `{"msg":"thawed"}` + "\n", "thaw by API from 192.0.2.1"},
		{"rollback", "POST", "/1/lb/rollback", "", 200, `{"msg":"rolled back"}` + "\n", "rollback by API from 192.0.2.1"},
		{"rollback by GET", "GET", "/1/lb/rollback", "", 405, `{"msg":"the method \"GET\" is not for this path; it takes OPTIONS, POST"}` + "\n", ""},

		{"broken", "PUT", "/1/lb/nodes", `{"node":"h:1"`, 400, `{"msg":"the body is no JSON: it ends too early` + usage, ""},
		{"broken, form", "PUT", "/1/lb/nodes", `node=h:1`, 400, `{"msg":"the body is no JSON: at byte 2: invalid character 'o' in literal null (expecting 'u')` + usage, ""},
		{"broken, comma", "DELETE", "/1/lb/nodes", `{"node":"h:1",}`, 400, `{"msg":"the body is no JSON: at byte 15: invalid character '}' looking for beginning of object key string` + usage, ""},
		{"empty", "PUT", "/1/lb/nodes", "", 400, `{"msg":"the body is empty` + usage, ""},
		{"blank", "DELETE", "/1/lb/nodes", " \n", 400, `{"msg":"the body is empty` + usage, ""},
		{"array", "PUT", "/1/lb/nodes", `["h:1"]`, 400, `{"msg":"the body is an array, not an object` + usage, ""},
		{"null", "PUT", "/1/lb/nodes", `null`, 400, `{"msg":"the body is null, not an object` + usage, ""},
		{"string", "PUT", "/1/lb/nodes", `"h:1"`, 400, `{"msg":"the body is a string, not an object` + usage, ""},
		{"deep", "PUT", "/1/lb/nodes", strings.Repeat("[", 20000) + strings.Repeat("]", 20000), 400, `{"msg":"the body is no JSON: at byte 10001: invalid character '[' exceeded max depth` + usage, ""},
		{"deep value", "PUT", "/1/lb/nodes", `{"node":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`, 400, `{"msg":"the value of \"node\" is an array, not a string` + usage, ""},
		{"no key", "PUT", "/1/lb/nodes", `{}`, 400, `{"msg":"the key \"node\" is missing` + usage, ""},
		{"unknown key", "PUT", "/1/lb/nodes", `{"node":"h:1","wait":3}`, 400, `{"msg":"unknown key \"wait\"` + usage, ""},
		{"unknown key, delete", "DELETE", "/1/lb/nodes", `{"node":"h:1","weight":3}`, 400, `{"msg":"unknown key \"weight\"` + usage, ""},
		{"weight", "PUT", "/1/lb/nodes", `{"node":"h:1","weight":50}`, 200, `{"msg":"node changed"}` + "\n", "set h:1 weight 50"},
		{"weight 0", "PUT", "/1/lb/nodes", `{"weight":0,"node":"h:1"}`, 200, `{"msg":"node changed"}` + "\n", "set h:1 weight 0"},
		{"weight 256", "PUT", "/1/lb/nodes", `{"node":"h:1","weight":256}`, 200, `{"msg":"node changed"}` + "\n", "set h:1 weight 256"},
		{"state", "PUT", "/1/lb/nodes", `{"node":"h:1","state":"drain"}`, 200, `{"msg":"node changed"}` + "\n", "set h:1 state drain"},
		{"both", "PUT", "/1/lb/nodes", `{"state":"maint","node":"h:1","weight":1}`, 200, `{"msg":"node changed"}` + "\n", "set h:1 weight 1 state maint"},
		{"weight 257", "PUT", "/1/lb/nodes", `{"node":"h:1","weight":257}`, 400, `{"msg":"the weight \"257\" is not allowed` + weights, ""},
		{"weight -1", "PUT", "/1/lb/nodes", `{"node":"h:1","weight":-1}`, 400, `{"msg":"the weight \"-1\" is not allowed` + weights, ""},
		{"weight 1.5", "PUT", "/1/lb/nodes", `{"node":"h:1","weight":1.5}`, 400, `{"msg":"the weight \"1.5\" is not allowed` + weights, ""},
		{"weight 1e2", "PUT", "/1/lb/nodes", `{"node":"h:1","weight":1e2}`, 400, `{"msg":"the weight \"1e2\" is not allowed` + weights, ""},
		{"huge weight", "PUT", "/1/lb/nodes", `{"node":"h:1","weight":99999999999999999999}`, 400, `{"msg":"the weight \"99999999999999999999\" is not allowed` + weights, ""},
		{"weight as text", "PUT", "/1/lb/nodes", `{"node":"h:1","weight":"50"}`, 400, `{"msg":"the value of \"weight\" is a string, not a number` + weights, ""},
		{"weight null", "PUT", "/1/lb/nodes", `{"node":"h:1","weight":null}`, 400, `{"msg":"the value of \"weight\" is null, not a number` + weights, ""},
		{"weight array", "PUT", "/1/lb/nodes", `{"node":"h:1","weight":[5]}`, 400, `{"msg":"the value of \"weight\" is an array, not a number` + usage, ""},
		{"weight twice", "PUT", "/1/lb/nodes", `{"node":"h:1","weight":5,"weight":5}`, 400, `{"msg":"the key \"weight\" is there twice` + usage, ""},
		{"another state", "PUT", "/1/lb/nodes", `{"node":"h:1","state":"up"}`, 400, `{"msg":"the state \"up\" is not known` + states, ""},
		{"state in capitals", "PUT", "/1/lb/nodes", `{"node":"h:1","state":"DRAIN"}`, 400, `{"msg":"the state \"DRAIN\" is not known` + states, ""},
		{"state as number", "PUT", "/1/lb/nodes", `{"node":"h:1","state":1}`, 400, `{"msg":"the value of \"state\" is a number, not a string` + states, ""},
		{"weight of nobody", "PUT", "/1/lb/nodes", `{"weight":5}`, 400, `{"msg":"the key \"node\" is missing` + usage, ""},
		{"another case", "PUT", "/1/lb/nodes", `{"Node":"h:1"}`, 400, `{"msg":"unknown key \"Node\"` + usage, ""},
		{"key twice", "PUT", "/1/lb/nodes", `{"node":"h:1","node":"h:2"}`, 400, `{"msg":"the key \"node\" is there twice` + usage, ""},
		{"key twice, escaped", "PUT", "/1/lb/nodes", `{"node":"h:1","\u006eode":"h:2"}`, 400, `{"msg":"the key \"node\" is there twice` + usage, ""},
		{"second value", "PUT", "/1/lb/nodes", `{"node":"h:1"} {"node":"h:2"}`, 400, `{"msg":"something follows the JSON value` + usage, ""},
		{"second value, broken", "PUT", "/1/lb/nodes", `{"node":"h:1"}x`, 400, `{"msg":"something follows the JSON value` + usage, ""},
		{"number", "PUT", "/1/lb/nodes", `{"node":80}`, 400, `{"msg":"the value of \"node\" is a number, not a string` + usage, ""},
		{"value null", "PUT", "/1/lb/nodes", `{"node":null}`, 400, `{"msg":"the value of \"node\" is null, not a string` + usage, ""},
		{"value boolean", "PUT", "/1/lb/nodes", `{"node":true}`, 400, `{"msg":"the value of \"node\" is a boolean, not a string` + usage, ""},
		{"value object", "PUT", "/1/lb/nodes", `{"node":{}}`, 400, `{"msg":"the value of \"node\" is an object, not a string` + usage, ""},
		{"no UTF-8", "PUT", "/1/lb/nodes", "{\"node\":\"\xff:1\"}", 400, `{"msg":"the body is not UTF-8` + usage, ""},
		{"2 MB", "PUT", "/1/lb/nodes", `{"node":"` + strings.Repeat("a", 2<<20) + `"}`, 413, `{"msg":"the body is longer than 65536 bytes"}` + "\n", ""},
		{"one byte too many", "PUT", "/1/lb/nodes", `{"node":"h:1"}` + strings.Repeat(" ", 65537-14), 413, `{"msg":"the body is longer than 65536 bytes"}` + "\n", ""},
		{"as long as may be", "PUT", "/1/lb/nodes", `{"node":"h:1"}` + strings.Repeat(" ", 65536-14), 200, `{"msg":"node added"}` + "\n", "set h:1"},

		{"wrong method", "POST", "/1/lb/nodes", `{"node":"h:1"}`, 405, `{"msg":"the method \"POST\" is not for this path; it takes DELETE, GET, HEAD, OPTIONS, PUT"}` + "\n", ""},
		{"wrong method, status", "DELETE", "/1/lb/status", "", 405, `{"msg":"the method \"DELETE\" is not for this path; it takes GET, HEAD, OPTIONS"}` + "\n", ""},
		{"odd method", "GETS", "/1/lb/readyz", "", 405, `{"msg":"the method \"GETS\" is not for this path; it takes GET, HEAD, OPTIONS"}` + "\n", ""},
		{"options", "OPTIONS", "/1/lb/nodes", "", 204, "", ""},

		{"unknown path", "GET", "/", "", 404, `{"msg":"unknown command"}` + "\n", ""},
		{"unknown below", "PUT", "/1/lb/stats", "{}", 404, `{"msg":"unknown command"}` + "\n", ""},
		{"slash at the end", "GET", "/1/lb/nodes/", "", 404, `{"msg":"unknown command"}` + "\n", ""},
		{"double slash", "GET", "//1/lb/nodes", "", 404, `{"msg":"unknown command"}` + "\n", ""},
		{"dots", "GET", "/1/lb/x/../nodes", "", 404, `{"msg":"unknown command"}` + "\n", ""},
		{"encoded", "GET", "/1/lb/%6eodes", "", 404, `{"msg":"unknown command"}` + "\n", ""},
		{"encoded slash", "GET", "/1/lb%2fnodes", "", 404, `{"msg":"unknown command"}` + "\n", ""},
		{"another case of a path", "GET", "/1/LB/nodes", "", 404, `{"msg":"unknown command"}` + "\n", ""},
		{"absolute form", "GET", "http://127.0.0.1/1/lb/healthz", "", 200, `{"healthy":true}` + "\n", ""},

		{"live", "GET", "/1/lb/healthz", "", 200, `{"healthy":true}` + "\n", ""},
		{"ready", "GET", "/1/lb/readyz", "", 200, `{"ready":true,"degraded":[]}` + "\n", ""},
		{"metrics", "GET", "/1/lb/metrics", "", 200, "fnlb_ready 1\n", ""},
		{"config", "GET", "/1/lb/config", "", 200, "global\n\tmaxconn 5\n", ""},
		{"live, short", "GET", "/healthz", "", 200, `{"healthy":true}` + "\n", ""},
		{"ready, short", "GET", "/readyz?strict=1", "", 200, `{"ready":true,"degraded":[]}` + "\n", ""},
		{"metrics, short", "GET", "/metrics", "", 200, "fnlb_ready 1\n", ""},
		{"no short form", "GET", "/nodes", "", 404, `{"msg":"unknown command"}` + "\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &store{nodes: []string{"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "[::1]:80"}}
			h, panics := handlerOf(s, full(), true)
			req := httptest.NewRequestWithContext(t.Context(), tt.method, tt.path, strings.NewReader(tt.body))
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded") // curl's -d
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req)
			if w.Code != tt.status || w.Body.String() != tt.answer {
				t.Errorf("answered %d %q\nwant     %d %q", w.Code, w.Body, tt.status, tt.answer)
			}
			if got := strings.Join(s.calls, ","); got != tt.calls {
				t.Errorf("called %q, want %q", got, tt.calls)
			}
			if strings.HasPrefix(tt.answer, "{") && w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("headers %v", w.Header())
			}
			if (w.Header().Get("Allow") != "") != (tt.status == 405 || tt.status == 204) || panics.Load() != 0 {
				t.Errorf("Allow %q, %d panics", w.Header().Get("Allow"), panics.Load())
			}
		})
	}
}

func TestShortFormsNeedAListenerOfOurOwn(t *testing.T) {
	h, _ := handlerOf(&store{}, full(), false)
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
		if w.Code != 404 || w.Body.String() != "{\"msg\":\"unknown command\"}\n" {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestPaths(t *testing.T) {
	want := []string{"/1/lb/changes", "/1/lb/config", "/1/lb/explain", "/1/lb/freeze", "/1/lb/healthz", "/1/lb/metrics", "/1/lb/nodes", "/1/lb/readyz", "/1/lb/rollback",
		"/1/lb/status"}
	if got := Paths(); !slices.Equal(got, want) {
		t.Errorf("paths %q, want %q", got, want)
	}
}

func TestFrozen(t *testing.T) {
	s := &store{err: model.Problem{Kind: model.Conflict, Reason: "there is no earlier text to go back to"}}
	h, _ := handlerOf(s, &report{status: model.Status{Frozen: &model.Freeze{Reason: "incident <7>", Since: noon, By: "admin socket", Revision: "abc"}}}, false)
	for _, tt := range []struct {
		method, path string
		status       int
		answer       string
	}{
		{"GET", "/1/lb/freeze", 200, `{"frozen":true,"reason":"incident <7>","since":"2026-01-02T12:00:00Z","by":"admin socket","revision":"abc"}`},
		{"POST", "/1/lb/rollback", 409, `{"msg":"there is no earlier text to go back to"}`},
	} {
		r := httptest.NewRequestWithContext(t.Context(), tt.method, tt.path, nil)
		r.RemoteAddr = "@" // a Unix socket
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tt.status || w.Body.String() != tt.answer+"\n" {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, w.Code, w.Body)
		}
	}
	if len(s.calls) != 1 || s.calls[0] != "rollback by admin socket" {
		t.Errorf("calls %q", s.calls)
	}
}

// TestFull: a node of several addresses is as healthy as the best of them, and what is not known is left out.
func TestFull(t *testing.T) {
	fifty, err := model.NewWeight(50)
	if err != nil {
		t.Fatal(err)
	}
	later := noon.Add(time.Hour)
	s := &store{rows: []model.NodeRow{
		{Node: "*web:80", Server: "*web:80", Weight: fifty}, {Node: "10.0.0.1:80", Server: "10.0.0.1:80", Admin: model.Maint},
		{Node: "10.0.0.2:80", Server: "10.0.0.2:80", Admin: model.Drain}, {Node: "[::1]:80", Server: "::1:80"}, {Node: "new:80", Server: "new:80"},
	}}
	r := &report{
		status: model.Status{Servers: []model.ServerStatus{
			{Service: "nodes", Name: "*web:80", Address: "10.0.1.1:80", Health: model.Down, Since: noon, LastCheck: "connection failed", Mend: "start it"},
			{Service: "nodes", Name: "*web:80", Address: "10.0.1.2:80", Health: model.Up, Since: later, LastCheck: "check passed"},
			{Service: "nodes", Name: "*web:80", Address: "10.0.1.3:80", Health: model.Pending, Since: noon},
			{Service: "nodes", Name: "10.0.0.1:80", Address: "10.0.0.1:80", Health: model.Up, Since: noon}, // not up to date
			{Service: "nodes", Name: "10.0.0.2:80", Address: "10.0.0.2:80", Health: model.Draining, Since: noon},
			{Service: "nodes", Name: "::1:80", Address: "[::1]:80", Health: model.Up, Since: noon},
		}},
		requests: map[model.ServedAt]uint64{{Service: "nodes", Name: "*web:80", Address: "10.0.1.1:80"}: 3, {Service: "nodes", Name: "*web:80", Address: "10.0.1.2:80"}: 4,
			{Service: "nodes", Name: "10.0.0.2:80", Address: "10.0.0.2:80"}: 0},
	}
	golden(t, s, r, "nodes-full.json", "/1/lb/nodes?full=1", 200)
	golden(t, &store{}, &report{}, "nodes-full-empty.json", "/1/lb/nodes?full=1", 200)
	h, _ := handlerOf(s, r, false)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/1/lb/nodes?full=0", nil))
	if want := `{"nodes":{"*web:80":"online","10.0.0.1:80":"offline","10.0.0.2:80":"offline","[::1]:80":"online","new:80":"offline"}}` + "\n"; w.Body.String() != want {
		t.Errorf("%s, want %s", w.Body, want)
	}
}

func TestNoNodes(t *testing.T) {
	h, _ := handlerOf(&store{}, &report{}, false)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/1/lb/nodes", nil))
	if w.Code != 200 || w.Body.String() != "{\"nodes\":{}}\n" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}

func TestProblemsBecomeStatuses(t *testing.T) {
	for _, tt := range []struct {
		err    error
		status int
		answer string
	}{
		{model.Problem{Kind: model.Invalid, Reason: `node "h": the port is missing; write HOST:PORT`}, 400, `{"msg":"node \"h\": the port is missing; write HOST:PORT"}`},
		{model.Problem{Kind: model.Refused, Reason: "0.0.0.0:1 is <unspecified>"}, 422, `{"msg":"0.0.0.0:1 is <unspecified>"}`},
		{model.Problem{Kind: model.Conflict, Reason: "another has it", Mend: "remove it"}, 409, `{"msg":"another has it; remove it"}`},
		{model.Problem{Kind: model.NotFound, Reason: "not there"}, 404, `{"msg":"not there"}`},
		{model.Problem{Kind: model.Unavailable, Reason: "later"}, 503, `{"msg":"later"}`},
		{errors.New("secret detail"), 500, `{"msg":"internal error; the balancer's log has more"}`},
	} {
		h, _ := handlerOf(&store{err: tt.err}, full(), false)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "PUT", "/1/lb/nodes", strings.NewReader(`{"node":"h:1"}`)))
		if w.Code != tt.status || w.Body.String() != tt.answer+"\n" {
			t.Errorf("%v: answered %d %q", tt.err, w.Code, w.Body)
		}
		if (w.Header().Get("Retry-After") != "") != (tt.status == 503) {
			t.Errorf("%v: headers %v", tt.err, w.Header())
		}
	}
}

func TestReady(t *testing.T) {
	for _, tt := range []struct {
		name, query string
		phase       model.Phase
		degraded    []string
		status      int
		answer      string
	}{
		{"nothing yet", "", model.Starting, nil, 503, `{"ready":false,"degraded":[],"msg":"HAProxy runs no accepted configuration yet"}`},
		{"no status yet", "", "", nil, 503, `{"ready":false,"degraded":[],"msg":"HAProxy runs no accepted configuration yet"}`},
		{"serving", "?strict=1", model.Serving, nil, 200, `{"ready":true,"degraded":[]}`},
		{"degraded", "", model.Serving, []string{"source docker is down"}, 200, `{"ready":true,"degraded":["source docker is down"]}`},
		{"degraded, not strict", "?strict=0", model.Serving, []string{"x"}, 200, `{"ready":true,"degraded":["x"]}`},
		{"degraded, strict", "?strict=1", model.Serving, []string{"x"}, 503, `{"ready":false,"degraded":["x"],"msg":"degraded, and strict=1 asks for more"}`},
		{"dead", "", model.Broken, nil, 503, `{"ready":false,"degraded":[],"msg":"HAProxy has died and is being started again"}`},
		{"stopping", "", model.Stopping, nil, 503, `{"ready":false,"degraded":[],"msg":"the balancer is stopping"}`},
	} {
		h, _ := handlerOf(&store{}, &report{status: model.Status{Phase: tt.phase, Degraded: tt.degraded}}, false)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/1/lb/readyz"+tt.query, nil))
		if w.Code != tt.status || w.Body.String() != tt.answer+"\n" {
			t.Errorf("%s: answered %d %q", tt.name, w.Code, w.Body)
		}
	}
}

// golden compares an answer with a file.
func golden(t *testing.T, s *store, r *report, file, path string, status int) {
	t.Helper()
	h, _ := handlerOf(s, r, false)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
	file = "testdata/" + file
	if *update {
		if err := os.WriteFile(file, w.Body.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if w.Code != status || w.Body.String() != string(want) {
		t.Errorf("%s answered %d:\n%s\nwant %d:\n%s", path, w.Code, w.Body, status, want)
	}
}

func TestGoldens(t *testing.T) {
	for _, tt := range []struct {
		file, path string
		report     *report
		status     int
	}{
		{"status.json", "/1/lb/status", full(), 200},
		{"status-empty.json", "/1/lb/status", &report{}, 200},
		{"changes.json", "/1/lb/changes", full(), 200},
		{"changes-empty.json", "/1/lb/changes", &report{}, 200},
		{"config-none.json", "/1/lb/config", &report{}, 503},
	} {
		t.Run(tt.file, func(t *testing.T) {
			golden(t, &store{}, tt.report, tt.file, tt.path, tt.status)
		})
	}
}

// bomb panics in place of answering.
type bomb struct{ report }

func (*bomb) Status() model.Status { panic("boom") }

func TestPanicsBecome500(t *testing.T) {
	var panics atomic.Uint64
	var log strings.Builder
	h := New(Options{Nodes: &store{}, Reporter: &bomb{}, Panics: &panics, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "half")
			panic("late boom")
		})})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/1/lb/status", nil))
	if w.Code != 500 || w.Body.String() != "{\"msg\":\"internal error; the balancer's log has more\"}\n" || panics.Load() != 1 {
		t.Errorf("answered %d %q, %d panics", w.Code, w.Body, panics.Load())
	}
	if !strings.Contains(log.String(), "boom") || !strings.Contains(log.String(), "stack") {
		t.Errorf("logged %s", log.String())
	}
	func() {
		defer func() {
			if p := recover(); p != http.ErrAbortHandler { //nolint:errorlint // the very value
				t.Errorf("an answer that had begun ended with %v", p)
			}
		}()
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "GET", "/1/lb/metrics", nil))
	}()
	if panics.Load() != 2 {
		t.Errorf("%d panics", panics.Load())
	}
}
