package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/store/sqlite"
	"github.com/fnlb/fnlb/store/storetest"
)

const limit = time.Minute

func prepareFolder(path string) error { return os.MkdirAll(filepath.Dir(path), 0o700) }

// filled makes a file with so many records.
func filled(t *testing.T, n int) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "nodes.db")
	db, err := opener(t, path)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var edits []store.Edit
	for i := range n {
		edits = append(edits, storetest.Put(fmt.Sprintf("n/%d", i), `"`+strings.Repeat("x", 500)+`"`))
	}
	if _, err := db.Apply(t.Context(), edits); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRights: nobody else may read what is kept.
func TestRights(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "nodes.db")
	db, err := opener(t, path)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	found, err := filepath.Glob(path + "*")
	if err != nil || len(found) != 3 {
		t.Errorf("there are %q, %v", found, err)
	}
	for _, name := range found {
		if is, err := os.Stat(name); err != nil || is.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, is.Mode(), err)
		}
	}
	if is, err := os.Stat(filepath.Dir(path)); err != nil || is.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", is.Mode(), err)
	}
}

// TestRefused: what cannot be used is named with what to do, and not written to.
func TestRefused(t *testing.T) {
	whole, err := os.ReadFile(filled(t, 100))
	if err != nil {
		t.Fatal(err)
	}
	damage := func(from, to int) []byte {
		b := bytes.Clone(whole)
		for i := from; i < to; i++ {
			b[i] = byte(i*7 + 1)
		}
		return b
	}
	for _, c := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"no database", []byte(strings.Repeat("These are not the nodes.\n", 400)), "it is no SQLite database and was left as it is"},
		{"short", []byte("x"), "left as it is"},
		{"damaged", damage(4096, len(whole)), "it was left as it is: put a backup in its place"},
		{"cut off", whole[:len(whole)/2/4096*4096], "it was left as it is: put a backup in its place"},
		{"damaged header", damage(0, 200), "it is no SQLite database"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "nodes.db")
			if err := os.WriteFile(path, c.content, 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				_, err := opener(t, path)(t.Context())
				if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
					t.Errorf("got %v, not %q", err, c.want)
				}
			}
			if is, err := os.ReadFile(path); err != nil || !bytes.Equal(is, c.content) {
				t.Errorf("the file was written to (%v)", err)
			}
		})
	}
	t.Run("folder", func(t *testing.T) {
		if _, err := opener(t, t.TempDir())(t.Context()); err == nil || !strings.Contains(err.Error(), "it is a folder: name a file in it") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no folder", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := opener(t, filepath.Join(file, "nodes.db"))(t.Context()); err == nil || !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("device", func(t *testing.T) {
		if _, err := opener(t, "/dev/null")(t.Context()); err == nil || !strings.Contains(err.Error(), "it is no regular file") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("parameters", func(t *testing.T) {
		a := address(t, "sqlite3://"+filepath.Join(t.TempDir(), "nodes.db")+"?_txlock=s3cret-pass")
		if _, err := sqlite.Open(t.Context(), a); err == nil {
			t.Error("it was opened")
		}
	})
}

// TestDamagedAnywhere: one byte or a whole page, somewhere. It is refused or read as it was, and never is a record another one.
func TestDamagedAnywhere(t *testing.T) {
	whole, err := os.ReadFile(filled(t, 50))
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	refused := 0
	for i := range 40 {
		path := filepath.Join(t.TempDir(), "nodes.db")
		b := bytes.Clone(whole)
		page := 4096 * random.IntN(len(b)/4096)
		clear(b[page : page+4096])
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := opener(t, path)(t.Context())
		if err == nil {
			_, err = db.Load(t.Context())
			db.Close()
		}
		if err != nil {
			refused++
		} else {
			t.Logf("%d: page %d does not matter", i, page/4096)
		}
	}
	if refused < 30 {
		t.Errorf("only %d of 40 damaged files were refused", refused)
	}
}

// mirror has one that reads the file.
func mirror(t *testing.T, path string) (*store.Mirror, *store.View) {
	t.Helper()
	m := store.New(store.Options{Open: opener(t, path), Name: path, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	v := m.Follow("n")
	storetest.Start(t, m)
	return m, v
}

// away waits until changes are refused for that reason.
func away(t *testing.T, m *store.Mirror, reason string) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		err := m.Update(t.Context(), "n/away", storetest.Put("", "1").Change)
		if _, is := errors.AsType[*store.Away](err); is && strings.Contains(err.Error(), reason) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %v, not that it is away with %q", err, reason)
		}
	}
}

// TestDeleted: the file is deleted, replaced or emptied while it is open. What is known is written back, at once.
func TestDeleted(t *testing.T) {
	for name, do := range map[string]func(path string) error{
		"deleted":         os.Remove,
		"with its folder": func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
		"moved":           func(path string) error { return os.Rename(path, path+".old") },
		"with all of them": func(path string) error {
			return errors.Join(os.Remove(path), os.Remove(path+"-wal"), os.Remove(path+"-shm"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "folder", "nodes.db")
			m, v := mirror(t, path)
			storetest.Update(t, m, "n/1", "1")
			storetest.Update(t, m, "n/2", "2")
			if err := do(path); err != nil {
				t.Fatal(err)
			}
			storetest.Update(t, m, "n/3", "3")
			storetest.Until(t, v, "the records", func() bool { return len(v.Records()) == 3 })
			db, err := opener(t, path)(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if c, err := db.Load(t.Context()); err != nil || fmt.Sprintf("%s", c.Records) != "[{n/1 1} {n/2 2} {n/3 3}]" {
				t.Errorf("the file has %s, %v", c.Records, err)
			}
		})
	}
	t.Run("without a change", func(t *testing.T) { // it is noticed by itself
		path := filepath.Join(t.TempDir(), "nodes.db")
		m, _ := mirror(t, path)
		storetest.Update(t, m, "n/1", "1")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
			if content, err := os.ReadFile(path + "-wal"); err == nil && bytes.Contains(content, []byte("n/1")) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("it is not written back")
			}
		}
	})
}

// TestLocked: another program holds the file.
func TestLocked(t *testing.T) {
	path := filled(t, 1)
	m, v := mirror(t, path)
	storetest.Update(t, m, "n/1", "1")
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(30000)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	away(t, m, "another program has it locked")
	if got, _ := store.Find(v.Records(), "n/1"); string(got) != "1" {
		t.Errorf("reading gives %q", v.Records())
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	storetest.Update(t, m, "n/1", "2")
}

func TestKill(t *testing.T) {
	storetest.Kill(t, "sqlite3://"+filepath.Join(t.TempDir(), "nodes.db"), sqlite.Open)
}

func TestFigures(t *testing.T) {
	storetest.Figures(t, "sqlite3://"+filepath.Join(t.TempDir(), "nodes.db"), sqlite.Open)
}

// TestDeletedMeanwhile: the file goes between the beginning of a transaction and its commit, which succeeds, into nowhere.
func TestDeletedMeanwhile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nodes.db")
	db, err := opener(t, path)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, err = db.Apply(t.Context(), []store.Edit{{Key: "n/1", Change: func([]byte) ([]byte, error) { return []byte("1"), os.Remove(path) }}})
	if !errors.Is(err, store.ErrUnknown) || !strings.Contains(err.Error(), "was deleted") {
		t.Errorf("got %v", err)
	}
}
