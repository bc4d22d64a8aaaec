package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

// copyPause is how long the copy stays behind at most.
const copyPause = time.Second

// copied is the form on disk.
type copied struct {
	Of      string         `json:"of"` // the database, without secrets
	Records []copiedRecord `json:"records"`
}

type copiedRecord struct {
	Key   string `json:"key"`
	Value string `json:"value"` // a string, so that each byte of it comes back
}

// Restore reads the copy, so that the records of the last time are there before the database answers. A missing one is no error, one of
// another database is left alone; a damaged one is an error, and is kept beside with the ending .damaged. Call it before Run.
func (m *Mirror) Restore() error {
	if m.o.Copy == "" {
		return nil
	}
	text, err := os.ReadFile(m.o.Copy)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the copy of the database: %w", err)
	}
	of, records, err := readCopy(text)
	if err != nil {
		aside := m.o.Copy + ".damaged"
		return errors.Join(fmt.Errorf("read the copy of the database %s: %w; it is kept as %s", m.o.Copy, err, aside), os.Rename(m.o.Copy, aside))
	}
	if of != m.o.Name {
		m.o.Log.Info("the copy is of another database and is not used", "copy", m.o.Copy, "of", of, "database", m.o.Name)
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.publish(records)
	return nil
}

func readCopy(text []byte) (of string, records []Record, err error) {
	var c copied
	if err := json.Unmarshal(text, &c); err != nil {
		return "", nil, err
	}
	for _, r := range c.Records {
		if err := CheckKey(r.Key); err != nil {
			return "", nil, err
		}
		if err := checkValue(r.Key, []byte(r.Value)); err != nil {
			return "", nil, err
		}
		records = append(records, Record{r.Key, []byte(r.Value)})
	}
	slices.SortFunc(records, func(a, b Record) int { return strings.Compare(a.Key, b.Key) })
	for i := 1; i < len(records); i++ {
		if records[i].Key == records[i-1].Key {
			return "", nil, &Refused{records[i].Key, "it is there twice"}
		}
	}
	return c.Of, records, nil
}

// keepCopy writes the records when they have changed, the last of them before it returns.
func (m *Mirror) keepCopy(ctx context.Context) {
	if m.o.Copy == "" {
		return
	}
	told := false
	for last := false; !last; {
		select {
		case <-m.copy:
		case <-ctx.Done():
			last = true
			select {
			case <-m.copy:
			default:
				return
			}
		}
		err := m.writeCopy()
		switch {
		case err != nil && !told:
			m.o.Log.Warn("the database is not copied for the next start", "copy", m.o.Copy, "error", err)
		case err == nil && told:
			m.o.Log.Info("the database is copied again", "copy", m.o.Copy)
		}
		if told = err != nil; told {
			signal(m.copy)
		}
		rest(ctx, copyPause)
	}
}

func (m *Mirror) writeCopy() error {
	m.mu.Lock()
	m.order()
	c := copied{Of: m.o.Name, Records: make([]copiedRecord, len(m.records))}
	records := m.records
	m.mu.Unlock()
	for i, r := range records {
		c.Records[i] = copiedRecord{r.Key, string(r.Value)}
	}
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return renameio.WriteFile(m.o.Copy, text, 0o600, renameio.WithTempDir(filepath.Dir(m.o.Copy)), renameio.IgnoreUmask())
}
