package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	callLimit = 2 * time.Second // for one call, where the context does not end sooner
	maxReply  = 64 << 20        // bytes; 10,000 servers give 3 MB
)

var (
	// ErrNoWorker says that the master has no process of that pid.
	ErrNoWorker = errors.New("no such worker")
	// ErrCut says that the connection ended before the reply did.
	ErrCut = errors.New("reply cut off")
)

// Client speaks to one master socket. It holds no connection, and may be used by many goroutines at once.
type Client struct {
	socket string
	worker string // socket of the worker itself; "" none is known
}

// New makes a client for the master socket at this path. Whether there is one shows with the first call.
func New(socket string) *Client { return &Client{socket: socket} }

// Reply is what HAProxy answers to one command, without the empty line that ends it: "" is most commands' success.
type Reply string

// Do sends the commands to the worker with this pid, each on a connection of its own, so that no reply can be taken for
// another's. It ends after 2 s in all, or sooner with ctx. With an error, the replies so far come with it: what follows them may
// have been done or not. ErrNoWorker and ErrCut can be told apart by errors.Is.
func (c *Client) Do(ctx context.Context, worker int, cmds ...Command) ([]Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	replies := make([]Reply, 0, len(cmds))
	for _, cmd := range cmds {
		reply, err := c.ask(ctx, worker, cmd)
		if err != nil {
			return replies, fmt.Errorf("worker %d: %s: %w", worker, cmd, err)
		}
		replies = append(replies, reply)
	}
	return replies, nil
}

// one is Do for a single command.
func (c *Client) one(ctx context.Context, worker int, cmd Command) (string, error) {
	replies, err := c.Do(ctx, worker, cmd)
	if err != nil {
		return "", err
	}
	return string(replies[0]), nil
}

// ask sends one command to a worker, until ctx ends.
//
// It begins with a command to the master, for the end of our direction has to be there before the master looks for the worker: 3.0 and
// 3.2 keep a connection for ever that named an unknown pid and had not been closed yet, and with 10 of these the master socket
// answers nobody any more, until a signal makes it reload.
func (c *Client) ask(ctx context.Context, worker int, cmd Command) (Reply, error) {
	if cmd.line == "" {
		return "", errors.New("empty command")
	}
	if worker <= 0 { // "@!0" would be somebody else
		return "", ErrNoWorker
	}
	text, err := c.exchange(ctx, showVersion.line+"\n@!"+strconv.Itoa(worker)+" "+cmd.line)
	if err != nil {
		return "", err
	}
	version, text, ok := strings.Cut(text, "\n\n")
	switch {
	case !ok || strings.Contains(version, "\n"):
		return "", ErrCut
	case strings.HasPrefix(text, "Can't find the target PID matching the prefix"):
		return "", ErrNoWorker
	case text != "\n" && !strings.HasSuffix(text, "\n\n"):
		return "", ErrCut
	}
	return Reply(strings.TrimRight(text, "\n")), nil
}

// master sends one command to the master itself, until ctx ends.
func (c *Client) master(ctx context.Context, cmd Command) (string, error) {
	text, err := c.exchange(ctx, cmd.line)
	if err != nil {
		return "", fmt.Errorf("master: %s: %w", cmd, err)
	}
	return text, nil
}

// exchange writes what ends with this line, closes its own direction (2.6 would wait for more otherwise) and reads to the end.
func (c *Client) exchange(ctx context.Context, line string) (string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return "", err
	}
	var errWake error
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		errWake = conn.SetDeadline(time.Unix(1, 0)) // wakes what reads or writes
	})
	text, err := transfer(conn, line)
	if !stop() {
		<-ended
		if err != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), errors.Join(err, errWake))
		}
	}
	if errClose := conn.Close(); err == nil {
		err = errClose
	}
	return text, err
}

func transfer(conn net.Conn, line string) (string, error) {
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return "", err
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			return "", err
		}
	}
	text, err := io.ReadAll(io.LimitReader(conn, maxReply+1))
	switch {
	case err != nil:
		return "", err
	case len(text) > maxReply:
		return "", errTooLarge
	}
	return string(text), nil
}
