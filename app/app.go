package app

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fnlb/fnlb/app/logwriter"
	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/store"
)

// Program is what a process gets from outside.
type Program struct {
	Args           []string
	Env            func(string) (string, bool)
	Stdout, Stderr io.Writer
	Signals        func() <-chan os.Signal // called once, by the balancer itself
	Databases      Databases               // what opens the one of --db
	Template       string                  // the default of --template, for tests; empty: /haproxy.tmpl
}

// Databases gives what opens the database at an address, nil where that is memory. They come from outside because their drivers are many
// times larger than the rest of the program: tests and fuzz targets of this package need none.
type Databases func(store.Address) (func(context.Context) (store.DB, error), error)

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // it ran, and failed
	exitUsage  = 2 // wrong use; fnlb diff: trouble
)

// command is one sub-command; the flags of the balancer hold for all, so that they tell what a balancer with them would do.
type command struct {
	name, args, about string
	json              bool
	run               func(*call) error
}

// call is one use of a command.
type call struct {
	Program
	settings config.Settings
	args     []string
	json     bool
	log      *logwriter.Writer // behind Stderr, of the balancer itself only
	at       terminal          // that Stderr is, likewise

	bootstrap bool   // of render
	container string // of explain
}

const (
	logBytes = 1 << 20         // of log that waits for its reader
	logFlush = 2 * time.Second // for that reader at the end
)

// commands is filled by a function, because completion lists it.
func commands() []command {
	return []command{
		{"run", "", "run the balancer (also without a command)", false, runBalancer},
		{"render", "", "print what these flags give; --bootstrap: before fnlb exists", false, render},
		{"check", "", "render and ask HAProxy whether the text is good", false, checkText},
		{"diff", "", "show what these flags would change", true, diffText},
		{"nodes", nodesArgs, "list and change the nodes of a running balancer", true, nodes},
		{"explain", "[URL | --container NAME]", "say what becomes of a URL or became of containers, and why", true, explain},
		{"freeze", "[REASON…]", "stop all changes of a running balancer", true, freeze},
		{"thaw", "", "end a freeze", true, thaw},
		{"rollback", "", "go back to the configuration before, and freeze it", true, rollback},
		{"healthcheck", "", "exit with 0 when the running balancer is ready", false, healthcheck},
		{"version", "", "print the version", true, version},
		{"completion", "bash | zsh | fish", "print a script for the shell's completion", false, completion},
		{"man", "", "print the manual page", false, man},
	}
}

// Main runs one command and returns its exit code.
func Main(p Program) int {
	args := p.Args
	all := commands()
	cmd := all[0]
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		i := slices.IndexFunc(all, func(c command) bool { return c.name == args[0] })
		switch {
		case args[0] == "help":
			return p.help(p.Stdout, exitOK)
		case i < 0:
			return p.fail(&config.UsageError{Reason: fmt.Sprintf("there is no command %q", args[0]), Hint: "fnlb --help lists them"})
		}
		cmd, args = all[i], args[1:]
	}
	c := &call{Program: p}
	if cmd.name == "run" && os.Getpid() == firstProcess {
		return p.beInit()
	}
	in, rest, err := config.Read(args, p.Env, c.ownFlags(cmd))
	switch {
	case errors.Is(err, config.ErrHelp):
		return p.help(p.Stdout, exitOK)
	case err != nil:
		return p.fail(err)
	case len(rest) > 0 && cmd.args == "":
		return p.fail(&config.UsageError{Reason: fmt.Sprintf("fnlb %s takes no argument %q", cmd.name, rest[0]), Hint: "flags begin with --"})
	}
	note, err := p.dropRoot(in)
	if err != nil {
		return p.fail(err)
	}
	if cmd.name == "run" { // whoever reads what we say, or does not, shall not hold up the balancer
		c.at = terminalOf(p.Stderr, p.Env)
		c.log = logwriter.Start(p.Stderr, logBytes)
		defer c.log.Close(logFlush)
		p.Stderr, c.Stderr = c.log, c.log
	}
	settings, err := in.Settings(p.host())
	if err != nil {
		return p.fail(err)
	}
	if note != "" {
		settings.Warnings = append(settings.Warnings, note)
	}
	if err := check.Validate(settings.Check); err != nil {
		return p.fail(&config.UsageError{Reason: err.Error(), Hint: "see --hc-path, --hc-interval, --hc-timeout and --min-api-version"})
	}
	c.settings, c.args = settings, rest
	if err := cmd.run(c); err != nil {
		return p.fail(err)
	}
	return exitOK
}

// ownFlags are those that only this command has.
func (c *call) ownFlags(cmd command) func(*flag.FlagSet) {
	return func(fs *flag.FlagSet) {
		if cmd.json {
			fs.BoolVar(&c.json, "json", false, "print JSON")
		}
		switch cmd.name {
		case "explain":
			fs.StringVar(&c.container, "container", "", "`NAME` or id of one container")
		case "render":
			fs.BoolVar(&c.bootstrap, "bootstrap", false, "print what HAProxy needs before fnlb exists")
		}
	}
}

// errSilent ends a command with exit code 1 when everything was said already.
var errSilent = errors.New("failed")

// fail prints an error as one line and chooses the exit code.
func (p Program) fail(err error) int {
	var usage *config.UsageError
	var cannot trouble
	switch {
	case errors.As(err, &cannot):
		p.say(p.Stderr, "fnlb: %v\n", cannot)
		return exitUsage
	case errors.As(err, &usage):
		p.say(p.Stderr, "fnlb: %v\n", usage)
		return exitUsage
	case !errors.Is(err, errSilent):
		p.say(p.Stderr, "fnlb: %v\n", err)
	}
	return exitFailed
}

// say prints for a person; when nobody can read it any more there is nobody to tell.
func (Program) say(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(w, format, args...)
}

func (p Program) help(w io.Writer, code int) int {
	p.say(w, "fnlb %s: finds backends and keeps HAProxy serving them\n\nUsage: fnlb [COMMAND] [flags]\n\nCommands:\n", config.FullVersion())
	for _, c := range commands() {
		p.say(w, "  %-12s  %s\n", c.name, c.about)
		if c.args != "" {
			p.say(w, "  %-12s  fnlb %s %s\n", "", c.name, strings.ReplaceAll(c.args, "\n", fmt.Sprintf("\n  %-12s  ", "")))
		}
	}
	p.say(w, "\nFlags, with one or two dashes; each has a twin FNLB_NAME in the environment:\n")
	if err := config.Help(w); err != nil {
		return exitFailed
	}
	p.say(w, "\nLOG_LEVEL in the environment: debug, info, warn or error.\n")
	return code
}

// host tells config what it must know of the machine.
func (p Program) host() config.Host {
	return config.Host{
		Env: p.Env, UID: os.Getuid(), Template: p.Template, TempDir: os.TempDir(),
		Writable: func(dir string) bool { return unix.Access(dir, unix.W_OK) == nil },
		Exists: func(file string) bool {
			info, err := os.Stat(file)
			return err == nil && info.Mode().IsRegular()
		},
		Socket: func(file string) bool {
			info, err := os.Stat(file)
			return err == nil && info.Mode().Type() == os.ModeSocket
		},
		Local: p.localAddrs(),
	}
}

// localAddrs lists the addresses of this host, by which a node that is the balancer itself is recognised.
func (p Program) localAddrs() []netip.Addr {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		p.say(p.Stderr, "fnlb: only on loopback is a node recognised that is the balancer itself: %v\n", err)
		return nil
	}
	var out []netip.Addr
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				out = append(out, ip.Unmap())
			}
		}
	}
	return out
}
