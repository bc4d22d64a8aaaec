package logwriter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestOrder: what is read arrives whole and in order, and what was queued before Close arrives too.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer // read after the goroutine has ended
		w := Start(&out, 1<<20)
		var want strings.Builder
		for i := range 1000 {
			line := fmt.Sprintf("line %d\n", i)
			want.WriteString(line)
			if n, err := w.Write([]byte(line)); n != len(line) || err != nil {
				t.Fatal(n, err)
			}
		}
		w.Close(time.Second)
		if out.String() != want.String() || w.Dropped() != 0 {
			t.Errorf("%d bytes of %d, %d lines dropped", out.Len(), want.Len(), w.Dropped())
		}
	})
}

// TestStalled: while nobody reads, Write returns, memory is bounded, and afterwards the gap is told in its place.
func TestStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, pipe := io.Pipe()
		w := Start(pipe, 100) // ten lines
		const line = "123456789\n"
		_, _ = io.WriteString(w, line)
		synctest.Wait() // the goroutine waits in its write
		for range 50 {
			_, _ = io.WriteString(w, line)
		}
		if w.Dropped() != 40 {
			t.Errorf("%d lines dropped, not 40", w.Dropped())
		}
		if len(w.queue) > 100 {
			t.Errorf("%d bytes are queued", len(w.queue))
		}
		var got []byte
		var reading sync.WaitGroup
		reading.Go(func() { got, _ = io.ReadAll(r) })
		synctest.Wait()
		_, _ = io.WriteString(w, "after\n")
		w.Close(time.Second)
		_ = pipe.Close()
		reading.Wait()
		rows := strings.SplitAfter(string(got), "\n")
		if len(rows) != 14 || strings.Join(rows[:11], "") != strings.Repeat(line, 11) ||
			!strings.Contains(rows[11], `level=WARN msg="lines of this log are missing here" lines=40 reason="nobody read them in time"`) || rows[12] != "after\n" {
			t.Errorf("%q", got)
		}
	})
}

// TestCloseIsBounded: a reader that never comes back holds Close up for no longer than it was told.
func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, pipe := io.Pipe()
		w := Start(pipe, 100)
		_, _ = io.WriteString(w, "one\n")
		begin := time.Now()
		w.Close(2 * time.Second)
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("Close took %s", took)
		}
		_, _ = io.WriteString(w, "too late\n")
		if w.Dropped() != 1 {
			t.Errorf("%d lines dropped", w.Dropped())
		}
		_ = r.Close() // the reader goes, and the goroutine with it
		<-w.done
	})
}

// disk is an output that takes so many bytes and then fails.
type disk struct {
	bytes.Buffer
	free int
}

func (d *disk) Write(p []byte) (int, error) {
	if len(p) <= d.free {
		d.free -= len(p)
		return d.Buffer.Write(p)
	}
	n, _ := d.Buffer.Write(p[:d.free])
	d.free = 0
	return n, syscall.ENOSPC
}

// TestFullDisk: lines that cannot be written are counted, and told when there is space, on a line of their own.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{free: 6}
		w := Start(d, 1000)
		for _, line := range []string{"one\n", "two\n", "three\n"} {
			_, _ = io.WriteString(w, line)
			synctest.Wait()
		}
		d.free = 1000
		_, _ = io.WriteString(w, "four\n")
		w.Close(time.Second)
		rows := strings.SplitAfter(d.String(), "\n")
		if len(rows) != 5 || rows[0] != "one\n" || rows[1] != "tw\n" || !strings.Contains(rows[2], "lines=2") || !strings.Contains(rows[2], syscall.ENOSPC.Error()) || rows[3] != "four\n" {
			t.Errorf("%q", rows)
		}
		if w.Dropped() != 2 {
			t.Errorf("%d lines dropped", w.Dropped())
		}
	})
}

// TestClosedPipe: with a real pipe whose reader has gone every line is counted, and nothing else happens.
func TestClosedPipe(t *testing.T) {
	r, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	w := Start(pipe, 1000)
	for range 3 {
		_, _ = io.WriteString(w, "nobody\n")
	}
	w.Close(10 * time.Second)
	if w.Dropped() != 3 || !errors.Is(w.why, syscall.EPIPE) {
		t.Errorf("%d dropped, %v", w.Dropped(), w.why)
	}
	if err := pipe.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestRace: many goroutines write while it is closed.
func TestRace(t *testing.T) {
	w := Start(io.Discard, 1000)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				_, _ = io.WriteString(w, "line\n")
			}
		})
	}
	w.Close(10 * time.Second)
	all.Wait()
}
