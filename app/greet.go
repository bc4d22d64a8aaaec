package app

import (
	"context"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor"
)

// Times of the first screen.
const (
	greetAtMost  = 10 * time.Second // from the start: then it shows what there is
	greetChecks  = 3 * time.Second  // for first checks, once HAProxy serves
	greetEvery   = 50 * time.Millisecond
	greetSettled = 2 // looks in a row that find nothing under way
)

// terminal is what the first screen must know of where it is shown.
type terminal struct {
	width int // 0: it is none
	color bool
}

// terminalOf looks at standard error before the log's queue stands before it. Whoever sets NO_COLOR wants none (no-color.org).
func terminalOf(w io.Writer, env func(string) (string, bool)) terminal {
	f, ok := w.(*os.File)
	if !ok {
		return terminal{}
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return terminal{}
	}
	no, _ := env("NO_COLOR")
	kind, _ := env("TERM")
	t := terminal{width: int(size.Col), color: no == "" && kind != "" && kind != "dumb"}
	if t.width == 0 { // nobody has told the kernel
		t.width = screenWide
	}
	return t
}

// greets reports whether the first screen is wanted: it says what level info says.
func greets(s *config.Settings) bool { return s.FirstScreen && s.LogLevel <= slog.LevelInfo }

// moment is what greeting looks at.
type moment struct {
	sup *supervisor.Status
	col discovery.Status
}

// settled reports whether nothing is under way that a start brings with it: the State that is wanted is in force,
// also on disk, and every server was looked at.
func (m *moment) settled() bool {
	if !m.serves() || m.sup.Applied != m.col.Wanted || m.sup.HAProxy.Behind {
		return false
	}
	for i := range m.sup.Servers {
		s := &m.sup.Servers[i]
		if s.Health == model.Pending && (s.LastCheck == "" || s.LastCheck == model.PassedFirst) {
			return false
		}
	}
	return true
}

// serves reports whether HAProxy runs a State of the sources.
func (m *moment) serves() bool { return m.sup.Phase == model.Serving && m.col.Wanted > 0 }

// greet waits until the start has settled, but not for ever, and then shows it once. It shows nothing of a balancer that stops before.
func greet(ctx context.Context, look func() moment, show func()) {
	every := time.NewTicker(greetEvery)
	defer every.Stop()
	end := time.NewTimer(greetAtMost)
	defer end.Stop()
	var checks <-chan time.Time
	for settled := 0; settled < greetSettled; {
		select {
		case <-ctx.Done():
			return
		case <-checks:
			settled = greetSettled
		case <-end.C:
			settled = greetSettled
		case <-every.C:
			m := look()
			switch {
			case m.sup.Phase == model.Stopping:
				return
			case m.settled():
				settled++
				continue
			case m.serves() && checks == nil:
				checks = time.After(greetChecks)
			}
			settled = 0
		}
	}
	if ctx.Err() == nil {
		show()
	}
}

// greet shows what is served, where the log goes: whoever looks at that sees both in their order.
func (b *balancer) greet(ctx context.Context, out io.Writer, at terminal) {
	look := func() moment { return moment{b.supervisor.Status(), b.collector.Status()} }
	greet(ctx, look, func() {
		m := look()
		s := screen{
			status: (&report{b: b}).Status(), state: m.col.State, barred: m.sup.Barred,
			url: b.managementURL(m), docker: b.s.Docker, pools: b.s.Pools, noPort: b.s.Listen.Port == 0, width: at.width, color: at.color,
		}
		if at.width == 0 {
			s.width = screenWide
		}
		if _, err := io.WriteString(out, s.render()); err != nil {
			b.log.Warn("the first screen was not shown", "error", err)
		}
	})
}

// managementURL is where a curl on this host finds the management API; empty: only by the admin socket.
func (b *balancer) managementURL(m moment) string {
	if b.s.Management.Port == 0 {
		return ""
	}
	if !b.s.SharedPort() {
		return managementURL(b.s.Management, false)
	}
	for i := range m.col.State.Listeners {
		if l := &m.col.State.Listeners[i]; l.Management {
			return managementURL(l.Bind, l.TLS)
		}
	}
	return ""
}
