package storetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/store"
)

// Opener opens the database at an address.
type Opener func(context.Context, store.Address) (store.DB, error)

func bind(t testing.TB, open Opener, url string) func(context.Context) (store.DB, error) {
	t.Helper()
	a, err := store.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context) (store.DB, error) { return open(ctx, a) }
}

// writers change records until they are stopped, and know which changes were answered.
type writers struct {
	all  sync.WaitGroup
	stop chan struct{}

	mu       sync.Mutex
	answered map[string]string
	away     int
}

func write(m *store.Mirror, n int) *writers {
	w := &writers{stop: make(chan struct{}), answered: map[string]string{}}
	for i := range n {
		w.all.Go(func() { w.write(m, i) })
	}
	return w
}

func (w *writers) write(m *store.Mirror, i int) {
	for j := 0; ; j++ {
		select {
		case <-w.stop:
			return
		default:
		}
		key, value := fmt.Sprintf("n/%d-%d", i, j%50), strconv.Itoa(j)
		err := m.Update(context.Background(), key, Put(key, value).Change)
		w.mu.Lock()
		if err == nil {
			w.answered[key] = value
		} else {
			delete(w.answered, key) // nobody knows which of the two it is
			w.away++
		}
		w.mu.Unlock()
		if err != nil {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// some waits until that many more were answered.
func (w *writers) some(t testing.TB, more int) {
	t.Helper()
	count := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		sum := 0
		for _, value := range w.answered {
			n, _ := strconv.Atoi(value)
			sum += n + 1
		}
		return sum
	}
	for from, deadline := count(), time.Now().Add(2*limit); count() < from+more; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %d changes were answered within %v", more, 2*limit)
		}
	}
}

// check ends them, and compares what was answered with what is there.
func (w *writers) check(t testing.TB, records func() []store.Record) {
	t.Helper()
	close(w.stop)
	w.all.Wait()
	is := records()
	for key, value := range w.answered {
		if got, _ := store.Find(is, key); string(got) != value {
			t.Errorf("%s was answered with %s and is %q", key, value, got)
		}
	}
	t.Logf("%d keys checked, %d changes were refused", len(w.answered), w.away)
}

// writerURL is the environment variable that makes a test program a writer.
const writerURL = "FNLB_STORE_WRITER"

// beWriter writes until it is killed, and says what was answered.
func beWriter(url string, open Opener) int {
	a, err := store.Parse(url)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	m := store.New(store.Options{Name: a.String(), Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Open: func(ctx context.Context) (store.DB, error) { return open(ctx, a) }})
	go m.Run(context.Background()) //nolint:errcheck // until we are killed
	run := strconv.FormatUint(uint64(rand.Uint32()), 36)
	for i := range 8 {
		go func() {
			for j := 0; ; j++ {
				key, value := fmt.Sprintf("n/%s-%d-%d", run, i, j), strconv.Quote(strings.Repeat(strconv.Itoa(j), 20))
				if err := Persist(context.Background(), m, Put(key, value)); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				os.Stdout.WriteString(key + "=" + value + "\n") //nolint:errcheck // nobody is left to tell
			}
		}()
	}
	select {}
}

// Full tells whether there is time for everything.
func Full() bool { return os.Getenv("FNLB_E2E_FULL") == "1" }

// Kill has writers killed at random, 20 times, or 200 when Full. What they said that was answered must be there.
func Kill(t *testing.T, url string, open Opener) {
	times := 20
	if Full() {
		times = 200
	}
	answered, said := 0, map[string]string{}
	for range times {
		for _, line := range killed(t, url) {
			key, value, _ := strings.Cut(line, "=")
			said[key] = value
			answered++
		}
	}
	db, err := bind(t, open, url)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	is := load(t, db).Records
	for key, value := range said {
		if got, _ := store.Find(is, key); string(got) != value {
			t.Errorf("%s was answered with %s and is %q", key, value, got)
		}
	}
	if answered < times {
		t.Errorf("only %d changes were answered in %d runs", answered, times)
	}
	t.Logf("%d kills, %d answered changes, all there; %d records", times, answered, len(is))
}

// killed starts a writer, kills it some time after it has written first, and gives its whole lines.
func killed(t *testing.T, url string) (lines []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerURL+"="+url)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() { cmd.Process.Kill() } //nolint:errcheck // it may have ended
	never := time.AfterFunc(2*limit, kill)
	defer never.Stop()
	reader := bufio.NewReader(out)
	for {
		line, err := reader.ReadString('\n')
		if err != nil { // what was half said does not count
			break
		}
		if lines = append(lines, strings.TrimSuffix(line, "\n")); len(lines) == 1 {
			time.AfterFunc(time.Duration(rand.IntN(60))*time.Millisecond, kill)
		}
	}
	if err := cmd.Wait(); err == nil || len(lines) == 0 {
		t.Fatalf("the writer said %d lines and ended with %v: %s", len(lines), err, &complaints)
	}
	return lines
}

// isAway says whether err is that the database is away.
func isAway(err error) bool {
	_, is := errors.AsType[*store.Away](err)
	return is
}
