package pools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	begin   = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	quiet   = slog.New(slog.DiscardHandler)
	healthz = model.Check{Kind: model.CheckHTTP, Interval: 10 * time.Second, Timeout: time.Second, Rise: 1, Fall: 1, Asks: []model.Ask{{Path: "/healthz", Bodies: []string{"ok", "OK"}}}}
)

// world is a source with what it asks.
type world struct {
	*testing.T
	*Source
	sick   map[netip.AddrPort]string // why; others are healthy
	refuse error                     // what others have against each offer
	waited []string
}

func (w *world) Probe(_ context.Context, _ model.Check, at netip.AddrPort, _ string) check.Result {
	if why, sick := w.sick[at]; sick {
		return check.Result{Reason: why, Mend: "heal it"}
	}
	return check.Result{OK: true}
}

func newWorld(t *testing.T, m *store.Mirror, earlier *model.Snapshot) *world {
	w := &world{T: t, sick: map[netip.AddrPort]string{}}
	w.Source = New(Options{
		Bind: model.Bind{Port: 8080}, Store: m, Prober: w, Now: func() time.Time { return begin }, Log: quiet, Earlier: earlier,
		Policy:   model.Policy{Own: []model.Bind{{Port: 8080}}},
		Conflict: func(model.Offer) error { return w.refuse },
		Serves: func(_ context.Context, route model.Route, server string) {
			w.waited = append(w.waited, route.Service+" "+server)
		},
	})
	return w
}

func memory() *store.Mirror { return store.New(store.Options{Name: "memory", Log: quiet}) }

func at(s string) model.Member {
	p := netip.MustParseAddrPort(s)
	return model.Member{IP: p.Addr(), Port: p.Port()}
}

// text tells of a pool what matters.
func (w *world) text(pattern string) string {
	row, err := w.Pool(pattern)
	if err != nil {
		return err.Error()
	}
	var members []string
	for _, m := range row.Members {
		members = append(members, m.Name()+m.BasePath)
	}
	return row.Pattern + " " + strings.Join(members, " ")
}

func (w *world) wants(err error, kind model.Kind, says string) {
	w.Helper()
	var p model.Problem
	if !errors.As(err, &p) || p.Kind != kind || !strings.HasPrefix(p.Reason, says) {
		w.Errorf("%v, want %s with %q", err, kind, says)
	}
}

// TestCalls is the life of a pool, with the original's texts where clients may look for them.
func TestCalls(t *testing.T) {
	w := newWorld(t, memory(), nil)
	ctx := model.WithAsker(t.Context(), "pools API from 10.0.0.9")
	add := func(pattern string) error { return w.AddPool(ctx, model.Pool{Pattern: pattern, Check: healthz}) }
	w.wants(add(""), model.Invalid, "pattern must not be empty")
	w.wants(add("GET /"), model.Invalid, "pattern")
	w.wants(w.AddPool(ctx, model.Pool{Pattern: "/"}), model.Invalid, "a health_check is refused")
	w.wants(w.AddMember(ctx, "/", at("10.0.0.1:80")), model.NotFound, "pool(/) not found")
	w.wants(w.RemoveMember(ctx, "/", at("10.0.0.1:80")), model.NotFound, "pool(/) not found")
	if err := errors.Join(w.RemovePool(ctx, "/"), add("/"), add("H.Example/sub/")); err != nil {
		t.Fatal(err)
	}
	w.wants(add("/"), model.Conflict, "pattern(/) is already registered")
	w.wants(add("h.example./sub/"), model.Conflict, "pattern(h.example./sub/) is already registered")
	w.refuse = errors.New("container web has it")
	w.wants(add("/web"), model.Conflict, "pattern(/web) is already registered: container web has it")
	w.refuse = nil

	second := at("10.0.0.1:9")
	second.BasePath = "/base"
	for _, m := range []model.Member{at("10.0.0.2:80"), at("10.0.0.1:80"), at("[2001:db8::1]:80")} {
		if err := w.AddMember(ctx, "/", m); err != nil {
			t.Fatal(err)
		}
	}
	w.wants(w.AddMember(ctx, "/", at("10.0.0.1:80")), model.Conflict, "backend already exists")
	w.wants(w.AddMember(ctx, "/", second), model.Refused, `the pool's other backends have the url_path "/"`)
	w.wants(w.AddMember(ctx, "/", at("169.254.169.254:80")), model.Refused, "backend ip is invalid")
	w.wants(w.AddMember(ctx, "/", at("127.0.0.1:8080")), model.Refused, "backend ip is invalid")
	w.sick[netip.MustParseAddrPort("10.0.0.3:80")] = "status 500"
	w.wants(w.AddMember(ctx, "/", at("10.0.0.3:80")), model.Refused, "backend is sick: status 500")
	if err := w.AddMember(ctx, "h.example/sub/", second); err != nil {
		t.Fatal(err)
	}
	for pattern, want := range map[string]string{
		"/": "/ 10.0.0.1:80 10.0.0.2:80 2001:db8::1:80", "h.example/sub/": "h.example/sub/ 10.0.0.1:9/base", "/web": "pool(/web) not found; add it first",
	} {
		if got := w.text(pattern); got != want {
			t.Errorf("%s: %s, want %s", pattern, got, want)
		}
	}
	if len(w.waited) != 6 { // two pools, four members
		t.Errorf("waited for %q", w.waited)
	}
	snapshot, version := w.snapshot()
	if len(snapshot.Offers) != 2 || snapshot.Offers[0].By != "pools API from 10.0.0.9" {
		t.Fatalf("%+v", snapshot)
	}
	if _, again := w.snapshot(); again != version {
		t.Error("nothing has changed")
	}
	listener := model.Offer{Owner: model.Owner{Source: "flags", Name: "x"}, Rows: model.Rows{Listeners: []model.Listener{{Bind: model.Bind{Port: 8080}, Routed: true}}}}
	if state, problems := model.Merge(append(snapshot.Offers, listener)); len(problems) > 0 || len(state.Routes) != 2 || len(state.Servers) != 4 {
		t.Errorf("%v, %+v", problems, state.Rows)
	}

	if err := errors.Join(w.RemoveMember(ctx, "/", at("10.0.0.7:80")), w.RemoveMember(ctx, "/", at("10.0.0.1:80")), w.RemovePool(ctx, "h.example/sub/")); err != nil {
		t.Fatal(err)
	}
	if got := w.text("/"); got != "/ 10.0.0.2:80 2001:db8::1:80" {
		t.Error(got)
	}
	snapshot, _ = w.snapshot()
	if len(snapshot.Offers) != 1 || len(snapshot.Asked) != 2 || len(w.asked) != 0 { // both are asked for, and not to be doubted
		t.Errorf("%+v, %v", snapshot.Asked, w.asked)
	}
	// The last member takes its base path along.
	if err := errors.Join(w.RemoveMember(ctx, "/", at("10.0.0.2:80")), w.RemoveMember(ctx, "/", at("[2001:db8::1]:80")), w.AddMember(ctx, "/", second)); err != nil {
		t.Fatal(err)
	}
	if got := w.text("/"); got != "/ 10.0.0.1:9/base" {
		t.Error(got)
	}
}

// TestLimits: there is an end to pools and to backends.
func TestLimits(t *testing.T) {
	w := newWorld(t, memory(), nil)
	w.limit, w.members = 20, 30
	for i := range w.limit {
		if err := w.AddPool(t.Context(), model.Pool{Pattern: fmt.Sprintf("/%d", i), Check: healthz}); err != nil {
			t.Fatal(err)
		}
	}
	w.wants(w.AddPool(t.Context(), model.Pool{Pattern: "/more", Check: healthz}), model.Refused, "there are 20 pools")
	w.wants(w.AddPool(t.Context(), model.Pool{Pattern: "/7", Check: healthz}), model.Conflict, "pattern(/7) is already registered")
	for i := range w.members {
		if err := w.AddMember(t.Context(), "/7", at(fmt.Sprintf("10.1.0.%d:80", i+1))); err != nil {
			t.Fatal(err)
		}
	}
	w.wants(w.AddMember(t.Context(), "/7", at("10.2.0.1:80")), model.Refused, "the pool has 30 backends")
	if row, err := w.Pool("/7"); err != nil || len(row.Members) != w.members {
		t.Errorf("%d members, %v", len(row.Members), err)
	}
}

// TestEarlier: what an earlier process put comes back from its Snapshot, through JSON.
func TestEarlier(t *testing.T) {
	w := newWorld(t, memory(), nil)
	with := at("10.0.0.1:80")
	with.BasePath = "/x"
	if err := errors.Join(w.AddPool(t.Context(), model.Pool{Pattern: "h/a/", Check: healthz}), w.AddMember(t.Context(), "h/a/", with), w.AddPool(t.Context(), model.Pool{Pattern: "/{$}", Check: healthz})); err != nil {
		t.Fatal(err)
	}
	put, _ := w.snapshot()
	data, err := json.Marshal(put)
	if err != nil {
		t.Fatal(err)
	}
	var kept model.Snapshot
	if err := json.Unmarshal(data, &kept); err != nil {
		t.Fatal(err)
	}
	kept.Offers = append(kept.Offers, model.Offer{Owner: model.Owner{Source: "pools", Name: "broken"}})
	next := newWorld(t, memory(), &kept)
	again, _ := next.snapshot()
	if !slices.EqualFunc(again.Offers, put.Offers, func(a, b model.Offer) bool { return fmt.Sprintf("%+v", a) == fmt.Sprintf("%+v", b) }) {
		t.Errorf("%+v\nwant %+v", again.Offers, put.Offers)
	}
}

// heard is a Sink that keeps what it was told last.
type heard struct {
	mu   sync.Mutex
	last model.Snapshot
	away string
}

func (h *heard) Put(s model.Snapshot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last, h.away = s, s.Away
}

func (h *heard) Down(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.away = ""
	if err != nil {
		h.away = err.Error()
	}
}

// TestStore: pools of others serve here; the store away refuses changes and leaves what is known; odd records are told and left alone.
func TestStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := storetest.NewMemory()
		good, err := encode(record{Check: healthz, Members: []member{{netip.MustParseAddr("10.0.0.1"), 80}}, Since: begin})
		if err != nil {
			t.Fatal(err)
		}
		db.Put("pools//", good)
		db.Put("pools/no pattern", good)
		db.Put("pools//odd", []byte(`{"check":{"kind":"http"},"members":[{"ip":"10.0.0.1","port":80},{"ip":"10.0.0.1","port":80}]}`))
		db.Put("nodes/10.0.0.1:80", []byte(`{}`))
		m := store.New(store.Options{Name: "memory", Open: db.Open, Log: quiet})
		w, h := newWorld(t, m, nil), &heard{}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = m.Run(ctx) })
		running.Go(func() { _ = w.Source.Run(ctx, h) })
		settle := func() {
			time.Sleep(10 * time.Second)
			synctest.Wait()
		}
		settle()
		if len(h.last.Offers) != 1 || len(h.last.Problems) != 2 || h.away != "" {
			t.Errorf("%+v, away %q", h.last, h.away)
		}
		w.wants(w.AddMember(ctx, "/odd", at("10.0.0.2:80")), model.Invalid, "what the store has of it cannot be read")
		db.Refuse(errors.New("connection refused"))
		settle()
		w.wants(w.AddMember(ctx, "/", at("10.0.0.2:80")), model.Unavailable, "nothing was changed")
		if len(h.last.Offers) != 1 || !strings.Contains(h.away, "connection refused") {
			t.Errorf("%+v, away %q", h.last, h.away)
		}
		db.Refuse(nil)
		settle()
		if err := w.AddMember(ctx, "/", at("10.0.0.2:80")); err != nil {
			t.Error(err)
		}
		settle()
		if got := w.text("/"); got != "/ 10.0.0.1:80 10.0.0.2:80" || h.away != "" || len(h.last.Offers[0].Servers) != 2 {
			t.Errorf("%s, %+v, away %q", got, h.last, h.away)
		}
		db.Put("pools//", nil) // another balancer removes it
		settle()
		if len(h.last.Offers) != 0 || len(h.last.Asked) != 1 {
			t.Errorf("%+v", h.last)
		}
		cancel()
		running.Wait()
	})
}

// FuzzDecode: whatever a record is, it is refused, or what it offers is merged without a problem.
func FuzzDecode(f *testing.F) {
	good, err := encode(record{Check: healthz, BasePath: "/b", Members: []member{{netip.MustParseAddr("10.0.0.1"), 80}}, Since: begin})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("/", good)
	f.Add("h/a/{$}", []byte(`{"check":{"kind":"http","interval":1000000000,"timeout":1000000000,"rise":1,"fall":1,"asks":[{"path":"/"}]},"members":null}`))
	f.Add("x", []byte(`{}`))
	f.Fuzz(func(t *testing.T, pattern string, value []byte) {
		w := newWorld(t, memory(), nil)
		p := w.read(store.Record{Key: "pools/" + pattern, Value: value})
		if p.problem != nil {
			if strings.ContainsAny(p.problem.Error(), "\r\n\x00") {
				t.Errorf("%q", p.problem.Error())
			}
			return
		}
		listener := model.Offer{Owner: model.Owner{Source: "flags", Name: "x"}, Rows: model.Rows{Listeners: []model.Listener{{Bind: model.Bind{Port: 8080}, Routed: true}}}}
		if _, problems := model.Merge([]model.Offer{listener, p.offer}); len(problems) > 0 {
			t.Errorf("%q %s: %v", pattern, value, problems)
		}
	})
}
