// Command web is the sample node: a small web server to put behind the balancer.
//
//	/         and every other path: "Hello web from node NODE", without a newline
//	/healthz  "ok"
//	/version  {"version":"0.0.235"}, what the balancer's default check asks for
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// stopLimit bounds the wait for requests in flight after the first signal.
const stopLimit = 10 * time.Second

type settings struct {
	listen  string
	port    uint
	node    string
	version string
	delay   time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process the hard way
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run serves until ctx ends. It returns the exit status: 0, 1 (ran and failed) or 2 (wrong use).
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	set, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2 // parse has said why
	}
	if err := serve(ctx, set, stdout); err != nil {
		fmt.Fprintln(stderr, "web:", err)
		return 1
	}
	return 0
}

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("web", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.listen, "listen", "", "`host` to listen on; empty means all addresses")
	flags.UintVar(&s.port, "port", 8082, "`port` to listen on; 0 takes a free one")
	flags.StringVar(&s.node, "node", uuid(), "`name` in the answers; a random UUID when not given")
	flags.StringVar(&s.version, "version", "0.0.235", "`version` that /version answers")
	flags.DurationVar(&s.delay, "delay", 0, "how long each answer to a request waits, but for /healthz and /version")
	if err := flags.Parse(args); err != nil {
		return settings{}, err
	}
	err := func() error {
		switch {
		case flags.NArg() > 0:
			return fmt.Errorf("unexpected argument %q", flags.Arg(0))
		case s.port > 65535:
			return fmt.Errorf("--port %d: not in 0 to 65535", s.port)
		case s.delay < 0:
			return fmt.Errorf("--delay %s: below zero", s.delay)
		}
		return nil
	}()
	if err != nil {
		fmt.Fprintln(stderr, "web:", err)
	}
	return s, err
}

func serve(ctx context.Context, set settings, stdout io.Writer) error {
	handler, err := newHandler(set)
	if err != nil {
		return err
	}
	var listen net.ListenConfig
	ln, err := listen.Listen(ctx, "tcp", net.JoinHostPort(set.listen, strconv.FormatUint(uint64(set.port), 10)))
	if err != nil {
		return err // names the operation and the address
	}
	// The address is complete on one line, so that a script may read the port that was taken.
	fmt.Fprintf(stdout, "node %s listens on %s\n", set.node, ln.Addr())

	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	err = server.Shutdown(limit)
	if err != nil {
		err = errors.Join(fmt.Errorf("drain %s: %w", ln.Addr(), err), server.Close())
	}
	if end := <-served; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, end)
	}
	return err
}

// newHandler answers by hand and not by http.ServeMux, which would redirect paths such as //a.
func newHandler(set settings) (http.Handler, error) {
	version, err := json.Marshal(map[string]string{"version": set.version})
	if err != nil {
		return nil, fmt.Errorf("encode version: %w", err)
	}
	hello := "Hello web from node " + set.node
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/healthz":
			answer(w, "text/plain; charset=utf-8", "ok")
		case "/version":
			answer(w, "application/json", string(version))
		default:
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return // the client went away
			}
			if !sleep(r.Context(), set.delay) {
				return
			}
			answer(w, "text/plain; charset=utf-8", hello)
		}
	}), nil
}

// sleep waits for d, or until ctx ends and then says false.
func sleep(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func answer(w http.ResponseWriter, kind, body string) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = io.WriteString(w, body) // the client went away: nobody is left to tell
}

// uuid is a random UUID (RFC 9562, version 4).
func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
