package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/model"
)

// puts is a source that puts what it is told to.
type puts struct{ say chan model.Snapshot }

func (puts) Name() string { return "puts" }

func (p puts) Run(ctx context.Context, to Sink) error {
	for {
		select {
		case s := <-p.say:
			to.Put(s)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

type nowhere struct{}

func (nowhere) Put(model.Snapshot) {}
func (nowhere) Down(error)         {}

func snapshotOf(n int) model.Snapshot {
	return model.Snapshot{Source: "puts", Offers: []model.Offer{{Owner: model.Owner{Source: "puts", Name: fmt.Sprint(n)}, Since: time.Unix(int64(n), 0).UTC()}}}
}

// TestKept: the newest Snapshot is on disk, also after a storm and at the end; what cannot be written is told once and holds up nobody.
func TestKept(t *testing.T) {
	var log bytes.Buffer
	file := filepath.Join(t.TempDir(), "sources", "puts.json")
	k := Kept{Source: puts{make(chan model.Snapshot)}, File: file, Mark: "m", Log: slog.New(slog.NewTextHandler(&log, nil))}
	if _, _, err := k.Read(k.Name()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before the first: %v", err)
	}
	run := func(f func(say chan<- model.Snapshot)) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- k.Run(ctx, nowhere{}) }()
		f(k.Source.(puts).say)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	is := func(n int) bool {
		s, mark, err := k.Read(k.Name())
		return err == nil && mark == "m" && len(s.Offers) == 1 && s.Offers[0].Owner.Name == fmt.Sprint(n) && s.Offers[0].Since.Equal(time.Unix(int64(n), 0))
	}
	run(func(say chan<- model.Snapshot) {
		say <- snapshotOf(1)
		for !is(1) {
			time.Sleep(time.Millisecond)
		}
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		for i := range 1000 {
			say <- snapshotOf(i)
		}
	})
	if !is(999) {
		t.Error("the last one is not there")
	}

	if err := errors.Join(os.RemoveAll(filepath.Dir(file)), os.WriteFile(filepath.Dir(file), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	run(func(say chan<- model.Snapshot) {
		for i := range 10 {
			say <- snapshotOf(i)
			time.Sleep(keepPause / 3)
		}
		if err := os.Remove(filepath.Dir(file)); err != nil {
			t.Error(err)
		}
		say <- snapshotOf(7)
	})
	if !is(7) || strings.Count(log.String(), "not kept") != 1 || strings.Count(log.String(), "kept again") != 1 {
		t.Errorf("log: %s", &log)
	}
	if err := errors.Join(k.Remove(), k.Remove()); err != nil {
		t.Error(err)
	}
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "{", `{"snapshot":{"source":"other"}}`} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := k.Read(k.Name()); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestKeptAgain: what could not be written is written when that is possible again, though nothing new is said.
func TestKeptAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sources", "puts.json")
	if err := os.WriteFile(filepath.Dir(file), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	log := make(lines, 10)
	k := Kept{Source: puts{make(chan model.Snapshot)}, File: file, Mark: "m", Log: slog.New(slog.NewTextHandler(log, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx, nowhere{}) }()
	k.Source.(puts).say <- snapshotOf(7)
	log.wait(t, "not kept")
	if err := os.Remove(filepath.Dir(file)); err != nil {
		t.Fatal(err)
	}
	log.wait(t, "kept again")
	if s, _, err := k.Read(k.Name()); err != nil || s.Offers[0].Owner.Name != "7" {
		t.Errorf("%+v, %v", s, err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// lines gets what is logged.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

func (l lines) wait(t *testing.T, part string) {
	t.Helper()
	select {
	case line := <-l:
		if !strings.Contains(line, part) {
			t.Fatalf("%q is in the log, wanted is %q", line, part)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("%q does not come", part)
	}
}
