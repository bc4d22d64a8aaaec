package docker

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/fnlb/fnlb/model"
)

// split gives the elements of a list, read piecewise.
func split(r io.Reader, buf int) (out []string, err error) {
	err = elements(r, make([]byte, buf), func(e []byte) error {
		out = append(out, string(e))
		return nil
	})
	return out, err
}

// TestElements: a list is taken apart whatever stands in it and however it arrives, and what is none is an error.
func TestElements(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`[]`: "", ` [ ] ` + "\n": "", `null`: "", " null\n": "",
		`[{"a":1},{"b":[1,{}]}]`:                            `{"a":1}|{"b":[1,{}]}`,
		` [ {"a" : "]},["} , 7 , "x\"],\\" , null , [ ] ] `: `{"a" : "]},["}|7|"x\"],\\"|null|[ ]`,
		`[{"é":"\u0022]"}]`:                                 `{"é":"\u0022]"}`,
		``:                                                  "!", `[`: "!", `[{}`: "!", `[{},`: "!", `[{},]`: "!", `[,]`: "!", `[{}]x`: "!", `{}`: "!", `nul`: "!", `["x`: "!", `[}]`: "!", `[{}}]`: "!",
		`{"message":"this is an error of the engine, and no list of containers"}`: "!", `[{}][]`: "!", `null[]`: "!", `[1 2]`: "1 2",
	} {
		for _, buf := range []int{1, 2, 3, 7, 4096} {
			got, err := split(strings.NewReader(text), buf)
			if want == "!" {
				if err == nil {
					t.Errorf("%q in pieces of %d: %q and no error", text, buf, got)
				}
			} else if err != nil || strings.Join(got, "|") != want {
				t.Errorf("%q in pieces of %d: %q %v, want %s", text, buf, got, err, want)
			}
		}
	}
	if _, err := split(iotest.ErrReader(io.ErrUnexpectedEOF), 10); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a broken connection: %v", err)
	}
	wrong := errors.New("wrong")
	if err := elements(strings.NewReader(`[1,2]`), make([]byte, 9), func([]byte) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("an element that is refused: %v", err)
	}
}

// FuzzElements: the elements are those that encoding/json finds; what it does not take is an error, or has an element that it does not.
func FuzzElements(f *testing.F) {
	f.Add([]byte(` [ {"a" : "]},["} , 7 , "x\"],\\" , null , [ ] ] `), 3)
	f.Add([]byte(`null`), 1)
	f.Add([]byte(`[{}}]`), 100)
	f.Fuzz(func(t *testing.T, text []byte, buf int) {
		if buf < 1 || buf > 1<<16 {
			buf = 10
		}
		got, err := split(bytes.NewReader(text), buf)
		var want []json.RawMessage
		if json.Unmarshal(text, &want) == nil {
			if err != nil || len(got) != len(want) {
				t.Fatalf("%q: %q %v, want %q", text, got, err, want)
			}
			for i := range want {
				if got[i] != string(want[i]) {
					t.Errorf("%q: element %d is %q, want %q", text, i, got[i], want[i])
				}
			}
			return
		}
		bad := err != nil
		for _, e := range got {
			bad = bad || !json.Valid([]byte(e))
		}
		if !bad {
			t.Errorf("%q is taken for %q", text, got)
		}
	})
}

// engineList is an engine whose answer to the list a test sets.
type engineList struct {
	mu     sync.Mutex
	text   string
	status int
}

func (l *engineList) set(status int, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status, l.text = status, text
}

func (l *engineList) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", "1.41")
	if !strings.HasSuffix(r.URL.Path, "/containers/json") {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.URL.Path != "/v1.41/containers/json" || r.URL.RawQuery != "all=1" || r.UserAgent() != userAgent {
		l.status = http.StatusTeapot
	}
	w.WriteHeader(l.status)
	_, _ = io.WriteString(w, l.text)
}

// summary is a container as an engine lists it.
func summary(i int, status string) string {
	return fmt.Sprintf(`{"Id":"id%d","Names":["/web%d","/other/link"],"State":"running","Status":%q,"Labels":{"lb.publish":"80"},
		"NetworkSettings":{"Networks":{"bridge":{"NetworkID":"n","IPAddress":"172.17.0.%d"}}}}`, i, i, status, i)
}

// TestList: our own reading of a list gives what the client's gives, also when parts are as they were, and errors that say why.
func TestList(t *testing.T) {
	l := &engineList{}
	host, _ := serve(t, l.ServeHTTP)
	e, err := connect(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.close(); err != nil {
			t.Error(err)
		}
	}()
	if e.lister == nil {
		t.Fatal("the client lists")
	}
	own := e.lister
	ask := func() map[string]line {
		t.Helper()
		e.lister = own
		got, err := e.list(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		e.lister = nil
		want, err := e.list(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		return got
	}
	l.set(http.StatusOK, "[]")
	ask()
	for _, list := range [][]string{
		{summary(1, "Up 1 second"), summary(2, "Up 1 second (healthy)")},
		{summary(1, "Up 2 seconds"), summary(2, "Up 1 second (healthy)")},
		{summary(1, "Up 2 seconds"), summary(2, "Up 2 seconds (unhealthy)")},
		{summary(2, "Up 2 seconds (unhealthy)")},
		{summary(3, "Up 1 second"), summary(2, "Up 2 seconds (unhealthy)"), summary(1, "Up 2 seconds")},
	} {
		l.set(http.StatusOK, "["+strings.Join(list, ",")+"]\n")
		got := ask()
		if len(got) != len(list) || got["id2"].name != "web2" || !got["id2"].ours {
			t.Errorf("%v", got)
		}
		if len(own.last) != len(list) {
			t.Errorf("%d are remembered of %d", len(own.last), len(list))
		}
	}

	e.lister = own
	for want, c := range map[string]struct {
		status int
		text   string
	}{
		`500 Internal Server Error: "out of order"`: {500, `{"message":"out of\norder"}`},
		"403 Forbidden: no":                         {403, "no"},
		"it is cut":                                 {200, "[" + summary(1, "Up")},
		"it is no list":                             {200, `{"message":"` + strings.Repeat("x", 100) + `"}`},
		"invalid character":                         {200, `[{"Id" "x"}]`},
		"cannot unmarshal":                          {200, `[7]`},
	} {
		l.set(c.status, c.text)
		if got, err := e.list(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v %v, want an error with %q", got, err, want)
		}
	}
	l.set(http.StatusOK, "["+summary(4, "Up")+"]")
	if got, err := e.list(t.Context()); err != nil || got["id4"].name != "web4" {
		t.Errorf("after errors: %v %v", got, err)
	}
}

// TestSameContainer: which differences of an element count.
func TestSameContainer(t *testing.T) {
	t.Parallel()
	l := newLister("unix:///run/docker.sock", "1.45")
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{`{"Id":"1","Status":"Up 5 minutes"}`, `{"Id":"1","Status":"Up 3 hours"}`, true},
		{`{"Id":"1","Status":"Up 5 minutes"}`, `{"Id":"2","Status":"Up 5 minutes"}`, false},
		{`{"Id":"1","Status":"Up 5 minutes","X":1}`, `{"Id":"1","Status":"Up 5 minutes","X":2}`, false},
		{`{"Id":"1","Status":"Up 5 minutes (healthy)"}`, `{"Id":"1","Status":"Up 6 minutes (healthy)"}`, true},
		{`{"Id":"1","Status":"Up 5 minutes (healthy)"}`, `{"Id":"1","Status":"Up 5 minutes (unhealthy)"}`, false},
		{`{"Id":"1","Status":"Up 5 minutes"}`, `{"Id":"1","Status":"Exited (0) 5 minutes ago"}`, false},
		{`{"Id":"1","Health":{"Status":"healthy"}}`, `{"Id":"1","Health":{"Status":"unhealthy"}}`, false},
		{`{"Id":"1","Labels":{"a":"\"Status\":\"Up 1"}}`, `{"Id":"1","Labels":{"a":"\"Status\":\"Up 2"}}`, false},
		{`{"Status":"Up `, `{"Status":"Up x`, true},
	} {
		if same := l.sum([]byte(tt.a)) == l.sum([]byte(tt.b)); same != tt.same {
			t.Errorf("%s and %s: the same %v", tt.a, tt.b, same)
		}
	}
}

// TestWhoLists: with TLS the client lists, else we do, by the path that the host names.
func TestWhoLists(t *testing.T) {
	for host, want := range map[string]string{
		"unix:///run/docker.sock":       "http://api.moby.localhost/v1.45/containers/json?all=1",
		"tcp://10.0.0.1:2375":           "http://10.0.0.1:2375/v1.45/containers/json?all=1",
		"tcp://[::1]:2375/below/a/path": "http://[::1]:2375/below/a/path/v1.45/containers/json?all=1",
		"http://10.0.0.1:2375":          "http://10.0.0.1:2375/v1.45/containers/json?all=1",
		"npipe:////./pipe/docker":       "",
		"ssh://host":                    "",
	} {
		l := newLister(host, "1.45")
		switch {
		case l == nil && want != "":
			t.Errorf("%s: the client lists", host)
		case l != nil && l.url != want:
			t.Errorf("%s: %s, want %s", host, l.url, want)
		}
	}
	t.Setenv("DOCKER_CERT_PATH", "/certs")
	if newLister("tcp://10.0.0.1:2376", "1.45") != nil {
		t.Error("with TLS the client must list")
	}
}

// TestRest: while nothing happens nothing is made of the lists that are read; what ends with time does, and a certificate that changes.
func TestRest(t *testing.T) {
	t.Parallel()
	v := &changing{}
	run(t, func(w *world, o *Options) {
		w.add(published(1), published(2, "lb.publish", "443", "lb.ssl", "/certs/web.pem"))
		o.Certificates = v
	}, func(r *rig) {
		r.pass(time.Second)
		used := v.uses()
		_, downs := r.lastDown()
		r.pass(time.Hour)
		if n := v.uses() - used; n > 0 {
			t.Errorf("%d Snapshots were made", n)
		}
		if _, n := r.lastDown(); n != downs {
			t.Errorf("told %d times", n-downs)
		}
		_, puts := r.last()
		v.change("another")
		r.pass(6 * time.Second)
		if s, n := r.last(); n != puts+1 || s.Offers[1].Routes[0].Cert != "another" {
			t.Errorf("%d Snapshots, offers %+v", n-puts, s.Offers)
		}

		r.locked(func() { delete(r.containers, id(1)) })
		// No event comes: the list tells.
		r.pass(6 * time.Second)
		r.want("when it is gone", "web2@172.17.0.2:8080")
		r.pass(portStays - time.Minute)
		if got := r.ports(); got != ":443 :80" {
			t.Errorf("ports %s after nine minutes, though it was published for an hour", got)
		}
		r.pass(2 * time.Minute)
		if got := r.ports(); got != ":443" {
			t.Errorf("ports %s after eleven", got)
		}
	})
}

// changing is a certificate that a test changes.
type changing struct {
	mu      sync.Mutex
	name    string
	changed bool
	used    int
}

func (c *changing) change(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.name, c.changed = name, true
}

func (c *changing) uses() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

func (c *changing) Changed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *changing) Use(string) (string, *model.Problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used, c.changed = c.used+1, false
	return cmp.Or(c.name, "web"), nil
}
