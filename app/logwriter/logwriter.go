package logwriter

import (
	"bytes"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Writer is an io.Writer for whole lines. It is safe for use by several goroutines.
type Writer struct {
	out   io.Writer
	limit int // bytes

	mu      sync.Mutex
	queue   []byte
	dropped uint64 // lines that found no place since the queue was taken
	closed  bool

	wake chan struct{} // something is queued, or closed
	done chan struct{} // the goroutine has ended

	lost atomic.Uint64

	// Of the goroutine alone.
	owed uint64 // lines that are missing and not told yet
	why  error  // why the last of them was not written; nil: nobody read in time
	torn bool   // the output ends within a line
}

// Start makes a Writer whose goroutine writes to out, and which queues at most limit bytes (and as many again are being written).
// Close ends it.
func Start(out io.Writer, limit int) *Writer {
	w := &Writer{out: out, limit: limit, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go w.run()
	return w
}

// Write queues a line, or several; p must end in a newline. It does not wait and returns no error: what does not fit is dropped. The
// lines that were there first stay, because they tell how a trouble began; how it stands now is told by the management API.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	if w.closed || len(w.queue)+len(p) > w.limit {
		n := lines(p)
		w.dropped += n
		w.lost.Add(n)
	} else {
		w.queue = append(w.queue, p...)
	}
	w.mu.Unlock()
	w.poke()
	return len(p), nil
}

// Dropped is how many lines never reached the output.
func (w *Writer) Dropped() uint64 { return w.lost.Load() }

// Close writes what is queued and ends the goroutine. It waits for that no longer than limit: a goroutine that still waits for a
// reader then ends with the process, or when its reader goes.
func (w *Writer) Close(limit time.Duration) {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.poke()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-w.done:
	case <-timer.C:
	}
}

func (w *Writer) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *Writer) run() {
	defer close(w.done)
	var chunk []byte
	for range w.wake {
		w.mu.Lock()
		chunk, w.queue = w.queue, chunk[:0]
		dropped, closed := w.dropped, w.closed
		w.dropped = 0
		w.mu.Unlock()
		w.flush(chunk, dropped)
		if closed {
			return
		}
	}
}

// flush writes a chunk of lines; those that were dropped came after it.
func (w *Writer) flush(chunk []byte, dropped uint64) {
	w.tell()
	if n, err := w.put(chunk); err != nil {
		missing := lines(chunk[n:])
		w.lost.Add(missing)
		w.owed, w.why = w.owed+missing, err
	}
	if dropped > 0 {
		w.owed += dropped
		w.tell()
	}
}

// tell writes how many lines are missing; when that cannot be written either, they stay owed.
func (w *Writer) tell() {
	if w.owed == 0 {
		return
	}
	reason := "nobody read them in time"
	if w.why != nil {
		reason = w.why.Error()
	}
	var line bytes.Buffer
	slog.New(slog.NewTextHandler(&line, nil)).Warn("lines of this log are missing here", "lines", w.owed, "reason", reason)
	if _, err := w.put(line.Bytes()); err == nil {
		w.owed, w.why = 0, nil
	}
}

// put writes lines, behind the end of one that was cut short.
func (w *Writer) put(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	if w.torn {
		if _, err := w.out.Write([]byte("\n")); err != nil {
			return 0, err
		}
		w.torn = false
	}
	n, err = w.out.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	w.torn = err != nil && n > 0 && p[n-1] != '\n'
	return n, err
}

func lines(p []byte) uint64 { return uint64(bytes.Count(p, []byte("\n"))) }
