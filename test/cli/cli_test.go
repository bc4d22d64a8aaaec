package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/fnlb/fnlb/app"
	"github.com/fnlb/fnlb/haproxy/haproxytest"
	"github.com/fnlb/fnlb/store/open"
)

// patience bounds "until"; it is for a machine that is busy.
const patience = 30 * time.Second

// TestMain runs this test binary as fnlb when a script calls it by that name, with the same wiring as main.go.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"fnlb": func() {
		signal.Ignore(syscall.SIGPIPE)
		os.Exit(app.Main(app.Program{
			Template: os.Getenv("DEFAULT_TEMPLATE"), // /haproxy.tmpl would be everybody's
			Args:     os.Args[1:], Env: os.LookupEnv, Stdout: os.Stdout, Stderr: os.Stderr, Databases: open.Bind,
			Signals: func() <-chan os.Signal {
				c := make(chan os.Signal, 8)
				signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP)
				return c
			},
		}))
	}})
}

// TestCommands: what needs no HAProxy; there is none in these scripts' PATH.
func TestCommands(t *testing.T) {
	run(t, "testdata", func(env *testscript.Env) error {
		env.Setenv("FNLB_HAPROXY", env.WorkDir+"/no-haproxy")
		return nil
	})
}

// TestWithHAProxy: the scripts get two free ports and two nodes that pass every check.
func TestWithHAProxy(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		t.Parallel()
		run(t, "testdata/haproxy", func(env *testscript.Env) error {
			env.Setenv("FNLB_HAPROXY", h.Path)
			for i, port := range haproxytest.FreePorts(t, 2) {
				env.Setenv(fmt.Sprintf("PORT%d", i+1), strconv.Itoa(port))
			}
			for i := range 2 {
				node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					_, _ = io.WriteString(w, `{"version":"0.0.300"}`) // an error means that the client has gone
				}))
				env.Defer(node.Close)
				env.Setenv(fmt.Sprintf("NODE%d", i+1), strings.TrimPrefix(node.URL, "http://"))
			}
			return nil
		})
	})
}

func run(t *testing.T, dir string, setup func(*testscript.Env) error) {
	root, err := os.MkdirTemp("", "fc") // the path of a socket below it is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	testscript.Run(t, testscript.Params{
		Dir: dir, WorkdirRoot: root, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("FNLB_RUN_DIR", env.WorkDir+"/run")
			env.Setenv("FNLB_HAPROXY_CONFIG", env.WorkDir+"/haproxy.cfg")
			env.Setenv("DEFAULT_TEMPLATE", env.WorkDir+"/default.tmpl")
			return setup(env)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "until": until},
	})
}

// exits is "exits CODE COMMAND…": it ends with that code and says why in one line of standard error, and nothing else.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] {
		ts.Fatalf("%q: %v, want exit status %s", args[1:], err, args[0])
	}
	if said := ts.ReadFile("stderr"); strings.Count(said, "\n") != 1 || !strings.HasSuffix(said, "\n") {
		ts.Fatalf("%q: standard error is not one line", args[1:])
	}
	if said := ts.ReadFile("stdout"); said != "" {
		ts.Fatalf("%q: something stands on standard output", args[1:])
	}
}

// until is "until REGEXP COMMAND…": the command is run again and again, until it succeeds and prints what matches.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until REGEXP COMMAND…")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for end := time.Now().Add(patience); ; {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%q: %v, and it never prints %s", args[1:], err, args[0])
		}
		time.Sleep(20 * time.Millisecond) // the command tells no events
	}
}
