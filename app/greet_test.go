package app

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor"
)

// looks gives a moment for each time since the start: the last one whose time has come.
type looks []struct {
	at time.Duration
	moment
}

func (l looks) look(begin time.Time) moment {
	m := l[0].moment
	for _, next := range l {
		if time.Since(begin) >= next.at {
			m = next.moment
		}
	}
	return m
}

func at(phase model.Phase, wanted, applied uint64, servers ...model.ServerStatus) moment {
	return moment{&supervisor.Status{Phase: phase, Applied: applied, Servers: servers}, discovery.Status{Wanted: wanted}}
}

// TestGreet: the first screen comes when the start has settled, and when that takes too long; once, and not at all when it stops before.
func TestGreet(t *testing.T) {
	up, fresh := model.ServerStatus{Health: model.Up}, model.ServerStatus{}
	failed := model.ServerStatus{LastCheck: "refused"}
	passed := model.ServerStatus{LastCheck: model.PassedFirst}
	behind := at(model.Serving, 1, 1, up)
	behind.sup.HAProxy.Behind = true
	const never = 0
	for name, test := range map[string]struct {
		looks    looks
		from, to time.Duration // it comes then
	}{
		"at once":             {looks{{0, at(model.Serving, 1, 1, up)}}, 1, time.Second},
		"without servers":     {looks{{0, at(model.Serving, 1, 1)}}, 1, time.Second},
		"one fails its check": {looks{{0, at(model.Serving, 1, 1, up, failed)}}, 1, time.Second},
		"checks come in": {looks{
			{0, at(model.Starting, 0, 0)}, {time.Second, at(model.Starting, 1, 0, fresh)}, {1500 * time.Millisecond, at(model.Serving, 1, 1, fresh)},
			{2 * time.Second, at(model.Serving, 1, 1, passed)}, {2500 * time.Millisecond, at(model.Serving, 1, 1, up)},
		}, 2500 * time.Millisecond, 3 * time.Second},
		"the file follows":   {looks{{0, behind}, {time.Second, at(model.Serving, 1, 1, up)}}, time.Second, 2 * time.Second},
		"a check hangs":      {looks{{0, at(model.Starting, 0, 0)}, {time.Second, at(model.Serving, 1, 1, fresh)}}, greetChecks, greetChecks + 2*time.Second},
		"haproxy is not had": {looks{{0, at(model.Starting, 1, 0, fresh)}}, greetAtMost, greetAtMost + time.Second},
		"no end of changes":  {looks{{0, at(model.Serving, 2, 1, up)}}, greetChecks, greetChecks + time.Second},
		"it stops":           {looks{{0, at(model.Starting, 1, 0)}, {time.Second, at(model.Stopping, 1, 0)}}, never, never},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin, shown := time.Now(), []time.Duration{}
				greet(t.Context(), func() moment { return test.looks.look(begin) }, func() { shown = append(shown, time.Since(begin)) })
				switch {
				case test.to == never:
					if len(shown) != 0 {
						t.Errorf("shown at %v", shown)
					}
				case len(shown) != 1 || shown[0] < test.from || shown[0] > test.to:
					t.Errorf("shown at %v, not once between %s and %s", shown, test.from, test.to)
				}
			})
		})
	}
}

// TestGreetEnds: it goes with the balancer.
func TestGreetEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		greet(ctx, func() moment { return at(model.Starting, 0, 0) }, func() { t.Error("it was shown") })
	})
}

func TestGreets(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		on    bool
		level slog.Level
		want  bool
	}{{true, slog.LevelInfo, true}, {true, slog.LevelDebug, true}, {true, slog.LevelWarn, false}, {false, slog.LevelInfo, false}} {
		if got := greets(&config.Settings{FirstScreen: test.on, LogLevel: test.level}); got != test.want {
			t.Errorf("%+v: %t", test, got)
		}
	}
}

// TestTerminal: colours and the width of a terminal, and neither in a file, a pipe or a buffer.
func TestTerminal(t *testing.T) {
	t.Parallel()
	env := func(pairs ...string) func(string) (string, bool) {
		return func(name string) (string, bool) {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1], true
				}
			}
			return "", false
		}
	}
	tty := openTerminal(t, 72)
	for _, test := range []struct {
		env  func(string) (string, bool)
		want terminal
	}{
		{env("TERM", "xterm"), terminal{72, true}},
		{env("TERM", "xterm", "NO_COLOR", "1"), terminal{72, false}},
		{env("TERM", "xterm", "NO_COLOR", ""), terminal{72, true}},
		{env("TERM", "dumb"), terminal{72, false}},
		{env(), terminal{72, false}},
	} {
		if got := terminalOf(tty, test.env); got != test.want {
			t.Errorf("got %+v, want %+v", got, test.want)
		}
	}
	if got := terminalOf(openTerminal(t, 0), env()); got.width != screenWide {
		t.Errorf("of unknown width: %+v", got)
	}
	file, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if got := terminalOf(file, env("TERM", "xterm")); got != (terminal{}) {
		t.Errorf("file: %+v", got)
	}
	if got := terminalOf(&bytes.Buffer{}, env("TERM", "xterm")); got != (terminal{}) {
		t.Errorf("buffer: %+v", got)
	}
}

// openTerminal gives the program's end of a terminal that is so many columns wide.
func openTerminal(t *testing.T, columns uint16) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
	return tty
}
