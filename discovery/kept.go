package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"github.com/fnlb/fnlb/model"
)

// A Snapshot is written at once where none was for keepPause, and then no more often than that, nor so often that it takes more than
// a tenth of the time. What could not be written is tried again after keepRetry.
const (
	keepPause = 100 * time.Millisecond
	keepShare = 10
	keepRetry = time.Second
)

// Kept is a Source whose newest Snapshot is kept in a file, so that the next process that goes on with our HAProxy knows what only our
// memory had. Writing never holds up the source: what is put meanwhile replaces what waits.
type Kept struct {
	Source
	File string // in a folder of its own, which is made
	Mark string // stands beside the Snapshot; it tells the next process under which settings it came about
	Log  *slog.Logger
}

// keptFile is the form on disk.
type keptFile struct {
	Mark     string         `json:"mark"`
	Snapshot model.Snapshot `json:"snapshot"`
}

// Read gives what an earlier process has kept of the source of that name; fs.ErrNotExist when there is nothing.
func (k Kept) Read(source string) (s model.Snapshot, mark string, err error) {
	data, err := os.ReadFile(k.File)
	if err != nil {
		return s, "", err
	}
	var f keptFile
	if err := json.Unmarshal(data, &f); err != nil {
		return s, "", fmt.Errorf("read %s: %w", k.File, err)
	}
	if f.Snapshot.Source != source {
		return s, "", fmt.Errorf("read %s: it is of source %q, not of %q", k.File, f.Snapshot.Source, source)
	}
	return f.Snapshot, f.Mark, nil
}

// Remove deletes what is kept, and its folder when nothing else lies there.
func (k Kept) Remove() error {
	for _, name := range []string{k.File, filepath.Dir(k.File)} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
	}
	return nil
}

// Run runs the source and writes what it puts, the last of it before it returns.
func (k Kept) Run(ctx context.Context, to Sink) error {
	own := &keeper{Sink: to, wake: make(chan struct{}, 1)}
	ended := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { k.write(own, ended) })
	err := k.Source.Run(ctx, own)
	close(ended)
	writer.Wait()
	return err
}

// write writes what is put until ended, and then what is left.
func (k Kept) write(from *keeper, ended <-chan struct{}) {
	told := false
	for last := false; !last; {
		select {
		case <-from.wake:
		case <-ended:
			last = true
		}
		s, fresh := from.take()
		if !fresh {
			continue
		}
		begin := time.Now()
		err := k.save(s)
		switch {
		case err != nil && !told:
			k.Log.Warn("what the source says is not kept for the next start", "source", k.Name(), "error", err)
		case err == nil && told:
			k.Log.Info("what the source says is kept again", "source", k.Name())
		}
		told = err != nil
		if last {
			return
		}
		pause := max(keepPause, keepShare*time.Since(begin))
		if err != nil {
			from.again()
			pause = max(keepRetry, pause)
		}
		select {
		case <-time.After(pause):
		case <-ended:
		}
	}
}

func (k Kept) save(s model.Snapshot) error {
	data, err := json.Marshal(keptFile{k.Mark, s})
	if err != nil {
		return err
	}
	dir := filepath.Dir(k.File)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return renameio.WriteFile(k.File, data, 0o600, renameio.WithTempDir(dir), renameio.IgnoreUmask())
}

// keeper is the Sink that the source sees.
type keeper struct {
	Sink
	wake chan struct{}

	mu     sync.Mutex
	newest model.Snapshot
	fresh  bool
}

func (k *keeper) Put(s model.Snapshot) {
	k.mu.Lock()
	k.newest, k.fresh = s, true
	k.mu.Unlock()
	k.Sink.Put(s)
	select {
	case k.wake <- struct{}{}:
	default: // the writer has not looked yet, it will see this one
	}
}

// again has the newest taken once more.
func (k *keeper) again() {
	k.mu.Lock()
	k.fresh = true
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *keeper) take() (model.Snapshot, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fresh := k.fresh
	k.fresh = false
	return k.newest, fresh
}
