package runtime

import (
	"context"
	"errors"
	"fmt"
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

// SetMap replaces all entries of the map that the worker has loaded from the file of this name at once (management manual, "prepare map",
// "commit map"). Data is what a file would hold.
func (c *Client) SetMap(ctx context.Context, worker int, name string, data []byte) error {
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
