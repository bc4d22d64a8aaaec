package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Log is what fnlb has logged so far.
func (b *Balancer) Log() string { return b.log.String() }

// WaitLog waits until the log has a line with all of the parts, from the byte on that mark says, and returns the end of that line.
func (b *Balancer) WaitLog(mark int, parts ...string) int {
	b.T.Helper()
	end := time.After(Patience)
	for {
		text, more := b.log.state()
		at := mark
		for line := range strings.Lines(text[mark:]) {
			at += len(line)
			if containsAll(line, parts) {
				return at
			}
		}
		select {
		case <-more:
		case <-b.exited:
			text, _ := b.log.state()
			for line := range strings.Lines(text[mark:]) {
				if containsAll(line, parts) {
					return len(text)
				}
			}
			b.T.Fatalf("fnlb ended, and its log has no line with %q:\n%s", parts, text)
		case <-end:
			b.T.Fatalf("no line with %q in the log:\n%s", parts, text[mark:])
		}
	}
}

func containsAll(line string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(line, p) {
			return false
		}
	}
	return true
}

// HoldLog stops reading what fnlb logs until release is called. What a pipe and fnlb's own queue do not hold is lost then.
func (b *Balancer) HoldLog() (release func()) {
	b.log.gate.Lock()
	release = sync.OnceFunc(b.log.gate.Unlock)
	b.T.Cleanup(release)
	return release
}

// CloseLog goes away as a reader of fnlb's log for good: nothing more of this process is seen.
func (b *Balancer) CloseLog() {
	b.T.Helper()
	if err := b.reads.Close(); err != nil {
		b.T.Fatal(err)
	}
}

// Chatter makes a fnlb that logs with LOG_LEVEL=debug write so many lines of 350 bytes; 4,000 are more than a pipe and its own queue hold.
func (b *Balancer) Chatter(count int) {
	b.T.Helper()
	name := strings.Repeat("n", 60)
	body := fmt.Sprintf(`{"node":"%s.%s.%s.invalid:1"}`, name, name, name)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range count / 4 {
				method := http.MethodPut
				if i%2 == 1 {
					method = http.MethodDelete
				}
				req, err := http.NewRequestWithContext(b.T.Context(), method, "http://"+b.Mgmt+"/1/lb/nodes", strings.NewReader(body))
				if err != nil {
					b.T.Error(err)
					return
				}
				resp, err := client.Do(req)
				if err != nil {
					b.T.Error(err)
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				if err = errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusOK {
					b.T.Errorf("status %d, %v", resp.StatusCode, err)
				}
			}
		})
	}
	wg.Wait()
}

// logBuffer collects what fnlb writes and tells when there is more.
type logBuffer struct {
	gate sync.Mutex // held while nobody shall read
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{}
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.gate.Lock()
	defer l.gate.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.more)
	l.more = make(chan struct{})
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	text, _ := l.state()
	return text
}

func (l *logBuffer) state() (string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String(), l.more
}
