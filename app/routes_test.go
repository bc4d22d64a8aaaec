package app

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor"
	"github.com/fnlb/fnlb/supervisor/plan"
	"github.com/fnlb/fnlb/templates"
)

// routedState has two services of one server each; the rest goes to a, and each pattern to b.
func routedState(t *testing.T, port int, a, b string, patterns ...string) model.State {
	t.Helper()
	bind := model.Bind{IP: netip.MustParseAddr("127.0.0.1"), Port: uint16(port)}
	rows := model.Rows{
		Listeners: []model.Listener{{Bind: bind, Routed: true, ClientTimeout: time.Minute}},
		Routes:    []model.Route{{Bind: bind, Service: "a"}},
	}
	for name, addr := range map[string]string{"a": a, "b": b} {
		at := netip.MustParseAddrPort(addr)
		rows.Services = append(rows.Services, model.Service{
			Name: name, Check: model.Check{Kind: model.CheckOff}, Timeouts: model.Timeouts{Connect: 10 * time.Second, Server: time.Minute, Queue: time.Minute},
		})
		rows.Servers = append(rows.Servers, model.Server{Service: name, Name: "s", IP: at.Addr(), Port: at.Port()})
	}
	for _, s := range patterns {
		p, err := model.ParsePattern(s)
		if err != nil {
			t.Fatal(err)
		}
		rows.Routes = append(rows.Routes, model.Route{Bind: bind, Pattern: p, Service: "b"})
	}
	st, problems := model.Merge([]model.Offer{{Owner: model.Owner{Source: "test", Name: "all"}, Rows: rows}})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return st
}

// says is a server that answers with its name.
func says(t *testing.T, name string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func writeBundle(t *testing.T, dir string, b conf.Bundle) {
	t.Helper()
	for name, f := range b.Files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRoutesAtRuntime: routes of a listener come and go without a reload, from the first to the last, and no request is lost meanwhile.
func TestRoutesAtRuntime(t *testing.T) {
	t.Parallel()
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		a, b, port, dir := says(t, "a"), says(t, "b"), haproxytest.FreePort(t), t.TempDir()
		r := &renderer{template: templates.Builtin(), runDir: dir, globals: templates.Globals{RunDir: dir, Bundled: supervisor.Bundled}}
		render := func(patterns ...string) plan.Bundle {
			bundle, err := r.Render(routedState(t, port, a, b, patterns...), conf.Abilities{Version: h.Version, Major: 2, Minor: 6})
			if err != nil {
				t.Fatal(err)
			}
			writeBundle(t, dir, bundle)
			out, err := plan.Read(bundle)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		inForce, names := render(), plan.Names(nil)
		haproxy := h.Start(t, string(inForce.Main), "r1")
		client := runtime.New(haproxy.Socket)
		limit, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		_, worker, err := client.Loaded(limit, "r1")
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		get := func(path string) string {
			req, err := http.NewRequestWithContext(limit, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", port, path), nil)
			if err != nil {
				return err.Error()
			}
			resp, err := transport.RoundTrip(req)
			if err != nil {
				return err.Error()
			}
			body, err := io.ReadAll(resp.Body)
			if errClose := resp.Body.Close(); err != nil || errClose != nil {
				return fmt.Sprint(err, errClose)
			}
			return fmt.Sprintf("%d %s%s", resp.StatusCode, body, resp.Header.Get("Location"))
		}
		var requests atomic.Int64
		stop, load := make(chan struct{}), sync.WaitGroup{}
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				requests.Add(1)
				if got := get("/b/x"); got != "200 a" && got != "200 b" {
					t.Errorf("during changes: %s", got)
					return
				}
			}
		})
		for _, step := range []struct {
			patterns []string
			want     map[string]string
		}{
			{[]string{"/b/"}, map[string]string{"/b/x": "200 b", "/b": "301 /b/", "/": "200 a"}},
			{[]string{"/b/", "127.0.0.1/c"}, map[string]string{"/b/x": "200 b", "/c": "200 b", "/c/": "200 a"}},
			{[]string{"127.0.0.1/c"}, map[string]string{"/b/x": "200 a", "/b": "200 a", "/c": "200 b"}},
			{nil, map[string]string{"/b/x": "200 a", "/b": "200 a", "/c": "200 a"}},
			{[]string{"/b/"}, map[string]string{"/b/x": "200 b", "/b": "301 /b/"}},
			{[]string{"/b", "/"}, map[string]string{"/b/x": "200 b", "/b": "200 b", "/": "200 b"}},
		} {
			next := render(step.patterns...)
			p := plan.Make(inForce, next, names)
			if len(p.Reload) > 0 || len(p.Steps) == 0 {
				t.Fatalf("to %q: %d steps, reload %v", step.patterns, len(p.Steps), p.Reload)
			}
			for _, s := range p.Steps {
				if s.Kind != plan.Map {
					t.Fatalf("to %q: %+v", step.patterns, s)
				}
				if err := client.SetMap(limit, worker, s.File, s.Was, s.Data); err != nil {
					t.Fatal(err)
				}
			}
			inForce, names = next, p.Names
			for path, want := range step.want {
				if got := get(path); got != want {
					t.Errorf("routes %q: %s gives %s, want %s", step.patterns, path, got, want)
				}
			}
			for path, data := range inForce.Maps() {
				has, err := client.Map(limit, worker, names.Of(path))
				slices.Sort(has)
				if want := runtime.MapEntries(data); err != nil || !slices.Equal(has, want) {
					t.Errorf("routes %q: the worker has %q, %v; want %q", step.patterns, has, err, want)
				}
			}
		}
		close(stop)
		load.Wait()
		t.Logf("%d requests", requests.Load())
	})
}
