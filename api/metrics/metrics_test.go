package metrics

import (
	"bytes"
	"flag"
	"log/slog"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/api"
	"github.com/fnlb/fnlb/model"
)

var update = flag.Bool("update", false, "write the golden files")

type report struct {
	status   model.Status
	counters api.Counters
}

func (r report) Status() model.Status                      { return r.status }
func (r report) Changes() []model.Apply                    { return nil }
func (r report) Config() []byte                            { return nil }
func (r report) Counters() api.Counters                    { return r.counters }
func (r report) Explain(string) (model.Explanation, error) { return model.Explanation{}, nil }

// scrape gives the metrics that are ours.
func scrape(t *testing.T, r api.Reporter) string {
	t.Helper()
	var log bytes.Buffer
	h := New(Options{Reporter: r, Version: "1.2.3", Panics: func() uint64 { return 3 }, LogDropped: func() uint64 { return 4 }, Log: slog.New(slog.NewTextHandler(&log, nil))})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	if w.Code != 200 || log.Len() != 0 {
		t.Fatalf("status %d: %s\nlogged %s", w.Code, w.Body, log.String())
	}
	for _, name := range []string{"go_goroutines ", "process_open_fds "} {
		if !strings.Contains(w.Body.String(), "\n"+name) {
			t.Errorf("%s is missing", name)
		}
	}
	var ours []string
	for l := range strings.Lines(w.Body.String()) {
		if strings.Contains(l, "fnlb_") {
			ours = append(ours, strings.ReplaceAll(l, runtime.Version(), "GO"))
		}
	}
	return strings.Join(ours, "")
}

func TestGoldens(t *testing.T) {
	for _, tt := range []struct {
		file   string
		report report
	}{
		{"empty.txt", report{}},
		{"full.txt", report{
			status: model.Status{
				Phase: model.Serving, Degraded: []string{"source docker is down", "revision 4 was refused"},
				HAProxy: model.HAProxyStatus{Version: "2.6.12", Restarts: 2},
				Sources: []model.SourceStatus{{Name: "docker", Reason: "away"}, {Name: "nodes", Up: true}},
				Servers: []model.ServerStatus{{Service: "nodes", Health: model.Up}, {Service: "nodes", Health: model.Up},
					{Service: "nodes", Health: model.Down}, {Service: "other", Health: model.Pending}, {Service: "other", Health: 99}},
				Problems: []model.Problem{{Kind: model.Invalid}, {Kind: model.Invalid}, {Kind: model.Conflict}},
			},
			counters: api.Counters{
				Applies: map[api.ApplyKey]uint64{{Method: model.Reload, Result: "ok"}: 7, {Method: model.Reload, Result: "error"}: 1, {Method: model.Noop, Result: "ok"}: 2},
				Reloads: map[string]uint64{"server-added": 5, "bad \xff": 1},
				Seconds: api.Histogram{Count: 10, Sum: 1.5, Buckets: map[float64]uint64{0.1: 4, 1: 9}},
			},
		}},
	} {
		t.Run(tt.file, func(t *testing.T) {
			got := scrape(t, tt.report)
			file := "testdata/" + tt.file
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("scraped:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}
