package runtime

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// perExchange is how many commands go over one connection: one by one each costs a connection, and a reply must stay small.
const perExchange = 200

// Change is a command, and which replies are its success.
type Change struct {
	Command
	ok func(reply string) bool
}

// The replies that mean success, the same in 2.6, 3.0 and 3.2 (tried).
func registered(reply string) bool { return reply == "New server registered." }
func silence(reply string) bool    { return reply == "" }

// AddServer makes a server in maintenance, with its checks off. The options are those of `add server` (management manual).
func AddServer(backend, server, address string, options ...string) (Change, error) {
	return change(registered, append([]string{"add", "server", backend + "/" + server, address}, options...)...)
}

// EnableHealth switches a server's checks on.
func EnableHealth(backend, server string) (Change, error) {
	return change(silence, "enable", "health", backend+"/"+server)
}

// Ready lets a server take requests; it counts as up until a check says otherwise.
func Ready(backend, server string) (Change, error) {
	return change(silence, "set", "server", backend+"/"+server, "state", "ready")
}

// Maint takes a server out at once: requests that run there finish.
func Maint(backend, server string) (Change, error) {
	return change(silence, "set", "server", backend+"/"+server, "state", "maint")
}

// SetWeight sets a server's weight, 0 to 256.
func SetWeight(backend, server, weight string) (Change, error) {
	return change(silence, "set", "server", backend+"/"+server, "weight", weight)
}

// SetMaxConn sets how many requests a server takes at a time, 0 for no limit.
func SetMaxConn(backend, server, n string) (Change, error) {
	return change(silence, "set", "maxconn", "server", backend+"/"+server, n)
}

// SetAddr gives a server another address. What runs at the old one finishes; where the hash goes by addresses, the server's place on the
// ring follows (3.0 and 3.2, tried). HAProxy keeps what the checks found at the old address.
func SetAddr(backend, server string, to netip.AddrPort) (Change, error) {
	ip, port := to.Addr().Unmap().String(), strconv.Itoa(int(to.Port()))
	// "IP changed from 'A' to 'B', port changed from 'P' to 'Q' by 'stats socket command'"; of what stays, 2.6 says "no need to change
	// the addr" or "… the port", and later ones nothing.
	done := func(reply string) bool {
		return strings.Contains(reply, "changed from '") && (!strings.Contains(reply, "IP changed from") || strings.Contains(reply, " to '"+ip+"'")) &&
			(!strings.Contains(reply, "port changed from") || strings.Contains(reply, " to '"+port+"'"))
	}
	return change(done, "set", "server", backend+"/"+server, "addr", ip, "port", port)
}

// HealthUp lets a server count as up until its checks say otherwise.
func HealthUp(backend, server string) (Change, error) {
	return change(silence, "set", "server", backend+"/"+server, "health", "up")
}

func change(ok func(reply string) bool, words ...string) (Change, error) {
	cmd, err := Cmd(words...)
	return Change{cmd, ok}, err
}

// ShutdownSessions cuts all connections of clients that a server serves.
func ShutdownSessions(backend, server string) (Change, error) {
	return change(silence, "shutdown", "sessions", "server", backend+"/"+server)
}

// ChangeError says that HAProxy did not do what it was asked for.
type ChangeError struct {
	Command string
	Reply   string // printable
}

func (e *ChangeError) Error() string { return fmt.Sprintf("%s: %s", e.Command, e.Reply) }

// Apply makes the changes one after another in the worker with this pid, and stops with the exchange in which one is refused. A
// *ChangeError names the first that was refused; with it and with any other error, some of the changes may have been made.
func (c *Client) Apply(ctx context.Context, worker int, changes []Change) (err error) {
	some := func(ctx context.Context, changes []Change) error { return c.applySome(ctx, worker, changes) }
	if c.worker != "" && len(changes) >= manyChanges {
		s, errSession := c.session(ctx, worker)
		if errSession == nil {
			some = s.apply
			defer func() { err = errors.Join(err, s.conn.Close()) }()
		} else { // nothing was changed: the master knows better
			defer func() {
				if err != nil {
					err = errors.Join(err, errSession)
				}
			}()
		}
	}
	for len(changes) > 0 {
		n := min(len(changes), perExchange)
		if err := some(ctx, changes[:n]); err != nil {
			return fmt.Errorf("worker %d: %w", worker, err)
		}
		changes = changes[n:]
	}
	return nil
}

func (c *Client) applySome(ctx context.Context, worker int, changes []Change) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if worker <= 0 {
		return ErrNoWorker
	}
	lines := make([]string, 0, len(changes)+1)
	lines = append(lines, showVersion.line) // see ask
	for _, ch := range changes {
		if ch.line == "" {
			return errors.New("empty command")
		}
		lines = append(lines, "@!"+strconv.Itoa(worker)+" "+ch.line)
	}
	text, err := c.exchange(ctx, strings.Join(lines, "\n"))
	if err != nil {
		return err
	}
	_, text, ok := strings.Cut(text, "\n\n")
	if !ok {
		return ErrCut
	}
	for _, ch := range changes {
		reply, rest, err := nextReply(text)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", ch, err)
		case strings.HasPrefix(reply, "Can't find the target PID matching the prefix"):
			return ErrNoWorker
		case !ch.ok(reply):
			return &ChangeError{Command: ch.String(), Reply: clean(reply)}
		}
		text = rest
	}
	return nil
}

// nextReply cuts one reply off: lines up to the first empty one.
func nextReply(text string) (reply, rest string, err error) {
	if rest, ok := strings.CutPrefix(text, "\n"); ok {
		return "", rest, nil
	}
	reply, rest, ok := strings.Cut(text, "\n\n")
	if !ok {
		return "", "", ErrCut
	}
	return reply, rest, nil
}

// DelServer deletes a server that is in maintenance. It reports false while the server still has connections, or one in the pool.
func (c *Client) DelServer(ctx context.Context, worker int, backend, server string) (bool, error) {
	cmd, err := Cmd("del", "server", backend+"/"+server)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	text, err := c.exchange(ctx, showVersion.line+"\n@!"+strconv.Itoa(worker)+" "+cmd.line)
	if err != nil {
		return false, fmt.Errorf("worker %d: %s: %w", worker, cmd, err)
	}
	_, text, _ = strings.Cut(text, "\n\n")
	switch reply := strings.TrimSpace(text); { // 2.6 ends this reply with one newline
	case reply == "Server deleted.", reply == "No such server.":
		return true, nil
	case strings.HasPrefix(reply, "Server still has connections attached to it"):
		return false, nil
	default:
		return false, fmt.Errorf("worker %d: %w", worker, &ChangeError{Command: cmd.String(), Reply: clean(reply)})
	}
}
