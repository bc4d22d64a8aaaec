package storetest

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/store"
)

// Start runs a Mirror until the test ends, or the function that it gives is called.
func Start(t testing.TB, m *store.Mirror) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { m.Run(ctx) }) //nolint:errcheck // it is ctx's
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	return stop
}

// Until waits for what the View tells of.
func Until(t testing.TB, v *store.View, what string, is func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for !is() {
		select {
		case <-v.Changed():
		case <-deadline.C:
			t.Fatalf("%s: not within %v; the records are %.500q", what, limit, v.Records())
		}
	}
}

// mirror makes one of kind n that has read the database.
func mirror(t *testing.T, f Fixture) (*store.Mirror, *store.View) {
	t.Helper()
	m := store.New(store.Options{Open: f.Open, Name: "test", Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))})
	v := m.Follow("n")
	Start(t, m)
	Until(t, v, "the first reading", func() bool { loaded, away := m.Standing(); return loaded && away == nil })
	return m, v
}

// Update changes a record, and tries again for as long as the database is away.
func Update(t testing.TB, m *store.Mirror, key, value string) {
	t.Helper()
	if err := Persist(t.Context(), m, Put(key, value)); err != nil {
		t.Fatalf("update %s: %v", key, err)
	}
}

// Persist makes an edit, and tries again for as long as the database is away.
func Persist(ctx context.Context, m *store.Mirror, e store.Edit) error {
	for deadline := time.Now().Add(limit); ; {
		err := m.Update(ctx, e.Key, e.Change)
		if _, away := err.(*store.Away); !away || time.Now().After(deadline) { //nolint:errorlint // as it is
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func has(v *store.View, key, value string) bool {
	got, _ := store.Find(v.Records(), key)
	return string(got) == value
}

// twoMirrors: what one writes is there at once, and at the other soon.
func twoMirrors(t *testing.T, f Fixture) {
	m1, v1 := mirror(t, f)
	m2, v2 := mirror(t, f)
	Update(t, m1, "n/1", "1")
	if !has(v1, "n/1", "1") {
		t.Error("the change is answered and not visible")
	}
	Until(t, v2, "the change", func() bool { return has(v2, "n/1", "1") })
	Update(t, m2, "n/1", "")
	Until(t, v1, "the deletion", func() bool { return has(v1, "n/1", "") })
	var all sync.WaitGroup
	for i, m := range []*store.Mirror{m1, m2} {
		for j := range 50 {
			all.Go(func() { Update(t, m, "n/"+string(rune('a'+i))+string(rune('0'+j)), "1") })
		}
	}
	all.Wait()
	for _, v := range []*store.View{v1, v2} {
		Until(t, v, "all changes", func() bool { return len(v.Records()) == 100 })
	}
}

// emptied: the tables are dropped while two balancers run. What they know comes back, and what one of them deletes then stays deleted.
func emptied(t *testing.T, f Fixture) {
	m1, v1 := mirror(t, f)
	_, v2 := mirror(t, f)
	Update(t, m1, "n/1", "1")
	Update(t, m1, "n/2", "2")
	Until(t, v2, "the changes", func() bool { return len(v2.Records()) == 2 })
	if err := f.SQL("DROP TABLE fnlb_records; DROP TABLE fnlb_meta"); err != nil {
		t.Fatal(err)
	}
	Update(t, m1, "n/3", "3")
	for _, v := range []*store.View{v1, v2} {
		Until(t, v, "the records", func() bool { return len(v.Records()) == 3 })
	}
	says(t, open(t, f), "n/1=1 n/2=2 n/3=3")
}
