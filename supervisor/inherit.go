package supervisor

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/fnlb/fnlb/haproxy/conf"
)

// inherited is a HAProxy that an earlier fnlb left behind when it was killed. It serves on until ours does, then it is asked to
// finish; both accept on the same ports meanwhile, so no client notices.
type inherited struct {
	master int
	pids   []int
	text   conf.Text
	addrs  map[netip.AddrPort]bool // its servers: they are admitted, so that what serves goes on serving
	state  []byte                  // its `show servers state`
	files  map[string][]byte       // its configuration, as it was found
}

// restore puts its configuration back, after ours did not start.
func (in *inherited) restore() error {
	var errs []error
	for name, text := range in.files {
		errs = append(errs, ensure(name, text, 0o640))
	}
	return errors.Join(errs...)
}

// inheritLimit bounds the wait for a master that is there and does not answer.
const inheritLimit = 5 * time.Second

// inherit looks for such a HAProxy on our master socket, which lies in a folder that only we can write.
func (l *loop) inherit() {
	o := l.s.o
	ctx, cancel := context.WithTimeout(l.ctx, inheritLimit)
	defer cancel()
	procs, err := o.Runtime.Processes(ctx)
	for err != nil && ctx.Err() == nil && o.Alive(o.Files.lastMaster()) {
		// It is there, and silent: a master that reloads is away for a moment.
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
		procs, err = o.Runtime.Processes(ctx)
	}
	if err != nil || procs.Master.PID == 0 {
		return // nobody there
	}
	in := &inherited{master: procs.Master.PID, pids: pidsOf(procs), addrs: map[netip.AddrPort]bool{}, files: map[string][]byte{}}
	for _, name := range []string{o.Files.Config, o.Files.Own()} {
		if in.files[name], err = os.ReadFile(name); err != nil {
			o.Log.Warn("a file of the HAProxy that runs cannot be read", "error", err)
			delete(in.files, name)
		}
	}
	if in.text, err = conf.Parse(in.files[o.Files.Config]); err != nil {
		o.Log.Warn("the text of the HAProxy that runs cannot be read", "error", err)
	}
	for _, s := range in.text.Servers() {
		if s.Addr.IsValid() {
			in.addrs[s.Addr] = true
		}
	}
	if workers := slices.Concat(procs.Workers, procs.Old); len(workers) > 0 { // 3.2 calls it old after a failed reload
		if in.state, _, err = o.Runtime.ServersState(ctx, workers[0].PID); err != nil {
			o.Log.Warn("health is not taken over", "error", err)
		}
	}
	l.inherited = in
	o.Log.Info("taking over from a HAProxy that an earlier fnlb left", "master", in.master, "servers", len(in.addrs))
}

// retire asks the HAProxy that was taken over from to finish what it has.
func (l *loop) retire() {
	in := l.inherited
	if in == nil {
		return
	}
	l.inherited = nil
	l.retired = append(l.retired, in.master)
	if err := l.s.o.Retire(in.master); err != nil {
		l.s.o.Log.Error("the HAProxy that was taken over from was not told to stop", "master", in.master, "error", err)
	}
}
