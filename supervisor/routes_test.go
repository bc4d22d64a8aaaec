package supervisor

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/model"
)

// TestReady: a route waits for the first server of its service where another route serves meanwhile, and nowhere else.
func TestReady(t *testing.T) {
	t.Parallel()
	bind, alone := model.Bind{Port: 80}, model.Bind{Port: 81}
	route := func(b model.Bind, pattern, service string) model.Route {
		if pattern == "" {
			return model.Route{Bind: b, Service: service}
		}
		p, err := model.ParsePattern(pattern)
		if err != nil {
			t.Fatal(err)
		}
		return model.Route{Bind: b, Pattern: p, Service: service}
	}
	server := func(service string) model.Server {
		return model.Server{Service: service, Name: "a", IP: netip.MustParseAddr("192.0.2.1"), Port: 80}
	}
	for name, c := range map[string]struct {
		routes  []model.Route
		servers []model.Server // wanted
		serve   []string       // services with an admitted one
		inForce []model.Route
		want    string // services that are led to
	}{
		"a newcomer beside the rest":             {[]model.Route{route(bind, "", "rest"), route(bind, "/a/", "a")}, []model.Server{server("rest"), server("a")}, []string{"rest"}, nil, "rest"},
		"with its server":                        {[]model.Route{route(bind, "", "rest"), route(bind, "/a/", "a")}, []model.Server{server("rest"), server("a")}, []string{"rest", "a"}, nil, "rest a"},
		"in force":                               {[]model.Route{route(bind, "", "rest"), route(bind, "/a/", "a")}, []model.Server{server("a")}, nil, []model.Route{route(bind, "/a/", "a")}, "rest a"},
		"in force, to another":                   {[]model.Route{route(bind, "", "rest"), route(bind, "/a/", "a")}, []model.Server{server("a")}, nil, []model.Route{route(bind, "/a/", "b")}, "rest"},
		"no servers at all":                      {[]model.Route{route(bind, "", "rest"), route(bind, "/a/", "a")}, nil, nil, nil, "rest a"},
		"nothing else serves":                    {[]model.Route{route(alone, "/a/", "a"), route(bind, "", "rest")}, []model.Server{server("a")}, nil, nil, "a rest"},
		"another path":                           {[]model.Route{route(alone, "/a/", "a"), route(alone, "/b/", "b")}, []model.Server{server("a")}, nil, nil, "a b"},
		"a shorter path":                         {[]model.Route{route(alone, "/a/", "a"), route(alone, "/", "b")}, []model.Server{server("a")}, nil, nil, "b"},
		"any host":                               {[]model.Route{route(alone, "h/a", "a"), route(alone, "/a", "b")}, []model.Server{server("a")}, nil, nil, "b"},
		"a redirect serves nothing":              {[]model.Route{route(alone, "/a", "a"), route(alone, "/a/", "b")}, []model.Server{server("a")}, nil, nil, "a b"},
		"of two that wait neither serves":        {[]model.Route{route(alone, "/a/", "a"), route(alone, "/", "b")}, []model.Server{server("a"), server("b")}, nil, nil, "a b"},
		"the rest goes on without its own check": {[]model.Route{route(bind, "", "rest")}, []model.Server{server("rest")}, nil, nil, "rest"},
	} {
		l := &loop{wanted: model.State{Rows: model.Rows{Servers: c.servers}}, accepted: &accepted{state: model.State{Rows: model.Rows{Routes: c.inForce}}}}
		st := model.State{Rows: model.Rows{Routes: slices.Clone(c.routes)}}
		for _, s := range c.serve {
			st.Servers = append(st.Servers, server(s))
		}
		var got []string
		for _, r := range l.ready(st).Routes {
			got = append(got, r.Service)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if !slices.Equal(st.Routes, c.routes) {
			t.Errorf("%s: the State was changed", name)
		}
	}
}

// TestOtherMap: a map of the worker that is not what the file says is found, whatever the worker calls it and whatever the order.
func TestOtherMap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text, err := conf.Parse([]byte("frontend f\n  use_backend %[path,map_beg(/run/bundle/2/m.map)]\n"))
	if err != nil {
		t.Fatal(err)
	}
	a := &accepted{
		text: text, bundle: conf.Bundle{Files: map[string]conf.File{"bundle/2/m.map": {Data: []byte("# routes\n/a  s\n\n/b t\n")}}},
		names: map[string]string{"/run/bundle/2/m.map": "/run/bundle/1/m.map"},
	}
	for _, c := range []struct {
		has  map[string][]string
		want string
	}{
		{map[string][]string{"/run/bundle/1/m.map": {"/b t", "/a s"}}, ""},
		{map[string][]string{"/run/bundle/1/m.map": {"/a s"}}, "map m.map has other entries"},
		{map[string][]string{"/run/bundle/1/m.map": {"/a s", "/b s"}}, "map m.map has other entries"},
		{map[string][]string{"/run/bundle/2/m.map": {"/a s", "/b t"}}, "map m.map has other entries"},
		{nil, ""}, // it does not say
	} {
		w.maps = c.has
		if got := w.s.otherMap(t.Context(), 100, a); got != c.want {
			t.Errorf("%v: %q, want %q", c.has, got, c.want)
		}
	}
}
