package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Process is one process of HAProxy as its master lists it.
type Process struct {
	PID     int
	Reloads int    // for a worker, how many reloads it has seen
	Uptime  string // such as 0d00h00m01s
	Version string
}

// Processes is the reply to `show proc`.
type Processes struct {
	Master  Process
	Reloads int       // reloads of the master, failed ones among them
	Failed  int       // reloads that failed since the last success
	Workers []Process // current
	Old     []Process // end with their last connection; on 3.2 the serving worker stands here after a failed reload
}

// Processes asks the master for its processes, within 2 s.
func (c *Client) Processes(ctx context.Context) (Processes, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	text, err := c.master(ctx, showProc)
	if err != nil {
		return Processes{}, err
	}
	p, err := parseProcesses(text)
	if err != nil {
		return Processes{}, fmt.Errorf("master: show proc: %w", err)
	}
	return p, nil
}

// parseProcesses reads rows such as
//
//	26976           master          0 [failed: 0]   0d00h00m01s     2.6.12-1+deb12u3
//
// below the headings "# workers" and "# old workers"; rows below other headings are not ours.
func parseProcesses(text string) (Processes, error) {
	if !strings.HasSuffix(text, "\n\n") {
		return Processes{}, ErrCut
	}
	var p Processes
	var heading string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			heading = strings.TrimSpace(line)
			continue
		}
		if strings.TrimSpace(line) == "" {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 4 {
			return Processes{}, fmt.Errorf("row %q has too few columns", clean(line))
		}
		pid, errPID := strconv.Atoi(fields[0])
		reloads, errReloads := strconv.Atoi(fields[2])
		if errPID != nil || errReloads != nil || pid <= 0 {
			return Processes{}, fmt.Errorf("row %q has no pid or no number of reloads", clean(line))
		}
		rest := fields[3:]
		if fields[1] == "master" {
			failed, after, err := failures(rest)
			if err != nil {
				return Processes{}, fmt.Errorf("row %q: %w", clean(line), err)
			}
			rest, p.Failed, p.Reloads = after, failed, reloads
		}
		row := Process{PID: pid, Reloads: reloads, Uptime: rest[0], Version: strings.Join(rest[1:], " ")}
		switch {
		case fields[1] == "master":
			p.Master = row
		case fields[1] == "worker" && heading == "# workers":
			p.Workers = append(p.Workers, row)
		case fields[1] == "worker" && heading == "# old workers":
			p.Old = append(p.Old, row)
		}
	}
	if p.Master.PID == 0 {
		return Processes{}, errors.New("no master in it")
	}
	return p, nil
}

// failures cuts "[failed: N]" off the front of a master's columns.
func failures(cols []string) (failed int, rest []string, err error) {
	if len(cols) < 3 || cols[0] != "[failed:" {
		return 0, nil, errors.New("no number of failed reloads")
	}
	failed, err = strconv.Atoi(strings.TrimSuffix(cols[1], "]"))
	return failed, cols[2:], err
}

// serving names the worker that takes new connections, and the revision that it says it has loaded ("" when it has none).
func (c *Client) serving(ctx context.Context, try *attempts) (p Processes, worker int, revision string, err error) {
	ctx, cancel := try.next(ctx)
	defer cancel()
	p, err = c.Processes(ctx)
	if err != nil {
		return p, 0, "", err
	}
	worker, err = c.current(ctx, p)
	if err != nil {
		return p, 0, "", err
	}
	text, err := c.one(ctx, worker, showLoaded)
	if err != nil {
		return p, 0, "", err
	}
	revision, _ = strings.CutPrefix(text, revisionVariable+"=")
	if revision == text {
		revision = ""
	}
	return p, worker, revision, nil
}

// current picks the youngest worker. When all are listed as old (3.2 after a failed reload), it is the youngest that is not on
// its way out.
func (c *Client) current(ctx context.Context, p Processes) (int, error) {
	age := func(a, b Process) int { return a.Reloads - b.Reloads }
	if len(p.Workers) > 0 {
		return slices.MinFunc(p.Workers, age).PID, nil
	}
	for _, old := range slices.SortedStableFunc(slices.Values(p.Old), age) {
		info, err := c.Info(ctx, old.PID)
		switch {
		case errors.Is(err, ErrNoWorker):
		case err != nil:
			return 0, err
		case !info.Stopping:
			return old.PID, nil
		}
	}
	return 0, fmt.Errorf("master %d: %w", p.Master.PID, ErrNoWorker)
}
