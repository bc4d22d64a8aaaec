package docker

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// serve answers as an engine on a socket and notes what was asked, until the test ends.
func serve(t *testing.T, answer http.HandlerFunc) (host string, asked func() []string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "fd")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "d.sock"))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var calls []string
	s := &httptest.Server{Listener: l, Config: &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		calls = append(calls, r.Method+" "+r.URL.Path)
		mu.Unlock()
		answer(w, r)
	})}}
	s.Start()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return "unix://" + l.Addr().String(), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(calls)
	}
}

// TestVersions: engines from API 1.40 on, and proxies that refuse to be asked for the version.
func TestVersions(t *testing.T) {
	for _, tt := range []struct {
		name   string
		ping   func(w http.ResponseWriter)
		least  string // what is refused below it; empty: nothing is
		speaks string // empty: it is refused
	}{
		{"1.40", func(w http.ResponseWriter) { w.Header().Set("Api-Version", "1.40") }, "", "1.40"},
		{"1.41", func(w http.ResponseWriter) { w.Header().Set("Api-Version", "1.41") }, "", "1.41"},
		{"a later one", func(w http.ResponseWriter) { w.Header().Set("Api-Version", "1.99") }, "1.44", "1."},
		{"a proxy", func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) }, "", "1.40"},
		{"a proxy before a new engine", func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) }, "1.44", "1.44"},
		{"a proxy that knows no such path", func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, "", "1.40"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host, asked := serve(t, func(w http.ResponseWriter, r *http.Request) {
				version, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v"), "/")
				switch {
				case strings.HasSuffix(r.URL.Path, "/_ping"):
					tt.ping(w)
				case len(version) == len(tt.least) && version < tt.least:
					w.WriteHeader(http.StatusBadRequest)
					_, _ = io.WriteString(w, `{"message":"client version is too old"}`)
				default:
					_, _ = io.WriteString(w, "[]")
				}
			})
			e, err := connect(t.Context(), host)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := e.networks(t.Context()); err != nil {
				t.Error(err)
			}
			calls := asked()
			if last := calls[len(calls)-1]; !strings.HasPrefix(last, "GET /v"+tt.speaks) {
				t.Errorf("asked: %q", calls)
			}
			if err := e.close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNobodyAnswers: an engine that is not there, and one that is broken, are errors.
func TestNobodyAnswers(t *testing.T) {
	if _, err := connect(t.Context(), "unix:///nobody/is/here.sock"); err == nil {
		t.Error("there is no engine, and no error")
	}
	host, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	if e, err := connect(t.Context(), host); err == nil {
		_, err = e.list(t.Context())
		if err == nil {
			t.Error("the engine is broken, and there is no error")
		}
		if err := e.close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := connect(t.Context(), "ftp://x"); err == nil {
		t.Error("that is no host of an engine, and there is no error")
	}
}

// TestCallsAreBounded: no call waits for an engine that says nothing, the beginning of the stream included.
func TestCallsAreBounded(t *testing.T) {
	host, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/_ping") {
			w.Header().Set("Api-Version", "1.41")
			return
		}
		<-r.Context().Done()
	})
	e, err := connect(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	e.limit = 20 * time.Millisecond
	if _, err := e.list(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("list: %v", err)
	}
	if _, err := e.inspect(t.Context(), "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("inspect: %v", err)
	}
	if _, err := e.networks(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("networks: %v", err)
	}
	_, failed := e.follow(t.Context(), "")
	select {
	case err := <-failed:
		if !strings.Contains(err.Error(), "has not begun within") {
			t.Error(err)
		}
	default:
		t.Error("follow returns, and there is no error")
	}
	if err := e.close(); err != nil {
		t.Error(err)
	}
}

// TestFactsOf: an engine's answer as it is, odd ones included.
func TestFactsOf(t *testing.T) {
	t.Parallel()
	good := func() *container.InspectResponse {
		return &container.InspectResponse{
			ID: "abc", Name: "/web", Created: "2026-01-02T03:04:05.6Z", State: &container.State{Status: "running", StartedAt: "then"},
			Config: &container.Config{StopSignal: "SIGQUIT", ExposedPorts: network.PortSet{
				network.MustParsePort("443/tcp"): {}, network.MustParsePort("80/tcp"): {}, network.MustParsePort("53/udp"): {},
			}},
			HostConfig: &container.HostConfig{},
			NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{
				"b": {NetworkID: "id-b", IPAddress: netip.MustParseAddr("::ffff:10.0.0.1"), Gateway: netip.MustParseAddr("10.0.0.254")},
				"a": {NetworkID: "id-a", GlobalIPv6Address: netip.MustParseAddr("fd00::1"), IPv6Gateway: netip.MustParseAddr("fd00::ff")},
				"c": nil, "host": {}, "none": {}, "d\n": {},
			}},
		}
	}
	f, err := factsOf(good())
	if err != nil {
		t.Fatal(err)
	}
	if f.name != "web" || !slices.Equal(f.exposed, []uint16{80, 443}) || f.stopSignal != "SIGQUIT" || f.created.Second() != 5 || f.health != "" {
		t.Errorf("%+v", f)
	}
	if got := names(f.networks); got != `a, b, "d\n"` || f.networks[0].addr().String() != "fd00::1" || f.networks[1].addr().String() != "10.0.0.1" ||
		f.networks[0].gateway.String() != "fd00::ff" {
		t.Errorf("networks %+v", f.networks)
	}
	for name, change := range map[string]func(c *container.InspectResponse){
		"no id":        func(c *container.InspectResponse) { c.ID = "" },
		"no state":     func(c *container.InspectResponse) { c.State = nil },
		"no config":    func(c *container.InspectResponse) { c.Config = nil },
		"no time":      func(c *container.InspectResponse) { c.Created = "" },
		"another time": func(c *container.InspectResponse) { c.Created = "yesterday" },
	} {
		c := good()
		change(c)
		if _, err := factsOf(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for name, tt := range map[string]struct {
		change func(c *container.InspectResponse)
		want   func(f facts) bool
	}{
		"nothing of networks": {func(c *container.InspectResponse) { c.NetworkSettings, c.HostConfig = nil, nil }, func(f facts) bool { return len(f.networks) == 0 && !f.hostNetwork }},
		"host":                {func(c *container.InspectResponse) { c.HostConfig.NetworkMode = "host" }, func(f facts) bool { return f.hostNetwork }},
		"another's network":   {func(c *container.InspectResponse) { c.HostConfig.NetworkMode = "container:def" }, func(f facts) bool { return f.shares == "def" }},
		"no HEALTHCHECK": {func(c *container.InspectResponse) {
			c.State.Health = &container.Health{Status: container.NoHealthcheck}
		}, func(f facts) bool { return f.health == "" }},
		"HEALTHCHECK":         {func(c *container.InspectResponse) { c.State.Health = &container.Health{Status: container.Starting} }, func(f facts) bool { return f.health == "starting" }},
		"a name of two lines": {func(c *container.InspectResponse) { c.Name = "/a\nb" }, func(f facts) bool { return f.name == `"a\nb"` }},
	} {
		c := good()
		tt.change(c)
		if f, err := factsOf(c); err != nil || !tt.want(f) {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
}

func TestHealthOf(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Up 3 minutes (healthy)": "healthy", "Up 3 minutes (unhealthy)": "unhealthy", "Up 1 second (health: starting)": "starting",
		"Up 2 hours": "", "Up 2 hours (Paused)": "", "Exited (0) 3 days ago": "", "": "",
	} {
		if got := healthOf(text); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}
