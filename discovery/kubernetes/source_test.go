package kubernetes

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/model"
)

// patience bounds waits; it is for a machine that is busy.
const patience = 60 * time.Second

// fakeAPI answers lists and watches as a test wants: what a real API server does stands in test/kubernetes.
type fakeAPI struct {
	*httptest.Server

	list, watch http.HandlerFunc

	mu           sync.Mutex
	lists, opens int
	tokens       map[string]bool
	pages        []string // "limit continue" of each list
}

func newFake(t *testing.T) *fakeAPI {
	t.Helper()
	f := &fakeAPI{tokens: map[string]bool{}}
	f.list = f.pods()
	f.watch = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	f.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		f.mu.Lock()
		f.tokens[r.Header.Get("Authorization")] = true
		do := f.list
		if q.Get("watch") == "true" || q.Get("watch") == "1" {
			f.opens++
			do = f.watch
		} else {
			f.lists++
			f.pages = append(f.pages, q.Get("limit")+" "+q.Get("continue"))
		}
		f.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		do(w, r)
	}))
	t.Cleanup(f.Server.Close)
	return f
}

func (f *fakeAPI) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeAPI) counts() (lists, opens int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lists, f.opens
}

// pods is the answer of a list.
func (f *fakeAPI) pods(pods ...*corev1.Pod) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		l := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, ListMeta: metav1.ListMeta{ResourceVersion: "7"}}
		for _, p := range pods {
			l.Items = append(l.Items, *p)
		}
		_ = json.NewEncoder(w).Encode(l)
	}
}

// refuse is the answer of an API server that does not.
func refuse(code int, reason metav1.StatusReason, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(metav1.Status{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: int32(code), Reason: reason, Message: message,
		})
	}
}

// event writes one event of a watch.
func event(w http.ResponseWriter, kind string, object any) {
	if p, ok := object.(*corev1.Pod); ok {
		p.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": object})
	_ = http.NewResponseController(w).Flush()
}

// heard is what a Sink heard.
type heard struct {
	mu    sync.Mutex
	puts  []model.Snapshot
	down  string
	fresh chan struct{}
}

func (h *heard) note(do func()) {
	h.mu.Lock()
	do()
	h.mu.Unlock()
	select {
	case h.fresh <- struct{}{}:
	default:
	}
}

func (h *heard) Put(s model.Snapshot) {
	h.note(func() { h.puts, h.down = append(h.puts, s), s.Away })
}

func (h *heard) Down(err error) {
	h.note(func() {
		if h.down = ""; err != nil {
			h.down = err.Error()
		}
	})
}

// wait waits until what was heard is so, and gives it.
func (h *heard) wait(t *testing.T, what string, is func(newest model.Snapshot, down string) bool) model.Snapshot {
	t.Helper()
	end := time.After(patience)
	for {
		h.mu.Lock()
		var newest model.Snapshot
		if len(h.puts) > 0 {
			newest = h.puts[len(h.puts)-1]
		}
		down := h.down
		h.mu.Unlock()
		if is(newest, down) {
			return newest
		}
		select {
		case <-h.fresh:
		case <-end:
			t.Fatalf("%s does not come; offered are %q, down %q", what, offered(newest), down)
		}
	}
}

func offered(s model.Snapshot) string {
	var out []string
	for _, o := range s.Offers {
		out = append(out, strings.TrimPrefix(o.Owner.Name, "fn/"))
	}
	return strings.Join(out, " ")
}

// follow runs a Source on the fake until the test ends.
func (f *fakeAPI) follow(t *testing.T, change func(*Options)) (*Source, *heard) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	config := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"c","cluster":{"server":%q,"certificate-authority-data":%q}}],
"users":[{"name":"c","user":{"tokenFile":%q}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"c","namespace":"fn"}}]}`, f.URL, base64.StdEncoding.EncodeToString(authority), filepath.Join(filepath.Dir(file), "token"))
	if err := errors.Join(os.WriteFile(file, []byte(config), 0o600), os.WriteFile(filepath.Join(filepath.Dir(file), "token"), []byte("secret"), 0o600)); err != nil {
		t.Fatal(err)
	}
	o := Options{Kubeconfig: file, Port: Port{Number: 8080}, Pool: "nodes", Now: time.Now, Log: slog.New(slog.NewTextHandler(new(bytes.Buffer), nil))}
	if change != nil {
		change(&o)
	}
	s, h := New(o), &heard{fresh: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return s, h
}

var _ discovery.Sink = (*heard)(nil)

// TestEvents: what an event says is asked for; an entry that is the same is no Snapshot; nodes are listed by address.
func TestEvents(t *testing.T) {
	f := newFake(t)
	f.list = f.pods(aPod("a", "10.0.0.1"), aPod("b", "10.0.0.2"), aPod("w", "10.0.0.3", unready))
	events := make(chan func(http.ResponseWriter))
	f.watch = func(w http.ResponseWriter, r *http.Request) {
		for {
			select {
			case do := <-events:
				do(w)
			case <-r.Context().Done():
				return
			}
		}
	}
	send := func(kind string, object any) {
		t.Helper()
		select {
		case events <- func(w http.ResponseWriter) { event(w, kind, object) }:
		case <-time.After(patience):
			t.Fatal("nobody watches")
		}
	}
	s, h := f.follow(t, func(o *Options) { o.Selector = "app=fn" })
	is := func(want string) func(model.Snapshot, string) bool {
		return func(s model.Snapshot, down string) bool { return offered(s) == want && down == "" }
	}
	first := h.wait(t, "the list", is("a b"))
	if len(first.Found) != 1 || first.Found[0].Verdict != model.Waiting || len(first.Asked) > 0 {
		t.Errorf("%+v", first)
	}
	send("MODIFIED", aPod("a", "10.0.0.1", func(p *corev1.Pod) { p.ResourceVersion = "8"; p.Labels = map[string]string{"new": "label"} }))
	send("MODIFIED", aPod("b", "10.0.0.2", ending))
	gone := h.wait(t, "the end of b", is("a"))
	if len(gone.Asked) != 1 || gone.Asked[0].Owner.Name != "fn/b" || !strings.Contains(gone.Asked[0].By, "being deleted") {
		t.Errorf("asked: %+v", gone.Asked)
	}
	send("DELETED", aPod("a", "10.0.0.1"))
	send("BOOKMARK", aPod("", "", func(p *corev1.Pod) { p.ResourceVersion = "9" }))
	none := h.wait(t, "no pod", is(""))
	if !slices.ContainsFunc(none.Asked, func(a model.Asked) bool { return a.Owner.Name == "fn/a" && strings.Contains(a.By, "deleted") }) {
		t.Errorf("asked: %+v", none.Asked)
	}
	send("MODIFIED", aPod("w", "10.0.0.3"))
	if back := h.wait(t, "w", is("w")); len(back.Found) != 0 || back.Offers[0].Servers[0].Instance != "uid-w" {
		t.Errorf("%+v", back)
	}
	if rows := s.List(); len(rows) != 1 || rows[0].Node != "10.0.0.3:8080" || rows[0].Server != "10.0.0.3:8080" {
		t.Errorf("%+v", rows)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.puts) > 5 {
		t.Errorf("%d Snapshots", len(h.puts))
	}
}

// TestPages: a list comes in pages, and what it does not have any more was not asked for.
func TestPages(t *testing.T) {
	f := newFake(t)
	page := func(w http.ResponseWriter, r *http.Request) {
		l := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, ListMeta: metav1.ListMeta{ResourceVersion: "7", Continue: "more"}}
		l.Items = []corev1.Pod{*aPod("a", "10.0.0.1")}
		if r.URL.Query().Get("continue") == "more" {
			l.Continue, l.Items = "", []corev1.Pod{*aPod("b", "10.0.0.2")}
		}
		_ = json.NewEncoder(w).Encode(l)
	}
	expire := make(chan struct{})
	f.list = page
	f.watch = func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-expire:
			event(w, "ERROR", metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Code: 410, Reason: metav1.StatusReasonExpired})
		case <-r.Context().Done():
		}
	}
	_, h := f.follow(t, nil)
	h.wait(t, "both pages", func(s model.Snapshot, _ string) bool { return offered(s) == "a b" })
	f.set(func() { f.list = f.pods(aPod("b", "10.0.0.2")) })
	close(expire)
	less := h.wait(t, "the list after a revision that is gone", func(s model.Snapshot, down string) bool { return offered(s) == "b" && down == "" })
	if len(less.Asked) > 0 {
		t.Errorf("asked: %+v", less.Asked)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pages[0] != "500 " || f.pages[1] != "500 more" {
		t.Errorf("pages: %q", f.pages)
	}
}

// TestAway: why nothing is known is said; what an earlier process had is put, and stays until a list comes; tokens are read again.
func TestAway(t *testing.T) {
	f := newFake(t)
	f.list = refuse(401, metav1.StatusReasonUnauthorized, "Unauthorized")
	earlier := model.Snapshot{Source: name, Offers: []model.Offer{{Owner: model.Owner{Source: name, Name: "fn/old"}, Rows: model.Rows{Servers: []model.Server{{Name: "10.0.0.9:8080"}}}}}}
	var dir string
	s, h := f.follow(t, func(o *Options) { o.Earlier = &earlier; dir = filepath.Dir(o.Kubeconfig) })
	h.wait(t, "the refusal", func(s model.Snapshot, down string) bool {
		return offered(s) == "old" && strings.Contains(down, "(401)")
	})
	if rows := s.List(); len(rows) != 1 {
		t.Errorf("%+v", rows)
	}
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.set(func() {
		f.list = func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer another" {
				refuse(401, metav1.StatusReasonUnauthorized, "Unauthorized")(w, r)
				return
			}
			refuse(403, metav1.StatusReasonForbidden, `pods is forbidden: User "x" cannot list resource "pods"`)(w, r)
		}
	})
	h.wait(t, "the missing right", func(s model.Snapshot, down string) bool {
		return offered(s) == "old" && strings.Contains(down, `the right to list pods is missing (403)`) && strings.Contains(down, "needs list and watch") && strings.Contains(down, `User "x"`)
	})
	f.set(func() {
		f.list, f.watch = f.pods(aPod("a", "10.0.0.1")), refuse(503, metav1.StatusReasonServiceUnavailable, "come back later")
	})
	h.wait(t, "the list", func(s model.Snapshot, down string) bool {
		return offered(s) == "a" && strings.Contains(down, "watch pods")
	})
	// A watch that says nothing is one only once its answer has begun.
	f.set(func() {
		f.watch = func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	})
	h.wait(t, "the watch", func(s model.Snapshot, down string) bool { return offered(s) == "a" && down == "" })
}

// TestEndsAtOnce: whatever ends as soon as it has begun is asked a few times a second at most.
func TestEndsAtOnce(t *testing.T) {
	for what, watch := range map[string]http.HandlerFunc{
		"nothing": func(http.ResponseWriter, *http.Request) {},
		"a bookmark": func(w http.ResponseWriter, _ *http.Request) {
			event(w, "BOOKMARK", aPod("", "", func(p *corev1.Pod) { p.ResourceVersion = "8" }))
		},
		"an error": refuse(500, metav1.StatusReasonInternalError, "broken"),
		"a cut":    func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"nonsense": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("}{\x00")) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.list, f.watch = f.pods(aPod("a", "10.0.0.1")), watch
			_, h := f.follow(t, nil)
			h.wait(t, "the list", func(s model.Snapshot, _ string) bool { return offered(s) == "a" })
			begin := time.Now()
			time.Sleep(3 * time.Second) // it is the count in a time that is looked at
			lists, opens := f.counts()
			most := 20 + requests*int(time.Since(begin)/time.Second)
			if lists+opens > most {
				t.Errorf("%d lists and %d watches in %s", lists, opens, time.Since(begin))
			}
		})
	}
}
