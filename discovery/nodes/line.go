package nodes

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
)

// Line is a node outside of any store: one JSON object in a line, as `fnlb nodes export` writes it and `import` reads it. Weight and
// State are what somebody asked for. Fields may be added.
type Line struct {
	Node   string       `json:"node"` // canonical HOST:PORT
	Weight model.Weight `json:"weight"`
	State  model.Admin  `json:"state"`
	Since  time.Time    `json:"since,omitzero"` // when it was added; unknown for nodes of the original
}

// Export gives the nodes among a store's records, sorted by key, and what of them cannot be read.
func Export(records []store.Record) (lines []Line, unreadable []error) {
	for _, r := range records {
		written, ours := strings.CutPrefix(r.Key, Kind+"/")
		if !ours {
			continue
		}
		n, err := model.ParseNode(written)
		var kept record
		if err == nil {
			err = json.Unmarshal(r.Value, &kept)
		}
		if err != nil {
			unreadable = append(unreadable, fmt.Errorf("record %s: %w", model.Printable(r.Key), err))
			continue
		}
		lines = append(lines, Line{Node: n.String(), Weight: kept.Weight, State: kept.Admin, Since: kept.Since})
	}
	return lines, unreadable
}

// longest is how many bytes a line may have.
const longest = 4096

// Import reads lines until the end of from. An error names the line; nothing of a text with a wrong line is to be used.
func Import(from io.Reader) ([]Line, error) {
	text, err := io.ReadAll(io.LimitReader(from, Limit*longest))
	if err != nil {
		return nil, fmt.Errorf("read the nodes: %w", err)
	}
	var lines []Line
	number := 0
	for raw := range bytes.Lines(text) {
		number++
		raw = bytes.TrimSpace(raw)
		if len(raw) == 0 {
			continue
		}
		l, err := readLine(raw)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if lines = append(lines, l); len(lines) > Limit {
			return nil, fmt.Errorf("line %d: more than %d nodes, the most that are kept", number, Limit)
		}
	}
	return lines, nil
}

func readLine(raw []byte) (Line, error) {
	var l Line
	if len(raw) > longest {
		return l, fmt.Errorf("it has %d bytes; one node in a line has at most %d", len(raw), longest)
	}
	if err := json.Unmarshal(raw, &l); err != nil {
		return l, fmt.Errorf("it is no JSON object of a node: %s", model.Printable(err.Error()))
	}
	n, err := model.ParseNode(l.Node)
	if err != nil {
		return l, err
	}
	l.Node = n.String()
	return l, nil
}

// Edit puts the node into a store, in place of what that has of it.
func (l Line) Edit() store.Edit {
	return store.Edit{Key: keyOf(l.Node), Change: func([]byte) ([]byte, error) {
		return encode(record{Weight: l.Weight, Admin: l.State, Since: l.Since})
	}}
}
