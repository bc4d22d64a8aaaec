package nodes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/store/storetest"
)

// heard is a Sink that keeps what it was told last.
type heard struct {
	mu    sync.Mutex
	last  model.Snapshot
	puts  int
	away  string
	downs int
}

func (h *heard) Put(s model.Snapshot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last, h.away = s, s.Away
	h.puts++
}

func (h *heard) Down(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.away = ""
	if err != nil {
		h.away = err.Error()
		h.downs++
	}
}

// names are the nodes of the last Snapshot, with what is not usual about them.
func (h *heard) names() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for i := range h.last.Offers {
		s := &h.last.Offers[i].Servers[0]
		name := s.Name
		if s.Weight.Int() != 1 || s.Admin != model.Ready {
			name += fmt.Sprintf("(%s %s)", s.Weight, s.Admin)
		}
		out = append(out, name)
	}
	return strings.Join(out, " ")
}

// world is a source on a database.
type world struct {
	*testing.T
	db *storetest.Memory
	s  *Source
	h  *heard
}

// follow runs a source in a bubble of synctest.
func follow(t *testing.T, o Options, before func(*storetest.Memory), do func(*world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, db: storetest.NewMemory(), h: &heard{}}
		if before != nil {
			before(w.db)
		}
		o.Store = store.New(store.Options{Name: "memory", Open: w.db.Open, Log: quiet})
		o.Service, o.Log, o.Now = "nodes", quiet, time.Now
		w.s = New(o)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = o.Store.Run(ctx) })
		running.Go(func() { _ = w.s.Run(ctx, w.h) })
		do(w)
		cancel()
		running.Wait()
	})
}

// want waits for the nodes; time is that of the bubble.
func (w *world) want(names string) {
	w.Helper()
	time.Sleep(10 * time.Second)
	synctest.Wait()
	if got := w.h.names(); got != names {
		w.Errorf("nodes %q, want %q", got, names)
	}
}

func (w *world) wantAway(says string) {
	w.Helper()
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	if (w.h.away == "") != (says == "") || !strings.Contains(w.h.away, says) {
		w.Errorf("away %q, want %q", w.h.away, says)
	}
}

func (w *world) stored() (keys []string) {
	for _, r := range w.db.Records() {
		keys = append(keys, r.Key)
	}
	return keys
}

// TestShared: what others write serves here, what is written here is theirs, and a removal of theirs is not to be doubted.
func TestShared(t *testing.T) {
	follow(t, Options{Initial: []model.Node{parsed(t, "flag:80")}}, func(db *storetest.Memory) {
		db.Put("nodes/old:80", []byte("{}")) // of the original
	}, func(w *world) {
		w.want("flag:80 old:80")
		w.db.Put("nodes/b:80", []byte(`{"weight":7,"state":"drain","more":"of a newer one"}`))
		w.want("b:80(7 drain) flag:80 old:80")
		if err := w.s.Set(w.Context(), "a:80", model.NodeWish{}); err != nil {
			w.Error(err)
		}
		if got := w.stored(); !slices.Equal(got, []string{"nodes/a:80", "nodes/b:80", "nodes/flag:80", "nodes/old:80"}) {
			w.Errorf("stored %q", got)
		}
		w.db.Put("nodes/b:80", nil)
		w.want("a:80 flag:80 old:80")
		if asked := w.h.last.Asked; len(asked) != 1 || asked[0].Owner.Name != "b:80" {
			w.Errorf("asked for %v", asked)
		}
		if err := w.s.Delete(model.WithAsker(w.Context(), "API from 10.0.0.1"), "flag:80"); err != nil {
			w.Error(err)
		}
		w.want("a:80 old:80")
		if asked := w.h.last.Asked; len(asked) != 2 || asked[1] != (model.Asked{Owner: model.Owner{Source: "nodes", Name: "flag:80"}, By: "API from 10.0.0.1"}) {
			w.Errorf("asked for %v", asked)
		}
		if len(w.s.asked) != 0 || len(w.s.waiting) != 0 {
			w.Errorf("left over: %v, %v", w.s.asked, w.s.waiting)
		}
	})
}

// TestAway: without the database the flag's nodes serve, calls are refused, and what is known stays; when it is back all goes on.
func TestAway(t *testing.T) {
	gone := errors.New("connection refused")
	follow(t, Options{Initial: []model.Node{parsed(t, "flag:80"), parsed(t, "deleted:80")}}, func(db *storetest.Memory) {
		db.Put("nodes/old:80", []byte("{}"))
		db.Refuse(gone)
	}, func(w *world) {
		w.want("deleted:80 flag:80")
		w.wantAway("connection refused")
		for _, call := range []func() error{
			func() error { return w.s.Set(w.Context(), "a:80", model.NodeWish{}) },
			func() error { return w.s.Delete(w.Context(), "deleted:80") },
		} {
			var p model.Problem
			if err := call(); !errors.As(err, &p) || p.Kind != model.Unavailable || !strings.Contains(p.Error(), "connection refused") {
				w.Errorf("a call answers %v", err)
			}
		}
		w.want("deleted:80 flag:80") // nothing was changed
		w.db.Refuse(nil)
		w.want("deleted:80 flag:80 old:80")
		w.wantAway("")
		w.db.Refuse(gone)
		w.want("deleted:80 flag:80 old:80")
		w.wantAway("connection refused")
		w.db.Put("nodes/flag:80", nil) // another balancer deletes it meanwhile
		w.db.Refuse(nil)
		w.want("deleted:80 old:80")
		if got := w.stored(); !slices.Equal(got, []string{"nodes/deleted:80", "nodes/old:80"}) {
			w.Errorf("stored %q", got)
		}
	})
}

// TestIncomplete: while a HAProxy serves that may have more, nothing is said before the database is there.
func TestIncomplete(t *testing.T) {
	follow(t, Options{Initial: []model.Node{parsed(t, "flag:80")}, Incomplete: true}, func(db *storetest.Memory) {
		db.Put("nodes/old:80", []byte("{}"))
		db.Refuse(errors.New("connection refused"))
	}, func(w *world) {
		w.want("")
		w.wantAway("connection refused")
		if w.h.puts != 0 || w.h.downs == 0 {
			w.Errorf("%d Puts, %d Downs", w.h.puts, w.h.downs)
		}
		w.db.Refuse(nil)
		w.want("flag:80 old:80")
		w.wantAway("")
	})
}

// TestRecords: what cannot be offered is told and stays as it is; a record of the original under another spelling gets the canonical key.
func TestRecords(t *testing.T) {
	policy := model.Policy{Own: []model.Bind{{Port: 8081}}}
	follow(t, Options{Policy: policy}, func(db *storetest.Memory) {
		db.Put("nodes/no node", []byte("{}"))
		db.Put("nodes/bad:80", []byte(`{"weight":"x"}`))
		db.Put("nodes/127.0.0.1:8081", []byte("{}"))
		db.Put("nodes/Upper.:80", []byte(`{"weight":3}`))
		db.Put("nodes/good:80", []byte(`{}`))
	}, func(w *world) {
		w.want("good:80 upper:80(3 ready)")
		var problems []string
		for _, p := range w.h.last.Problems {
			problems = append(problems, p.Owner.Name+" "+p.Kind.String())
		}
		if want := []string{"127.0.0.1:8081 refused", "bad:80 invalid", "no node invalid"}; !slices.Equal(problems, want) {
			w.Errorf("problems %q, want %q", problems, want)
		}
		want := []string{"nodes/127.0.0.1:8081", "nodes/bad:80", "nodes/good:80", "nodes/no node", "nodes/upper:80"}
		if got := w.stored(); !slices.Equal(got, want) {
			w.Errorf("stored %q, want %q", got, want)
		}
		if err := w.s.Set(w.Context(), "bad:80", model.NodeWish{}); err != nil {
			w.Error(err)
		}
		w.want("bad:80 good:80 upper:80(3 ready)")
	})
}

// TestDeleteAtOnce: a node of the flag that is deleted while it is on its way to the database does not come back.
func TestDeleteAtOnce(t *testing.T) {
	follow(t, Options{Initial: []model.Node{parsed(t, "flag:80"), parsed(t, "other:80")}}, func(db *storetest.Memory) {
		db.Hang(false)
	}, func(w *world) {
		deleted := make(chan error, 1)
		go func() { deleted <- w.s.Delete(w.Context(), "flag:80") }()
		synctest.Wait()
		w.db.Answer()
		if err := <-deleted; err != nil {
			w.Error(err)
		}
		w.want("other:80")
		if got := w.stored(); !slices.Equal(got, []string{"nodes/other:80"}) {
			w.Errorf("stored %q", got)
		}
	})
}

// TestReadWhileWritten: who reads the list while the initial nodes are written waits for nobody, who waits for him.
func TestReadWhileWritten(t *testing.T) {
	var initial []model.Node
	for i := range 30 {
		initial = append(initial, parsed(t, fmt.Sprintf("n%d:80", i)))
	}
	for range 200 {
		s := source(initial...)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = s.Run(ctx, &heard{}) })
		for range 20 {
			running.Go(func() {
				if got := len(s.List()); got != 30 {
					t.Errorf("%d nodes", got)
				}
			})
		}
		running.Go(func() {
			if err := s.Set(ctx, "n7:80", model.NodeWish{}); err != nil {
				t.Error(err)
			}
			cancel()
		})
		running.Wait()
	}
}

// TestMove: what is exported is what is imported.
func TestMove(t *testing.T) {
	records := []store.Record{
		{Key: "nodes/*h:80", Value: []byte(`{"weight":0,"state":"maint","since":"2026-01-02T03:04:05Z"}`)},
		{Key: "nodes/[::1]:80", Value: []byte(`{}`)},
		{Key: "pools//", Value: []byte(`{}`)},
	}
	lines, unreadable := Export(records)
	if len(unreadable) > 0 || len(lines) != 2 {
		t.Fatal(lines, unreadable)
	}
	text := `{"node":"*h:80","weight":0,"state":"maint","since":"2026-01-02T03:04:05Z"}` + "\n\n" + `{"node":"[::1]:80","weight":1,"state":"ready"}` + "\n"
	read, err := Import(strings.NewReader(text))
	if err != nil || !slices.Equal(read, lines) {
		t.Errorf("read %v: %v, want %v", read, err, lines)
	}
	for i, l := range read {
		e := l.Edit()
		now, err := e.Change([]byte(`{"weight":9}`))
		again, bad := Export([]store.Record{{Key: e.Key, Value: now}})
		if err != nil || len(bad) > 0 || !slices.Equal(again, lines[i:i+1]) {
			t.Errorf("%v becomes %s (%v, %v)", l, now, err, bad)
		}
	}
	if _, bad := Export([]store.Record{{Key: "nodes/x", Value: []byte(`{}`)}, {Key: "nodes/h:80", Value: []byte(`[`)}}); len(bad) != 2 {
		t.Errorf("unreadable: %v", bad)
	}
	for text, says := range map[string]string{
		"{}":                           "line 1: node",
		`{"node":"h:80"}` + "\nx":      "line 2: it is no JSON object",
		`{"node":"h:80","weight":257}`: "line 1",
		`{"node":"h:80","state":"up"}`: "line 1",
		`{"node":"` + strings.Repeat("a", 5000) + `"}`: "at most 4096",
	} {
		if _, err := Import(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.40s: %v, want %q", text, err, says)
		}
	}
}
