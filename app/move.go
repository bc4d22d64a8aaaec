package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fnlb/fnlb/config"
	nodesource "github.com/fnlb/fnlb/discovery/nodes"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
)

// moveTime bounds the wait for a database, and moveCalls is how many nodes are written at once, which the store makes into few transactions.
const (
	moveTime  = 10 * time.Second
	moveCalls = 64
)

// exportNodes writes the nodes of the database that --db names, or of the running balancer without it, as JSON lines.
func (c *call) exportNodes() error {
	lines, err := c.linesOf()
	if err != nil {
		return err
	}
	out := json.NewEncoder(c.Stdout)
	for _, l := range lines {
		if err := out.Encode(l); err != nil {
			return err
		}
	}
	return nil
}

func (c *call) linesOf() ([]nodesource.Line, error) {
	if c.settings.DB.Kind() == store.Memory {
		return c.askLines()
	}
	var lines []nodesource.Line
	err := c.withStore(func(_ context.Context, _ *store.Mirror, v *store.View) error {
		var unreadable []error
		if lines, unreadable = nodesource.Export(v.Records()); len(unreadable) > 0 {
			return fmt.Errorf("export: %w", errors.Join(unreadable...))
		}
		return nil
	})
	return lines, err
}

// askLines asks the running balancer, which may have its nodes nowhere else.
func (c *call) askLines() ([]nodesource.Line, error) {
	_, data, err := c.askNodes()
	if err != nil {
		return nil, err
	}
	var list struct {
		Nodes []nodesource.Line `json:"nodes"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("read the balancer's answer: %w", err)
	}
	for i := range list.Nodes {
		list.Nodes[i].Since = time.Time{} // there it is that of the health
	}
	return list.Nodes, nil
}

// importNodes reads JSON lines, from a file or from standard input, into the database that --db names, or the running balancer without it.
// All lines are judged before the first is written.
func (c *call) importNodes(args []string) error {
	from, err := c.input(args)
	if err != nil {
		return err
	}
	lines, err := nodesource.Import(from)
	if err = errors.Join(err, from.Close()); err != nil {
		return fmt.Errorf("import: %w; nothing was changed", err)
	}
	if c.settings.DB.Kind() == store.Memory {
		err = c.putLines(lines)
	} else {
		err = c.storeLines(lines)
	}
	if err != nil {
		return err
	}
	if c.json {
		return json.NewEncoder(c.Stdout).Encode(map[string]int{"imported": len(lines)})
	}
	_, err = fmt.Fprintf(c.Stdout, "%d nodes\n", len(lines))
	return err
}

func (c *call) input(args []string) (io.ReadCloser, error) {
	if len(args) == 0 || args[0] == "-" {
		return io.NopCloser(os.Stdin), nil
	}
	f, err := os.Open(args[0])
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	return f, nil
}

func (c *call) putLines(lines []nodesource.Line) error {
	for _, l := range lines {
		status, data, err := c.ask(http.MethodPut, "/1/lb/nodes", map[string]any{"node": l.Node, "weight": l.Weight, "state": l.State})
		if err == nil && status != http.StatusOK {
			err = answered(status, data)
		}
		if err != nil {
			return fmt.Errorf("import %s: %w", l.Node, err)
		}
	}
	return nil
}

func (c *call) storeLines(lines []nodesource.Line) error {
	return c.withStore(func(ctx context.Context, m *store.Mirror, _ *store.View) error {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(moveCalls)
		for _, l := range lines {
			g.Go(func() error {
				e := l.Edit()
				if err := m.Update(ctx, e.Key, e.Change); err != nil {
					return fmt.Errorf("import %s: %w", l.Node, err)
				}
				return nil
			})
		}
		return g.Wait()
	})
}

// withStore runs do while the database of --db is open.
func (c *call) withStore(do func(context.Context, *store.Mirror, *store.View) error) error {
	o, err := c.storeOptions(c.settings.DB, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := store.New(o)
	v := m.Follow(nodesource.Kind)
	var running sync.WaitGroup
	ended := make(chan error, 1)
	running.Go(func() { ended <- m.Run(ctx) })
	defer running.Wait()
	defer cancel()
	limit := time.NewTimer(moveTime)
	defer limit.Stop()
	for {
		loaded, away := m.Standing()
		if loaded {
			return do(ctx, m, v)
		}
		if away != nil {
			return fmt.Errorf("%s: %s", c.settings.DB, model.Printable(away.Error())) // a driver may use several lines
		}
		select {
		case <-v.Changed():
		case err := <-ended:
			return fmt.Errorf("%s: %w", c.settings.DB, err)
		case <-limit.C:
			return fmt.Errorf("%s did not answer within %s", c.settings.DB, moveTime)
		}
	}
}

// importUse is how import is called.
func importUse(args []string) error {
	if len(args) > 1 || len(args) == 1 && strings.HasPrefix(args[0], "-") && args[0] != "-" {
		return &config.UsageError{Reason: "import takes one file, or none for standard input", Hint: "fnlb nodes import FILE"}
	}
	return nil
}
