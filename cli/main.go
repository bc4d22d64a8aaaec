// Command cli drives the balancer's pools over gRPC:
//
//	cli --lb=HOST:PORT --pattern=PATTERN addPool | removePool | poolHealth
//	cli --lb=HOST:PORT --pattern=PATTERN --ip=ADDRESS --port=PORT [--url_path=PATH] addBackend | removeBackend
//
// addPool's check asks for /healthz every 10 seconds and wants ok or OK as the body. Success prints nothing; poolHealth prints two tables, or
// JSON with --json. It exits with 0, 1 (ran and failed) or 2 (wrong use).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// How long a call may take.
const (
	changeTime = 30 * time.Second
	healthTime = 2 * time.Second
)

// settings are the flags.
type settings struct {
	lb, pattern string
	ip          string
	port        int
	urlPath     string
	json        bool
	tls         bool
	ca          string
	cert, key   string
	tokenFile   string
	command     string
}

var commands = []string{"addPool", "removePool", "addBackend", "removeBackend", "poolHealth"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process the hard way
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr, colours(os.Stdout)))
}

// run makes one call and returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, coloured bool) int {
	set, err := parse(args, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "cli: %v\n", err)
		return 2
	}
	if err := call(ctx, set, stdout, coloured); err != nil {
		fmt.Fprintf(stderr, "cli: %v\n", err)
		return 1
	}
	return 0
}

func parse(args []string, help io.Writer) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("cli", flag.ContinueOnError)
	flags.StringVar(&s.lb, "lb", "", "`HOST:PORT` of the balancer's gRPC service")
	flags.StringVar(&s.pattern, "pattern", "", "the pool's `pattern`, as http.ServeMux has it")
	flags.StringVar(&s.ip, "ip", "", "`address` of the backend")
	flags.IntVar(&s.port, "port", 0, "`port` of the backend")
	flags.StringVar(&s.urlPath, "url_path", "", "`path` that is put before each request's; empty or / for none")
	flags.BoolVar(&s.json, "json", false, "poolHealth prints JSON")
	flags.BoolVar(&s.tls, "tls", false, "use TLS, with the system's authorities")
	flags.StringVar(&s.ca, "ca", "", "use TLS, with the authorities in this `file`")
	flags.StringVar(&s.cert, "cert", "", "`file` of our certificate, where the balancer asks for one")
	flags.StringVar(&s.key, "key", "", "`file` of its key")
	flags.StringVar(&s.tokenFile, "token-file", "", "`file` with the balancer's bearer token")
	flags.SetOutput(io.Discard)
	rest, err := mixed(flags, args)
	if errors.Is(err, flag.ErrHelp) {
		flags.SetOutput(help)
		fmt.Fprintf(help, "Usage: cli --lb=HOST:PORT --pattern=PATTERN [flags] %s\n\nFlags:\n", strings.Join(commands, " | "))
		flags.PrintDefaults()
		return s, err
	}
	if err != nil {
		return s, fmt.Errorf("%w; cli --help lists the flags", err)
	}
	if len(rest) != 1 || !slices.Contains(commands, rest[0]) {
		return s, fmt.Errorf("name one command: %s", strings.Join(commands, ", "))
	}
	s.command = rest[0]
	return s, s.check()
}

// mixed goes on behind an argument that is no flag, where package flag stops.
func mixed(flags *flag.FlagSet, args []string) (rest []string, err error) {
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if args = flags.Args(); len(args) > 0 {
			rest, args = append(rest, args[0]), args[1:]
		}
	}
	return rest, nil
}

// check says what is missing, before anything is sent.
func (s *settings) check() error {
	_, _, err := net.SplitHostPort(s.lb)
	switch {
	case s.lb == "":
		return errors.New("--lb is missing; write --lb=HOST:PORT of the balancer's gRPC service")
	case err != nil:
		return fmt.Errorf("--lb %q is not HOST:PORT", s.lb)
	case s.pattern == "":
		return errors.New("--pattern is missing; write --pattern=/ for all paths")
	case (s.cert == "") != (s.key == ""):
		return errors.New("--cert and --key belong together")
	}
	if strings.HasSuffix(s.command, "Backend") {
		switch {
		case s.ip == "":
			return fmt.Errorf("--ip is missing; %s needs --ip and --port", s.command)
		case s.port < 1 || s.port > 65535:
			return fmt.Errorf("--port must be from 1 to 65535; %s needs --ip and --port", s.command)
		}
	}
	return nil
}
