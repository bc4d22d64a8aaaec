package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/store/storetest"
)

// logged keeps what is logged.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

// bench is a Mirror on a database in memory, within a bubble.
type bench struct {
	*store.Mirror
	t    *testing.T
	db   *storetest.Memory
	view *store.View
	log  *logged
	stop func()
}

func inBubble(t *testing.T, db *storetest.Memory, test func(*bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if db == nil {
			db = storetest.NewMemory()
		}
		b := &bench{t: t, db: db, log: &logged{}}
		b.Mirror = store.New(store.Options{Open: db.Open, Name: "test", Log: slog.New(slog.NewTextHandler(b.log, nil))})
		b.view = b.Follow("n")
		b.stop = storetest.Start(t, b.Mirror)
		synctest.Wait()
		test(b)
	})
}

func (b *bench) update(key, value string) error {
	return b.Update(b.t.Context(), key, storetest.Put(key, value).Change)
}

func (b *bench) must(key, value string) {
	b.t.Helper()
	if err := b.update(key, value); err != nil {
		b.t.Errorf("update %s: %v", key, err)
	}
}

func (b *bench) has(want string) {
	b.t.Helper()
	var list []string
	for _, r := range b.view.Records() {
		list = append(list, r.Key+"="+string(r.Value))
	}
	if got := strings.Join(list, " "); got != want {
		b.t.Errorf("the records are %q, not %q", got, want)
	}
}

func (b *bench) isAway(err error, part string) {
	b.t.Helper()
	if away, ok := errors.AsType[*store.Away](err); !ok || !strings.Contains(away.Error(), part) {
		b.t.Errorf("got %v, not that the database is away with %q", err, part)
	}
}

func (b *bench) standing(loaded bool, away string) {
	b.t.Helper()
	synctest.Wait()
	l, err := b.Standing()
	if got := fmt.Sprint(err); l != loaded || (away == "") != (err == nil) || !strings.Contains(got, away) {
		b.t.Errorf("standing is %v and %v, not %v and %q", l, err, loaded, away)
	}
}

// took says how long do took, by the bubble's clock.
func took(do func()) time.Duration {
	begin := time.Now()
	do()
	return time.Since(begin)
}

func TestGroups(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		mine := errors.New("mine")
		b.db.Hang(false)
		var all sync.WaitGroup
		all.Go(func() { b.must("n/first", "1") })
		synctest.Wait()
		for i := range 50 {
			all.Go(func() {
				if err := b.update(fmt.Sprintf("n/%02d", i), "1"); err != nil {
					t.Errorf("update %d: %v", i, err)
				}
			})
		}
		all.Go(func() {
			err := b.Update(b.t.Context(), "n/no", func([]byte) ([]byte, error) { return nil, mine })
			if err != mine { //nolint:errorlint // as it is
				t.Errorf("got %v, not the change's own error", err)
			}
		})
		synctest.Wait()
		b.db.Answer()
		all.Wait()
		batches := b.db.Batches()
		if len(batches) != 2 || len(batches[0]) != 1 || len(batches[1]) != 51 {
			t.Errorf("transactions are %v, not the first alone and then all others", batches)
		}
		if n := len(b.view.Records()); n != 51 {
			t.Errorf("there are %d records, not 51", n)
		}
	})
}

// TestStart: the database is away when we start. It is tried more and more rarely, and told once.
func TestStart(t *testing.T) {
	db := storetest.NewMemory()
	db.Refuse(errors.New("refused 1"))
	inBubble(t, db, func(b *bench) {
		b.standing(false, "refused 1")
		for i := range 20 {
			db.Refuse(fmt.Errorf("refused %d", i)) // numbers make no other reason
			time.Sleep(time.Second)
		}
		if n := db.Opened(); n < 5 || n > 12 {
			t.Errorf("it was tried %d times in 20 s", n)
		}
		before := db.Opened()
		time.Sleep(time.Minute)
		if n := db.Opened() - before; n < 9 || n > 16 {
			t.Errorf("it was tried %d times in a minute", n)
		}
		if d := took(func() { b.isAway(b.update("n/1", "1"), "refused 19") }); d != 0 {
			t.Errorf("it took %v to say that it is away", d)
		}
		db.Put("n/2", []byte("2"))
		db.Refuse(nil)
		time.Sleep(7 * time.Second)
		b.standing(true, "")
		b.has("n/2=2")
		if err := b.update("n/1", "1"); err != nil {
			t.Error(err)
		}
		b.has("n/1=1 n/2=2")
		if n := b.log.count("level=WARN"); n != 1 {
			t.Errorf("%d warnings: %s", n, &b.log.text)
		}
		if n := b.log.count("is back"); n != 1 {
			t.Errorf("it was told %d times that it is back", n)
		}
	})
}

// TestHang: a server that is there and does not answer.
func TestHang(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		t.Run(fmt.Sprintf("deaf=%v", deaf), func(t *testing.T) {
			inBubble(t, nil, func(b *bench) {
				if err := b.update("n/1", "1"); err != nil {
					t.Fatal(err)
				}
				synctest.Wait() // what was written is read again
				b.db.Hang(deaf)
				d := took(func() {
					err := b.update("n/1", "2")
					b.isAway(err, "no answer for 2s")
					if !errors.Is(err, store.ErrUnknown) {
						t.Errorf("%v does not say that nobody knows", err)
					}
				})
				if d < 2*time.Second || d > 3*time.Second {
					t.Errorf("it took %v to say that it is away", d)
				}
				if d := took(func() { b.isAway(b.update("n/3", "3"), "no answer"); b.has("n/1=1") }); d != 0 {
					t.Errorf("the next one took %v", d)
				}
				time.Sleep(time.Minute)
				b.standing(true, "no answer")
				b.db.Answer()
				time.Sleep(20 * time.Second)
				b.standing(true, "")
				b.has("n/1=1") // what was given up is not done late
				if err := b.update("n/1", "4"); err != nil {
					t.Error(err)
				}
				b.has("n/1=4")
			})
		})
	}
}

// TestHungRead: changes do not wait for a reading that hangs.
func TestHungRead(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.db.Hang(false)
		b.db.Put("n/1", []byte("1")) // has it read
		synctest.Wait()
		d := took(func() { b.isAway(b.update("n/2", "2"), "no answer") })
		if d > 3*time.Second {
			t.Errorf("it took %v", d)
		}
		b.db.Answer()
		time.Sleep(20 * time.Second)
		b.standing(true, "")
		b.has("n/1=1")
	})
}

// TestCut: a connection that is cut and can be had again at once is nobody's business.
func TestCut(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		for i := range 20 {
			time.Sleep(2 * time.Second)
			b.db.Cut()
			if err := b.update("n/1", fmt.Sprint(i)); err != nil {
				t.Errorf("update %d: %v", i, err)
			}
		}
		b.has("n/1=19")
		if n := b.log.count("level=WARN"); n != 0 {
			t.Errorf("%d warnings: %s", n, &b.log.text)
		}
		// Cut and refused.
		b.db.Refuse(errors.New("refused"))
		b.isAway(b.update("n/1", "20"), "refused")
		b.standing(true, "refused")
		b.has("n/1=19")
	})
}

func TestUnknownCommit(t *testing.T) {
	for _, c := range []struct {
		name          string
		lost, dropped int
		before        string
		change        store.Change
		after         string
	}{
		{"done", 1, 0, "", storetest.Put("", "1").Change, "n/1=1"},
		{"not done", 0, 1, "", storetest.Put("", "1").Change, "n/1=1"},
		{"deletion done", 1, 0, "5", storetest.Put("", "").Change, ""},
		{"deletion not done", 0, 1, "5", storetest.Put("", "").Change, ""},
		{"done once", 1, 0, "5", func(old []byte) ([]byte, error) { return append(bytes.Clone(old), '0'), nil }, "n/1=50"},
		{"done once at last", 0, 1, "5", func(old []byte) ([]byte, error) { return append(bytes.Clone(old), '0'), nil }, "n/1=50"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, nil, func(b *bench) {
				if c.before != "" {
					b.db.Put("n/1", []byte(c.before))
					synctest.Wait()
				}
				time.Sleep(2 * time.Second)
				b.db.LoseAnswers(c.lost)
				b.db.DropCommits(c.dropped)
				if err := b.Update(b.t.Context(), "n/1", c.change); err != nil {
					t.Error(err)
				}
				b.has(c.after)
			})
		})
	}
	t.Run("not done twice", func(t *testing.T) {
		inBubble(t, nil, func(b *bench) {
			b.db.DropCommits(2)
			err := b.update("n/1", "1")
			b.isAway(err, "it is not known whether")
			if !errors.Is(err, store.ErrUnknown) {
				t.Errorf("%v is not ErrUnknown", err)
			}
			time.Sleep(10 * time.Second)
			b.standing(true, "")
			b.has("")
		})
	})
	t.Run("done, and away then", func(t *testing.T) {
		inBubble(t, nil, func(b *bench) {
			time.Sleep(2 * time.Second)
			b.db.LoseAnswer(errors.New("refused"))
			err := b.update("n/1", "1")
			b.isAway(err, "refused")
			if !errors.Is(err, store.ErrUnknown) {
				t.Errorf("%v does not say that nobody knows", err)
			}
			b.db.Refuse(nil)
			time.Sleep(10 * time.Second)
			b.has("n/1=1")
		})
	})
}

// TestReadOnly: reading works and writing does not, as with a full disk.
func TestReadOnly(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.db.FailWrites(errors.New("no space"))
		b.isAway(b.update("n/1", "1"), "no space")
		time.Sleep(time.Minute)
		b.standing(true, "no space")
		b.db.Put("n/2", []byte("2"))
		time.Sleep(10 * time.Second)
		b.has("n/2=2")
		b.db.FailWrites(nil)
		time.Sleep(10 * time.Second)
		b.standing(true, "")
		if err := b.update("n/1", "1"); err != nil {
			t.Error(err)
		}
		if n := b.log.count("level=WARN"); n != 1 {
			t.Errorf("%d warnings: %s", n, &b.log.text)
		}
	})
}

func TestRefused(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		for key, value := range map[string]string{
			"":                              "1",
			"n":                             "1",
			"n/":                            "1",
			"/x":                            "1",
			"N/x":                           "1",
			"n/\x00":                        "1",
			"n/a\nb":                        "1",
			"n/\xff":                        "1",
			"n/" + strings.Repeat("x", 299): "1",
			"n/1":                           "{",
			"n/2":                           "\"\xff\"",
			"n/3":                           `"` + strings.Repeat("x", store.MaxValue) + `"`,
			"n/4":                           " ",
		} {
			var refused *store.Refused
			if err := b.update(key, value); !errors.As(err, &refused) || len(err.Error()) > 300 {
				t.Errorf("%.30q=%.30q: got %v, not a refusal", key, value, err)
			}
		}
		if got := b.db.Records(); len(got) != 0 {
			t.Errorf("the database has %.100q", got)
		}
	})
}

// TestEmptied: what is known is written back, but what others wrote or deleted since stays so; and a deletion is a deletion.
func TestEmptied(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		for _, key := range []string{"n/1", "n/2", "n/3", "n/4"} {
			if err := b.update(key, "1"); err != nil {
				t.Fatal(err)
			}
		}
		b.db.Put("n/4", nil)
		synctest.Wait()
		b.has("n/1=1 n/2=1 n/3=1")
		b.db.Hang(false)
		b.db.Empty()
		b.db.Put("n/2", []byte("2"))
		b.db.Put("n/3", []byte("3"))
		b.db.Put("n/3", nil)
		b.db.Answer()
		synctest.Wait()
		b.has("n/1=1 n/2=2")
		if got := b.db.Records(); !store.Equal(got, b.view.Records()) {
			t.Errorf("the database has %q", got)
		}
		if n := b.log.count("level=WARN"); n != 1 || b.log.count("written back") != 1 {
			t.Errorf("%d warnings: %s", n, &b.log.text)
		}
		// Also while it was away.
		b.db.Refuse(errors.New("refused"))
		synctest.Wait()
		b.db.Empty()
		b.db.Refuse(nil)
		time.Sleep(10 * time.Second)
		b.has("n/1=1 n/2=2")
		if got := b.db.Records(); !store.Equal(got, b.view.Records()) {
			t.Errorf("the database has %q", got)
		}
	})
}

func TestViews(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		told := func() bool {
			synctest.Wait()
			select {
			case <-b.view.Changed():
				return true
			default:
				return false
			}
		}
		told()
		b.must("n/1", "1")
		if !told() {
			t.Error("a change was not told")
		}
		was := b.view.Records()
		b.must("m/1", "1")
		b.must("o/1", "1")
		b.must("n/1", "1")
		if told() {
			t.Error("changes of other kinds were told")
		}
		if is := b.view.Records(); &is[0] != &was[0] || len(is) != 1 || cap(is) != 1 {
			t.Error("it is another slice though nothing has changed")
		}
		b.db.Refuse(errors.New("refused"))
		time.Sleep(time.Second)
		if !told() {
			t.Error("it was not told that the database is away")
		}
		b.db.Refuse(nil)
		time.Sleep(10 * time.Second)
		if !told() {
			t.Error("it was not told that the database is back")
		}
	})
}

// TestStop: a transaction that runs is answered, what has not begun is refused.
func TestStop(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.db.Hang(false)
		var all sync.WaitGroup
		all.Go(func() {
			if err := b.update("n/1", "1"); err != nil {
				t.Errorf("the one that ran: %v", err)
			}
		})
		synctest.Wait()
		all.Go(func() { b.isAway(b.update("n/2", "2"), "we are stopping") })
		synctest.Wait()
		all.Go(b.stop)
		synctest.Wait()
		time.Sleep(time.Second)
		b.db.Answer()
		all.Wait()
		b.isAway(b.update("n/3", "3"), "we are stopping")
		b.has("n/1=1")
	})
}

// TestGivenUp: the change of a caller who has gone is not made later.
func TestGivenUp(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.db.Hang(false)
		ctx, cancel := context.WithTimeout(b.t.Context(), time.Second)
		defer cancel()
		if err := b.Update(ctx, "n/1", storetest.Put("", "1").Change); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		b.db.Answer()
		synctest.Wait()
		b.has("")
		if err := b.Update(ctx, "n/1", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
