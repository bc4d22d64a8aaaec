package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/discovery"
	nodesource "github.com/fnlb/fnlb/discovery/nodes"
	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/haproxy/process"
	"github.com/fnlb/fnlb/haproxy/runtime"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/supervisor"
)

// oldestHAProxy is what is written for where nothing is known.
var oldestHAProxy = conf.Abilities{Version: "2.6", Major: 2, Minor: 6}

// filesOf says where the configuration lives.
func filesOf(s *config.Settings) supervisor.Files {
	f := supervisor.Files{Dir: s.RunDir, Config: s.HAProxyConfig, Single: s.HAProxyMaster != ""}
	if !f.Single {
		f.Worker, f.Peers = dirsOf(s).workerSocket(), dirsOf(s).peersSocket()
	}
	return f
}

// haproxy puts HAProxy as a process into the options.
func (b *balancer) haproxy(o *supervisor.Options, binary string, accessLog *os.File, render supervisor.Renderer) error {
	if b.s.HAProxyMaster != "" {
		return b.external(o, binary, render)
	}
	return b.child(o, binary, accessLog)
}

// child makes HAProxy a child of ours, or the one that an earlier fnlb left.
func (b *balancer) child(o *supervisor.Options, binary string, accessLog *os.File) error {
	client := runtime.New(b.dirs.masterSocket()).WithWorker(b.dirs.workerSocket())
	child := process.New(process.Options{
		Binary: binary, Files: []string{b.files.Config, b.files.Own()}, Socket: b.dirs.masterSocket(), Log: b.dirs.haproxyLog(), AccessLog: accessLog,
	}, client)
	o.Launch = supervisor.Launch{Binary: binary, AccessLog: b.s.AccessLog, User: b.worker.name}
	o.Process, o.Runtime, o.Checker = child, client, process.Checker{Binary: binary}
	o.Binds, o.Sharing = process.CheckBinds, new(process.Sharing).Look
	o.Listen = process.NewLines(b.dirs.haproxyLog(), b.log).Run
	o.Stopped = process.Stopped
	o.Continue = func(pid, master int) error { return process.Continue(pid, master, b.dirs.masterSocket()) }
	o.Reopen = func(master int) error { return process.Reopen(master, b.dirs.masterSocket()) }
	var err error
	o.Found, err = b.adopt(child, o.Launch)
	return err
}

// external takes the HAProxy of --haproxy-master, which somebody else starts. Where it has no configuration yet, it gets one.
func (b *balancer) external(o *supervisor.Options, binary string, render supervisor.Renderer) error {
	ext := process.NewExternal(b.s.HAProxyMaster, binary, b.log)
	o.External, o.Process, o.Runtime = true, ext, runtime.New(b.s.HAProxyMaster)
	o.Checker, o.Running, o.Unchecked = ext, ext.Running, ext.Unchecked
	o.Binds, o.Sharing = ext.CheckBinds, ext.Watcher()
	o.Stopped = func(int) bool { return false } // whoever starts it looks after its processes, which we may not even see
	o.Continue = func(pid, _ int) error { return fmt.Errorf("process %d is not ours to continue", pid) }
	o.Reopen = func(int) error { return nil }
	if exists(b.files.Config) {
		return nil
	}
	bundle, err := bootstrapBundle(&b.s, render, o.Abilities)
	if err == nil {
		err = b.files.Bootstrap(bundle)
	}
	if err != nil {
		return fmt.Errorf("first configuration: %w; correct --haproxy-config or --template", err)
	}
	return nil
}

// bootstrapBundle is what HAProxy needs before it is told of any server.
func bootstrapBundle(s *config.Settings, r supervisor.Renderer, a conf.Abilities) (conf.Bundle, error) {
	st, problems := model.Merge(offersOf(s))
	if len(problems) > 0 {
		return conf.Bundle{}, problems[0]
	}
	return r.Render(st, a)
}

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
	if b.s.AccessLog == "stdout" {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/3", found.Master))
		own, errOwn := os.Readlink("/proc/self/fd/1")
		if err == nil && errOwn == nil && theirs != own {
			b.log.Warn("HAProxy's access log still goes where the standard output of the fnlb went that started it; only a new HAProxy takes ours", "there", theirs, "ours", own)
		}
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
func (b *balancer) nodeSource(adopting bool) (discovery.Source, error) {
	o := nodesource.Options{
		Service: config.PoolService, Initial: b.s.Nodes, Policy: b.s.NodePolicy, Store: b.store, Incomplete: adopting, Now: time.Now, Log: b.log,
	}
	if b.s.DB.Kind() != store.Memory {
		b.nodes = nodesource.New(o)
		return b.nodes, nil
	}
	names := make([]string, len(b.s.Nodes))
	for i, n := range b.s.Nodes {
		names[i] = n.String()
	}
	kept := discovery.Kept{File: b.dirs.kept("nodes"), Mark: strings.Join(names, ","), Log: b.log}
	err := b.recall(adopting, kept, "nodes", func(snapshot model.Snapshot, mark string) {
		o.Earlier = &nodesource.Earlier{Snapshot: snapshot}
		for name := range strings.SplitSeq(mark, ",") {
			if n, err := model.ParseNode(name); err == nil { // else there was none
				o.Earlier.Initial = append(o.Earlier.Initial, n)
			}
		}
	})
	b.nodes = nodesource.New(o)
	kept.Source = b.nodes
	b.kept = append(b.kept, kept)
	return kept, err
}

// recall reads what an earlier process has kept of a source, when we go on with its HAProxy, and deletes it when we do not.
func (b *balancer) recall(adopting bool, kept discovery.Kept, source string, earlier func(s model.Snapshot, mark string)) error {
	if !adopting {
		if err := kept.Remove(); err != nil {
			return fmt.Errorf("run directory: %w; choose another with --run-dir", err)
		}
		return nil
	}
	snapshot, mark, err := kept.Read(source)
	switch {
	case err == nil:
		earlier(snapshot, mark)
	case !errors.Is(err, fs.ErrNotExist):
		b.log.Warn("what the earlier process had of a source is forgotten", "source", source, "error", err)
	}
	return nil
}
