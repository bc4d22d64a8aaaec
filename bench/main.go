package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// options are the same for all commands.
type options struct {
	fnlb       string
	haproxy    []string
	results    string
	rounds     int
	length     time.Duration
	changes    int
	starts     int
	steps      int
	series     int
	servers    int
	held       int
	webSockets int
	many       int
	quiet      float64
	only       *regexp.Regexp
	template   string
}

var commands = map[string]func(*bench, context.Context) (any, error){
	"cpu": (*bench).cpu, "cost": (*bench).cost, "reload": (*bench).reload, "start": (*bench).start,
	"latency": (*bench).latency, "bulk": (*bench).bulk, "row": (*bench).row, "hold": (*bench).hold,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		if errors.Is(err, errUsage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: bench [flags] cpu|cost|reload|start|latency|bulk|row|hold …; --help tells the flags")

func run(ctx context.Context, args []string) error {
	var o options
	var haproxy, only string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.fnlb, "fnlb", "bin/fnlb", "the fnlb `binary`")
	flags.StringVar(&haproxy, "haproxy", ".haproxy/2.6/haproxy,.haproxy/3.0/haproxy", "HAProxy `binaries`; every command runs with each")
	flags.StringVar(&o.results, "results", "bench/results", "`folder` for the figures as JSON")
	flags.IntVar(&o.rounds, "rounds", 12, "`rounds` of each side in cpu and cost")
	flags.DurationVar(&o.length, "length", 5*time.Second, "`time` of a round")
	flags.IntVar(&o.changes, "changes", 50, "`number` of node changes and of SIGHUPs in reload")
	flags.IntVar(&o.starts, "starts", 10, "`number` of starts that are timed")
	flags.IntVar(&o.many, "nodes", 1000, "`number` of nodes for the memory, and in the smaller State of bulk")
	flags.IntVar(&o.servers, "servers", 10000, "`number` of servers in the larger State of bulk")
	flags.IntVar(&o.steps, "steps", 200, "`number` of nodes that are added, and removed, in latency")
	flags.IntVar(&o.series, "series", 10000, "`number` of changes in row")
	flags.IntVar(&o.held, "reloads", 1000, "`number` of reloads that hold asks for")
	flags.IntVar(&o.webSockets, "websockets", 500, "`number` of WebSockets that are open meanwhile")
	flags.Float64Var(&o.quiet, "quiet", .1, "`share` of a core that other processes may use in a round, or it is repeated")
	flags.StringVar(&only, "only", "", "`regular expression`: cost leaves out only directives whose name matches")
	flags.StringVar(&o.template, "template", "templates/haproxy.tmpl", "`template` that reload changes before each SIGHUP")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return errUsage
	}
	var err error
	if o.only, err = regexp.Compile(only); err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	if flags.NArg() == 0 {
		return errUsage
	}
	for _, name := range flags.Args() {
		if commands[name] == nil {
			return errUsage
		}
	}
	if runtime.NumCPU() < 2 {
		return errors.New("two cores are needed: one for HAProxy, one for nodes and load")
	}
	for path := range strings.SplitSeq(haproxy, ",") {
		path, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		o.haproxy = append(o.haproxy, path)
	}
	for _, name := range flags.Args() {
		for _, haproxy := range o.haproxy {
			if err := one(ctx, o, haproxy, name); err != nil {
				return fmt.Errorf("%s with %s: %w", name, haproxy, err)
			}
		}
	}
	return nil
}

// one runs one command with one HAProxy, ends all its processes and writes its figures.
func one(ctx context.Context, o options, haproxy, name string) (err error) {
	b, err := newBench(ctx, o, haproxy)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	fmt.Printf("== %s, HAProxy %s\n", name, b.version)
	figures, err := commands[name](b, ctx)
	if err != nil {
		return err
	}
	fmt.Printf("\n%s\n", figures)
	text, err := json.MarshalIndent(struct {
		At      time.Time
		Host    string
		HAProxy string
		Fnlb    string
		Options any
		Figures any
	}{time.Now().UTC().Truncate(time.Second), b.host, b.version, b.fnlbVersion, map[string]any{
		"rounds": o.rounds, "length": o.length.String(), "changes": o.changes, "starts": o.starts, "nodes": o.many, "quiet": o.quiet,
		"servers": o.servers, "steps": o.steps, "series": o.series, "reloads": o.held, "websockets": o.webSockets,
	}, figures}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode figures: %w", err)
	}
	if err := os.MkdirAll(o.results, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.results, name+"-"+b.branch()+".json"), append(text, '\n'), 0o644)
}
