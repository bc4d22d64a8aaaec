package runtime

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// manyChanges is from how many on changes go to the worker's own socket. The master makes a connection to the worker for each command,
// which takes 0.13 to 0.2 ms; without it, three commands for each of 1,000 servers take less than 0.1 s in all.
const manyChanges = 30

// prompt ends each reply of an interactive connection.
const prompt = "\n> "

// WithWorker gives the client the socket of the worker itself, as `stats socket` of level admin. It is used for rows of changes alone, and
// only where the worker that answers there is the one that is meant; else they go through the master.
func (c *Client) WithWorker(socket string) *Client {
	return &Client{socket: c.socket, worker: socket}
}

// session is an interactive connection to a worker, whose pid was asked for on this very connection.
type session struct {
	conn net.Conn
	in   *bufio.Reader
}

// session connects to the worker with this pid.
func (c *Client) session(ctx context.Context, worker int) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.worker)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, in: bufio.NewReader(conn)}
	err = s.within(ctx, func() error {
		if _, err := io.WriteString(conn, "prompt\n"+showInfo.line+"\n"); err != nil {
			return err
		}
		if greeting, err := s.reply(); err != nil || greeting != "" {
			return errors.Join(fmt.Errorf("no prompt but %q", clean(greeting)), err)
		}
		info, err := s.reply()
		if err != nil {
			return err
		}
		if !strings.Contains("\n"+info+"\n", "\nPid: "+strconv.Itoa(worker)+"\n") {
			return ErrNoWorker
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("worker %d at its own socket: %w", worker, err), s.conn.Close())
	}
	return s, nil
}

// within bounds an exchange by its context.
func (s *session) within(ctx context.Context, do func() error) error {
	var errWake error
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		errWake = s.conn.SetDeadline(time.Unix(1, 0)) // wakes what reads or writes
	})
	err := do()
	if !stop() {
		<-ended
		err = fmt.Errorf("%w: %w", context.Cause(ctx), errors.Join(err, errWake))
	}
	return err
}

// reply reads one reply, without the empty line that ends it.
func (s *session) reply() (string, error) {
	var text []byte
	for {
		part, err := s.in.ReadSlice(' ')
		text = append(text, part...)
		switch {
		case bytes.HasSuffix(text, []byte(prompt)):
			return strings.TrimRight(string(text[:len(text)-len(prompt)]), "\n"), nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return "", ErrCut
		case err != nil:
			return "", err
		}
		if len(text) > maxReply {
			return "", errTooLarge
		}
	}
}

// apply makes some changes, and stops at the first that is refused: those after it may have been made.
func (s *session) apply(ctx context.Context, changes []Change) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return s.within(ctx, func() error {
		var lines strings.Builder
		for _, ch := range changes {
			if ch.line == "" {
				return errors.New("empty command")
			}
			lines.WriteString(ch.line + "\n")
		}
		if _, err := io.WriteString(s.conn, lines.String()); err != nil {
			return err
		}
		for _, ch := range changes {
			reply, err := s.reply()
			if err != nil {
				return fmt.Errorf("%s: %w", ch, err)
			}
			if !ch.ok(reply) {
				return &ChangeError{Command: ch.String(), Reply: clean(reply)}
			}
		}
		return nil
	})
}
