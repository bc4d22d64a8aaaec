package store_test

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/store/storetest"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestCopy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "copy.json")
	values := []string{`{"a": 1, "b":"<&>\u0000"}`, ` [ ]`, `"ä😀"`}
	synctest.Test(t, func(t *testing.T) {
		db := storetest.NewMemory()
		m := store.New(store.Options{Open: db.Open, Name: "this", Copy: file, Log: quiet()})
		if err := m.Restore(); err != nil {
			t.Errorf("without a copy: %v", err)
		}
		stop := storetest.Start(t, m)
		for i, value := range values {
			storetest.Update(t, m, fmt.Sprintf("n/%d", i), value)
		}
		time.Sleep(3 * time.Second)
		is, err := os.Stat(file)
		if err != nil || is.Mode().Perm() != 0o600 {
			t.Fatalf("the copy is %v, %v", is, err)
		}
		time.Sleep(time.Minute)
		if again, err := os.Stat(file); err != nil || !os.SameFile(is, again) {
			t.Errorf("it was written again though nothing has changed (%v)", err)
		}
		storetest.Update(t, m, "n/last", "1")
		stop()
	})
	m := store.New(store.Options{Open: storetest.NewMemory().Open, Name: "this", Copy: file, Log: quiet()})
	v := m.Follow("n")
	if err := m.Restore(); err != nil {
		t.Fatal(err)
	}
	if n := len(v.Records()); n != 4 {
		t.Errorf("%d records came back, not 4", n)
	}
	for i, value := range values {
		if got, _ := store.Find(v.Records(), fmt.Sprintf("n/%d", i)); string(got) != value {
			t.Errorf("%q came back, not %q", got, value)
		}
	}
	if loaded, away := m.Standing(); loaded || away != nil {
		t.Errorf("standing is %v, %v", loaded, away)
	}
	m = store.New(store.Options{Open: storetest.NewMemory().Open, Name: "other", Copy: file, Log: quiet()})
	v = m.Follow("n")
	if err := m.Restore(); err != nil || len(v.Records()) != 0 {
		t.Errorf("of another database came %q, %v", v.Records(), err)
	}
}

// TestCopyAway: what the copy says stands until the database says otherwise; and a database that is empty at the start is no emptied one.
func TestCopyAway(t *testing.T) {
	file := filepath.Join(t.TempDir(), "copy.json")
	text := `{"of":"this","records":[{"key":"n/1","value":"1"},{"key":"n/2","value":"2"}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		db := storetest.NewMemory()
		db.Refuse(errors.New("refused"))
		db.Put("n/2", []byte("3"))
		m := store.New(store.Options{Open: db.Open, Name: "this", Copy: file, Log: quiet()})
		v := m.Follow("n")
		if err := m.Restore(); err != nil {
			t.Fatal(err)
		}
		storetest.Start(t, m)
		time.Sleep(time.Minute)
		if got := fmt.Sprintf("%s", v.Records()); got != "[{n/1 1} {n/2 2}]" {
			t.Errorf("records are %s", got)
		}
		if loaded, away := m.Standing(); loaded || away == nil {
			t.Errorf("standing is %v, %v", loaded, away)
		}
		db.Refuse(nil)
		time.Sleep(10 * time.Second)
		if got := fmt.Sprintf("%s", v.Records()); got != "[{n/2 3}]" {
			t.Errorf("records are %s", got)
		}
	})
}

func TestCopyDamaged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "copy.json")
	for _, text := range []string{"", "{", `{"of":"this","records":[{"key":"n","value":"1"}]}`, `{"of":"this","records":[{"key":"n/1","value":"{"}]}`,
		`{"of":"this","records":[{"key":"n/1","value":"1"},{"key":"n/1","value":"2"}]}`} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		m := store.New(store.Options{Open: storetest.NewMemory().Open, Name: "this", Copy: file, Log: quiet()})
		v := m.Follow("n")
		if err := m.Restore(); err == nil || !strings.Contains(err.Error(), file+".damaged") {
			t.Errorf("%q: got %v", text, err)
		}
		if aside, err := os.ReadFile(file + ".damaged"); err != nil || string(aside) != text {
			t.Errorf("%q: aside lies %q, %v", text, aside, err)
		}
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) || len(v.Records()) != 0 {
			t.Errorf("%q: it is still there (%v), with %q", text, err, v.Records())
		}
	}
}

// TestCopyFails: a copy that cannot be written is told once, and tried again.
func TestCopyFails(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "folder")
	synctest.Test(t, func(t *testing.T) {
		log := &logged{}
		m := store.New(store.Options{Copy: filepath.Join(folder, "copy.json"), Log: slog.New(slog.NewTextHandler(log, nil))})
		stop := storetest.Start(t, m)
		storetest.Update(t, m, "n/1", "1")
		time.Sleep(10 * time.Second)
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if _, err := os.Stat(filepath.Join(folder, "copy.json")); err != nil || log.count("level=WARN") != 1 || log.count("copied again") != 1 {
			t.Errorf("got %v, and %s", err, &log.text)
		}
		stop()
	})
}

// TestMemory: without a database everything is done at once, also before Run.
func TestMemory(t *testing.T) {
	m := store.New(store.Options{Log: quiet()})
	v := m.Follow("n")
	if loaded, away := m.Standing(); !loaded || away != nil {
		t.Errorf("standing is %v, %v", loaded, away)
	}
	storetest.Update(t, m, "n/1", "1")
	stop := storetest.Start(t, m)
	storetest.Update(t, m, "n/2", "2")
	storetest.Update(t, m, "n/1", "")
	mine := errors.New("mine")
	if err := m.Update(t.Context(), "n/2", func(old []byte) ([]byte, error) { return nil, mine }); err != mine { //nolint:errorlint // as it is
		t.Errorf("got %v", err)
	}
	var refused *store.Refused
	if err := m.Update(t.Context(), "n/2", storetest.Put("", "{").Change); !errors.As(err, &refused) {
		t.Errorf("got %v", err)
	}
	if got := fmt.Sprintf("%s", v.Records()); got != "[{n/2 2}]" {
		t.Errorf("records are %s", got)
	}
	stop()
}

func FuzzCopy(f *testing.F) {
	f.Add([]byte(`{"of":"this","records":[{"key":"n/1","value":"1"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(t.TempDir(), "copy.json")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		m := store.New(store.Options{Name: "this", Copy: file, Log: quiet()})
		v := m.Follow("n")
		err := m.Restore()
		if err != nil && len(v.Records()) != 0 {
			t.Errorf("a copy that is damaged (%v) gave %q", err, v.Records())
		}
		for i, r := range v.Records() {
			if store.CheckKey(r.Key) != nil || i > 0 && v.Records()[i-1].Key >= r.Key {
				t.Errorf("records are %q", v.Records())
			}
		}
	})
}
