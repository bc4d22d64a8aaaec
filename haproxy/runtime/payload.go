package runtime

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// MaxPayload is how many bytes one payload may have: a command with it must fit into HAProxy's buffer of 16 KiB.
const MaxPayload = 12 << 10

// SetCert replaces a certificate with its key, in PEM, that the worker has loaded from the file of this name (management manual, "set ssl
// cert"). Handshakes from now on get it. On a *ChangeError the worker goes on with the one that it has.
func (c *Client) SetCert(ctx context.Context, worker int, name string, pem []byte) error {
	if err := c.setCert(ctx, worker, name, pem); err != nil {
		if errors.As(err, new(*ChangeError)) { // the transaction stays open otherwise, and the next one would go on with it
			err = errors.Join(err, c.single(ctx, worker, isTransactionAborted, nil, "abort", "ssl", "cert", name))
		}
		return err
	}
	return nil
}

func (c *Client) setCert(ctx context.Context, worker int, name string, pem []byte) error {
	created := func(reply string) bool { return strings.HasPrefix(reply, "Transaction ") }
	if err := c.single(ctx, worker, created, pem, "set", "ssl", "cert", name); err != nil {
		return err
	}
	done := func(reply string) bool { return strings.HasSuffix(reply, "\nSuccess!") }
	return c.single(ctx, worker, done, nil, "commit", "ssl", "cert", name)
}

func isTransactionAborted(reply string) bool { return strings.HasPrefix(reply, "Transaction aborted") }

// fewEntries is up to how many entries of a map are changed one by one. That costs a command each, where the whole of 10,000 entries takes
// 70 payloads: some 50 ms in place of less than one (2.6, 3.0 and 3.2, measured).
const fewEntries = 200

// SetMap makes now the entries of the map that the worker has loaded from the file of this name; was are those that it has, nil where they
// are not known. Both are what a file would hold. A few are changed one by one, many all at once (management manual, "add map", "set map",
// "del map", "prepare map", "commit map"). On an error some may have been changed.
func (c *Client) SetMap(ctx context.Context, worker int, name string, was, now []byte) error {
	if changes, ok := mapChanges(name, was, now); ok {
		return c.Apply(ctx, worker, changes)
	}
	return c.replaceMap(ctx, worker, name, now)
}

// mapChanges gives the commands from some entries to others. It reports false where it is better to replace all: there are many, a key is
// there twice, so that their order counts, or one cannot be a word of a command.
func mapChanges(name string, was, now []byte) (out []Change, ok bool) {
	if was == nil {
		return nil, false
	}
	before, ok := byKey(was)
	after, ok2 := byKey(now)
	if !ok || !ok2 {
		return nil, false
	}
	var words [][]string
	for _, key := range slices.Sorted(maps.Keys(after)) {
		switch value, had := before[key]; {
		case !had:
			words = append(words, []string{"add", "map", name, key, after[key]})
		case value != after[key]:
			words = append(words, []string{"set", "map", name, key, after[key]})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if _, stays := after[key]; !stays {
			words = append(words, []string{"del", "map", name, key})
		}
	}
	if len(words) > fewEntries {
		return nil, false
	}
	for _, w := range words {
		ch, err := change(silence, w...)
		if err != nil || w[3][0] == '#' { // which would be a number of HAProxy's
			return nil, false
		}
		out = append(out, ch)
	}
	return out, true
}

// byKey gives the entries of a map's file by key; it reports false where one is there twice.
func byKey(data []byte) (map[string]string, bool) {
	out := map[string]string{}
	for _, entry := range MapEntries(data) {
		key, value, _ := strings.Cut(entry, " ")
		if _, twice := out[key]; twice {
			return nil, false
		}
		out[key] = value
	}
	return out, true
}

// replaceMap replaces all entries at once.
func (c *Client) replaceMap(ctx context.Context, worker int, name string, data []byte) error {
	version := ""
	created := func(reply string) (ok bool) {
		version, ok = strings.CutPrefix(reply, "New version created: ")
		_, err := strconv.ParseUint(version, 10, 32)
		return ok && err == nil
	}
	if err := c.single(ctx, worker, created, nil, "prepare", "map", name); err != nil {
		return err
	}
	silent := func(reply string) bool { return reply == "" }
	for _, part := range parts(data) {
		if err := c.single(ctx, worker, silent, part, "add", "map", "@"+version, name); err != nil {
			return err
		}
	}
	return c.single(ctx, worker, silent, nil, "commit", "map", "@"+version, name)
}

// Map gives the entries of the map that the worker has loaded from the file of this name, as KEY VALUE, in HAProxy's order.
func (c *Client) Map(ctx context.Context, worker int, name string) ([]string, error) {
	cmd, err := Cmd("show", "map", name)
	if err != nil {
		return nil, err
	}
	text, err := c.one(ctx, worker, cmd)
	if err != nil {
		return nil, err
	}
	return mapEntries(text)
}

// mapEntries reads a reply to show map: lines of ADDRESS KEY VALUE.
func mapEntries(text string) ([]string, error) {
	var out []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		at, entry, ok := strings.Cut(line, " ")
		if !ok || !strings.HasPrefix(at, "0x") {
			return nil, fmt.Errorf("no entry of a map: %s", clean(line))
		}
		out = append(out, entry)
	}
	return out, nil
}

// MapEntries gives the entries that a map's file has, as Map does.
func MapEntries(data []byte) []string {
	var out []string
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key := line[:strings.IndexAny(line+" ", " \t")]
		out = append(out, key+" "+strings.TrimLeft(line[len(key):], " \t"))
	}
	return out
}

// parts cuts the entries of a map into payloads. Comments and empty lines are HAProxy's to skip in a file, and ours here.
func parts(data []byte) [][]byte {
	var out [][]byte
	var part []byte
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if len(part)+len(line)+1 > MaxPayload/2 && len(part) > 0 {
			out, part = append(out, part), nil
		}
		part = append(append(part, line...), '\n')
	}
	if len(part) > 0 {
		out = append(out, part)
	}
	return out
}

// single gives one command to a worker, within 2 s, and judges its reply.
func (c *Client) single(ctx context.Context, worker int, ok func(reply string) bool, payload []byte, words ...string) error {
	cmd, err := Cmd(words...)
	if err != nil {
		return err
	}
	line := cmd.line
	if payload != nil {
		text, err := payloadText(payload)
		if err != nil {
			return fmt.Errorf("%s: %w", cmd, err)
		}
		line += " <<\n" + text
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	reply, err := c.ask(ctx, worker, Command{line})
	if err != nil {
		return fmt.Errorf("worker %d: %s: %w", worker, cmd, err)
	}
	if !ok(string(reply)) {
		return fmt.Errorf("worker %d: %w", worker, &ChangeError{Command: cmd.String(), Reply: clean(string(reply))})
	}
	return nil
}

// payloadText is a payload as it is written: lines, of which none is empty, because an empty one ends it.
func payloadText(payload []byte) (string, error) {
	var b strings.Builder
	for line := range strings.Lines(string(payload)) {
		line = strings.TrimRight(line, "\r\n")
		if strings.TrimSpace(line) == "" {
			continue
		}
		for i := range len(line) {
			if line[i] < ' ' && line[i] != '\t' || line[i] == 0x7f {
				return "", fmt.Errorf("byte %q in the payload", line[i])
			}
		}
		b.WriteString(line + "\n")
	}
	switch {
	case b.Len() == 0:
		return "", errors.New("empty payload")
	case b.Len() > MaxPayload:
		return "", fmt.Errorf("payload of %d bytes, at most %d fit", b.Len(), MaxPayload)
	}
	return b.String(), nil
}
