package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/store"
)

// Fixture is a database that was empty when the test began.
type Fixture struct {
	Open func(context.Context) (store.DB, error) // each call another balancer
	SQL  func(statements string) error           // as somebody else does it by hand; nil where there is no such way
}

// limit is for everything that must happen, however busy the machine is.
const limit = time.Minute

// Run is what every database must do.
func Run(t *testing.T, fixture func(t *testing.T) Fixture) {
	run(t, fixture, map[string]func(*testing.T, Fixture){
		"values":     values,
		"edits":      edits,
		"refusals":   refusals,
		"changes":    changes,
		"watch":      watch,
		"concurrent": concurrent,
		"openers":    openers,
		"lost":       lost,
		"two":        twoMirrors,
	})
}

// RunSQL is what a database with tables must do besides; its Fixture has SQL.
func RunSQL(t *testing.T, fixture func(t *testing.T) Fixture) {
	run(t, fixture, map[string]func(*testing.T, Fixture){
		"deletions":  deletions,
		"newer":      newer,
		"taken over": takenOver,
		"emptied":    emptied,
	})
}

func run(t *testing.T, fixture func(t *testing.T) Fixture, tests map[string]func(*testing.T, Fixture)) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, fixture(t)) })
	}
}

func open(t *testing.T, f Fixture) store.DB {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	db, err := f.Open(ctx)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db
}

func load(t *testing.T, db store.DB) store.Contents {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	c, err := db.Load(ctx)
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return c
}

func apply(t *testing.T, db store.DB, edits ...store.Edit) []error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	errs, err := db.Apply(ctx, edits)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	if len(errs) != len(edits) {
		t.Fatalf("apply: %d answers to %d edits", len(errs), len(edits))
	}
	return errs
}

// Put is an edit that gives the record that value; "" deletes it.
func Put(key, value string) store.Edit {
	return store.Edit{Key: key, Change: func([]byte) ([]byte, error) {
		if value == "" {
			return nil, nil
		}
		return []byte(value), nil
	}}
}

func good(t *testing.T, errs []error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Errorf("refused: %v", err)
	}
}

// says compares all records, written KEY=VALUE with blanks in between, sorted.
func says(t *testing.T, db store.DB, want string) {
	t.Helper()
	var list []string
	for _, r := range load(t, db).Records {
		list = append(list, r.Key+"="+string(r.Value))
	}
	if got := strings.Join(list, " "); got != want {
		t.Errorf("the database has %.300q, not %.300q", got, want)
	}
}

// values: each byte comes back, and keys are bytes.
func values(t *testing.T, f Fixture) {
	db := open(t, f)
	want := []store.Record{}
	put := func(key, value string) {
		good(t, apply(t, db, Put(key, value)))
		want = store.Merge(want, []store.Record{{Key: key, Value: []byte(value)}})
	}
	put("nodes/10.0.0.1:80", `{}`)
	put("nodes/A", `{"a": 1,  "b":"\u0000<&'\"\\"}`)
	put("nodes/a", `"upper and lower case are not the same"`)
	put("nodes/a ", `"nor is a blank at the end"`)
	put("nodes/a%_'\"\\`;--", `"quotes: ' \" \\ %s %d ? $1 :x"`)
	put("nodes/ä€😀", `"ä€😀 é é"`)
	put("nodes/"+strings.Repeat("k", store.MaxKey-6), `null`)
	put("pools/x", `"`+strings.Repeat("x", 100_000)+`"`)
	put("pools/y", ` [1] `)
	put("pools/z", `"`+strings.Repeat("'\\", (store.MaxValue-2)/2)+`"`)
	for _, from := range []store.DB{db, open(t, f)} {
		if got := load(t, from).Records; !store.Equal(got, want) {
			t.Errorf("other records came back: %d instead of %d", len(got), len(want))
			for i := range min(len(got), len(want)) {
				if got[i].Key != want[i].Key || !bytes.Equal(got[i].Value, want[i].Value) {
					t.Errorf("%.60q=%.60q instead of %.60q=%.60q", got[i].Key, got[i].Value, want[i].Key, want[i].Value)
				}
			}
		}
	}
}

// edits: what a change gets and does.
func edits(t *testing.T, f Fixture) {
	db := open(t, f)
	says(t, db, "")
	var got [][]byte
	see := func(key, value string) store.Edit {
		return store.Edit{Key: key, Change: func(old []byte) ([]byte, error) {
			got = append(got, bytes.Clone(old))
			if value == "" {
				return nil, nil
			}
			return []byte(value), nil
		}}
	}
	good(t, apply(t, db, see("a/1", "1")))
	good(t, apply(t, db, see("a/1", "2"), see("a/1", "3"), see("a/1", ""), see("a/1", "4"), see("a/2", ""), see("b/1", "5")))
	says(t, db, "a/1=4 b/1=5")
	for i, want := range []string{"", "1", "2", "3", "", "", ""} {
		if string(got[i]) != want || (got[i] == nil) != (want == "") {
			t.Errorf("change %d got %q, not %q", i, got[i], want)
		}
	}
	good(t, apply(t, db, Put("a/1", "")))
	says(t, db, "b/1=5")
	good(t, apply(t, db, Put("a/1", "6"), Put("b/1", "5")))
	says(t, db, "a/1=6 b/1=5")
	good(t, apply(t, db))
	says(t, open(t, f), "a/1=6 b/1=5")
	var many []store.Edit
	for i := range 1000 {
		many = append(many, Put(fmt.Sprintf("c/%03d", i), fmt.Sprint(i)))
	}
	good(t, apply(t, db, many...))
	if n := len(load(t, db).Records); n != 1002 {
		t.Errorf("%d records instead of 1002", n)
	}
}

// refusals: the error of a change comes back as it is, and the others go on.
func refusals(t *testing.T, f Fixture) {
	db := open(t, f)
	mine := errors.New("mine")
	no := store.Edit{Key: "a/2", Change: func([]byte) ([]byte, error) { return []byte("9"), mine }}
	errs := apply(t, db, Put("a/1", "1"), no, Put("a/3", "3"))
	if errs[0] != nil || errs[1] != mine || errs[2] != nil { //nolint:errorlint // as it is
		t.Errorf("answers are %v", errs)
	}
	says(t, db, "a/1=1 a/3=3")
	if errs := apply(t, db, no); errs[0] != mine { //nolint:errorlint // as it is
		t.Errorf("answers are %v", errs)
	}
	says(t, db, "a/1=1 a/3=3")
}

// changes: what others write is read, and nothing is read twice.
func changes(t *testing.T, f Fixture) {
	a, b := open(t, f), open(t, f)
	if load(t, a).ID == "" || load(t, a).ID != load(t, b).ID {
		t.Errorf("ids are %q and %q", load(t, a).ID, load(t, b).ID)
	}
	random := rand.New(rand.NewPCG(1, 2))
	var want []store.Record
	for i := range 100 {
		db := []store.DB{a, b}[random.IntN(2)]
		r := store.Record{Key: fmt.Sprintf("n/%d", random.IntN(20))}
		if random.IntN(3) > 0 {
			r.Value = fmt.Append(nil, i)
		}
		good(t, apply(t, db, Put(r.Key, string(r.Value))))
		want = store.Merge(want, []store.Record{r})
		for _, db := range []store.DB{a, b} {
			if random.IntN(2) == 0 {
				if got := load(t, db).Records; !store.Equal(got, want) {
					t.Fatalf("after %d changes the records are %v, not %v", i, got, want)
				}
			}
		}
	}
}

// watch: changes of others and of one's own are told.
func watch(t *testing.T, f Fixture) {
	a, b := open(t, f), open(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	told, ended := make(chan struct{}, 1000), make(chan error, 1)
	go func() { ended <- a.Watch(ctx, func() { told <- struct{}{} }) }()
	wait := func(what string) {
		t.Helper()
		select {
		case <-told:
		case err := <-ended:
			t.Fatalf("%s: the watch ended: %v", what, err)
		case <-time.After(limit):
			t.Fatalf("%s was not told", what)
		}
	}
	wait("the beginning")
	for i, db := range []store.DB{b, a, b} {
		value := fmt.Sprint(i)
		good(t, apply(t, db, Put("n/1", value)))
		for deadline := time.Now().Add(limit); ; {
			wait("a change")
			if got, _ := store.Find(load(t, a).Records, "n/1"); string(got) == value {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("change %d is not read", i)
			}
		}
	}
	cancel()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("it ended without a reason")
		}
	case <-time.After(limit):
		t.Error("it does not end")
	}
}

// concurrent: increments by several balancers, none of which is lost.
func concurrent(t *testing.T, f Fixture) {
	const balancers, each = 4, 25
	var all sync.WaitGroup
	for range balancers {
		db := open(t, f)
		all.Go(func() {
			for range each {
				if err := count(t.Context(), db); err != nil {
					t.Errorf("apply: %v", err)
					return
				}
			}
		})
	}
	all.Wait()
	says(t, open(t, f), fmt.Sprintf("n/count=%d", balancers*each))
}

// count adds one. A database that is locked for too long may say so; then nothing was done.
func count(ctx context.Context, db store.DB) error {
	for deadline := time.Now().Add(limit); ; {
		_, err := db.Apply(ctx, []store.Edit{{Key: "n/count", Change: func(old []byte) ([]byte, error) {
			n := 0
			if old != nil {
				if _, err := fmt.Sscan(string(old), &n); err != nil {
					return nil, err
				}
			}
			return fmt.Append(nil, n+1), nil
		}}})
		if err == nil || errors.Is(err, store.ErrUnknown) || time.Now().After(deadline) {
			return err
		}
	}
}

// openers: ten balancers make the tables at once.
func openers(t *testing.T, f Fixture) {
	ids := make([]string, 10)
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			var db store.DB
			var err error
			for db == nil { // one that is locked out for too long says so and is tried again, as a Mirror does
				if db, err = f.Open(ctx); err != nil && ctx.Err() != nil {
					t.Errorf("open: %v", err)
					return
				}
			}
			defer db.Close()
			c, err := db.Load(ctx)
			if err != nil {
				t.Errorf("load: %v", err)
				return
			}
			ids[i] = c.ID
		})
	}
	all.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Errorf("ids are %q", ids)
			break
		}
	}
}

// deletions are forgotten some day, and who comes late reads everything.
func deletions(t *testing.T, f Fixture) {
	a, b := open(t, f), open(t, f)
	good(t, apply(t, a, Put("n/1", "1"), Put("n/2", "2")))
	says(t, b, "n/1=1 n/2=2")
	good(t, apply(t, a, Put("n/1", "")))
	// As if much had happened since.
	if err := f.SQL("UPDATE fnlb_meta SET value = '13999' WHERE name = 'revision'"); err != nil {
		t.Fatal(err)
	}
	good(t, apply(t, a, Put("n/3", "3")))
	says(t, b, "n/2=2 n/3=3")
	says(t, a, "n/2=2 n/3=3")
	// Put back from a backup: the revision is lower than what was read.
	if err := f.SQL("UPDATE fnlb_meta SET value = '5' WHERE name = 'revision'; UPDATE fnlb_records SET revision = 5; DELETE FROM fnlb_records WHERE name = 'n/2'"); err != nil {
		t.Fatal(err)
	}
	says(t, b, "n/3=3")
}

// lost: what is written back to an emptied database leaves alone what was deleted there since.
func lost(t *testing.T, f Fixture) {
	db := open(t, f)
	good(t, apply(t, db, Put("n/1", "1"), Put("n/2", "2")))
	good(t, apply(t, db, Put("n/1", "")))
	var list []store.Edit
	for _, key := range []string{"n/1", "n/2", "n/3"} {
		e := Put(key, "9")
		e.Lost = true
		list = append(list, e)
	}
	good(t, apply(t, db, list...))
	says(t, db, "n/2=9 n/3=9")
}

// newer: a schema that is not known is refused, at the opening and while it is open, and left alone.
func newer(t *testing.T, f Fixture) {
	db := open(t, f)
	good(t, apply(t, db, Put("n/1", "1")))
	if err := f.SQL("UPDATE fnlb_meta SET value = '7' WHERE name = 'schema'"); err != nil {
		t.Fatal(err)
	}
	const want = "made by a newer fnlb (schema 7, this one knows 1): run that version or another database"
	refused := func(err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, not %q", err, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	_, err := f.Open(ctx)
	refused(err)
	_, err = db.Load(ctx)
	refused(err)
	_, err = db.Apply(ctx, []store.Edit{Put("n/1", "2")})
	refused(err)
	if err := f.SQL("UPDATE fnlb_meta SET value = '1' WHERE name = 'schema'"); err != nil {
		t.Fatal(err)
	}
	says(t, open(t, f), "n/1=1")
}

// takenOver: the table of docker-loadbalancer, once.
func takenOver(t *testing.T, f Fixture) {
	long := strings.Repeat("x", 250)
	if err := f.SQL("CREATE TABLE lb_nodes (address varchar(300) PRIMARY KEY); INSERT INTO lb_nodes VALUES ('10.0.0.1:80'), ('web:8080'), ('" + long + "')"); err != nil {
		t.Fatal(err)
	}
	db := open(t, f)
	says(t, db, "nodes/10.0.0.1:80={} nodes/web:8080={} nodes/"+long+"={}")
	good(t, apply(t, db, Put("nodes/web:8080", "")))
	if err := f.SQL("INSERT INTO lb_nodes VALUES ('late:1')"); err != nil {
		t.Fatal(err)
	}
	says(t, open(t, f), "nodes/10.0.0.1:80={} nodes/"+long+"={}")
	if err := f.SQL("DELETE FROM lb_nodes"); err != nil {
		t.Fatal(err)
	}
}
