package app

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/discovery"
	nodesource "github.com/fnlb/fnlb/discovery/nodes"
	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor"
)

// adopt takes charge of the HAProxy that an earlier fnlb left on this run directory, where there is one. One that this fnlb would have
// started otherwise is left alone, and is an error that says what to do.
func (b *balancer) adopt(child *process.Child, launch supervisor.Launch) (*process.Identity, error) {
	found, err := child.Adopt()
	var other *process.OtherArgs
	if errors.As(err, &other) {
		if other.Config() != "" && other.Config() != b.files.Config {
			return nil, unlike(other.Master, "--haproxy-config", other.Config(), b.files.Config)
		}
		return nil, fmt.Errorf("%w; it serves on, untouched; end it with kill -USR1 %d (running requests finish) and start again", err, other.Master)
	}
	if err != nil || found == nil {
		return nil, err
	}
	noted, err := b.files.Noted()
	if err != nil || noted.Master != found.Master || noted.Ticks != found.Ticks {
		return found, nil //nolint:nilerr // what was noted is not about this one: the supervisor makes it load our text again
	}
	var errs []error
	for _, f := range []struct{ flag, was, is string }{
		{"--haproxy", noted.Binary, launch.Binary}, {"--access-log", noted.AccessLog, launch.AccessLog}, {"--haproxy-user", noted.User, launch.User},
	} {
		if f.was != f.is {
			errs = append(errs, unlike(found.Master, f.flag, f.was, f.is))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return found, nil
}

// unlike says how a HAProxy that runs differs from what is asked for, and the two ways out.
func unlike(master int, flag, was, is string) error {
	want := strings.TrimSpace(flag + " " + was)
	return fmt.Errorf("adopt: process %d is the HAProxy that an earlier fnlb left on this run directory, and it was started with %q for %s, not with %q; it serves on, untouched; start fnlb with %s to go on with it, or end it with kill -USR1 %d (running requests finish) and start again",
		master, was, flag, is, want, master)
}

// nodeSource makes the source of nodes. What only memory had is read back when we go on with the HAProxy that shows it, and
// forgotten when none runs.
func (b *balancer) nodeSource(adopting bool) (*nodesource.Source, discovery.Kept, error) {
	o := nodesource.Options{Service: config.PoolService, Initial: b.s.Nodes, Policy: b.s.NodePolicy, Now: time.Now}
	names := make([]string, len(b.s.Nodes))
	for i, n := range b.s.Nodes {
		names[i] = n.String()
	}
	nodes := nodesource.New(o)
	kept := discovery.Kept{Source: nodes, File: b.dirs.keptNodes(), Mark: strings.Join(names, ","), Log: b.log}
	if !adopting {
		err := kept.Remove()
		if err != nil {
			err = fmt.Errorf("run directory: %w; choose another with --run-dir", err)
		}
		return nodes, kept, err
	}
	snapshot, mark, err := kept.Read()
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			b.log.Warn("nodes that were added by the API are forgotten", "error", err)
		}
		return nodes, kept, nil
	}
	o.Earlier = &nodesource.Earlier{Snapshot: snapshot}
	for name := range strings.SplitSeq(mark, ",") {
		if n, err := model.ParseNode(name); err == nil { // else there was none
			o.Earlier.Initial = append(o.Earlier.Initial, n)
		}
	}
	nodes = nodesource.New(o)
	kept.Source = nodes
	return nodes, kept, nil
}
