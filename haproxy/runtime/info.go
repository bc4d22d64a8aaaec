package runtime

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Info is what a worker says of itself.
type Info struct {
	PID       int
	MaxConn   int // connections that it takes at once
	CurrConns int
	Version   string
	UlimitN   int  // limit on open files
	Stopping  bool // takes no new connections, ends with its last one
}

// Info asks a worker for `show info`, within 2 s.
func (c *Client) Info(ctx context.Context, worker int) (Info, error) {
	text, err := c.one(ctx, worker, showInfo)
	if err != nil {
		return Info{}, err
	}
	info, err := parseInfo(text)
	if err != nil {
		return Info{}, fmt.Errorf("worker %d: %s: %w", worker, showInfo, err)
	}
	return info, nil
}

// parseInfo reads lines such as "Maxconn: 9977". All that Info holds must be there.
func parseInfo(text string) (Info, error) {
	var info Info
	var stopping int
	numbers := map[string]*int{
		"Pid": &info.PID, "Maxconn": &info.MaxConn, "CurrConns": &info.CurrConns, "Ulimit-n": &info.UlimitN, "Stopping": &stopping,
	}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if key == "Version" {
			info.Version = clean(value)
		}
		to := numbers[key]
		if to == nil {
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			return Info{}, fmt.Errorf("%s: %w", key, err)
		}
		*to = n
		delete(numbers, key)
	}
	if len(numbers) > 0 || info.Version == "" {
		return Info{}, errors.New("not all expected lines are in it")
	}
	info.Stopping = stopping != 0
	return info, nil
}
