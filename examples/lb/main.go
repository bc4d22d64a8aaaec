// Command lb is a load balancer of some lines: it sends each path to one of its nodes, checks them, and reads the list of nodes again at
// SIGHUP.
//
//	lb -listen :8081 -nodes 127.0.0.1:8080,127.0.0.1:8090
//	lb -nodes-file nodes.txt        # one node a line, read again at SIGHUP
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/fnlb/fnlb/lb"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGHUP)
	err := run(ctx, os.Args[1:], again, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lb:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, and then lets running requests finish.
func run(ctx context.Context, args []string, again <-chan os.Signal, log *slog.Logger) error {
	flags := flag.NewFlagSet("lb", flag.ContinueOnError)
	listen := flags.String("listen", "0.0.0.0:8081", "`address` to listen on")
	list := flags.String("nodes", "127.0.0.1:8080", "comma separated `nodes`: HOST:PORT or URLs")
	file := flags.String("nodes-file", "", "`file` with one node a line, in place of -nodes")
	health := flags.String("health", "", "`path` of the health check; empty: a node that accepts connections is healthy")
	if err := flags.Parse(args); err != nil {
		return err
	}
	nodes := func() ([]string, error) {
		if *file == "" {
			return strings.FieldsFunc(*list, func(r rune) bool { return r == ',' }), nil
		}
		text, err := os.ReadFile(*file)
		return strings.Fields(string(text)), err
	}
	first, err := nodes()
	if err != nil {
		return err
	}
	balancer, err := lb.New(first, lb.WithLogger(log), lb.WithBalanceFactor(150), lb.WithHealthCheck(lb.HealthCheck{Path: *health}))
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	log.Info("listening", "address", listener.Addr().String())
	return serve(ctx, listener, balancer, again, func() error {
		next, err := nodes()
		if err != nil {
			return err
		}
		return balancer.Update(next)
	}, log)
}

// serve answers at listener, and calls reread for each signal.
func serve(ctx context.Context, listener net.Listener, balancer *lb.Balancer, again <-chan os.Signal, reread func() error, log *slog.Logger) error {
	server := &http.Server{Handler: balancer, ReadHeaderTimeout: 10 * time.Second}
	served, ended := make(chan error, 1), make(chan error, 1)
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	go func() { served <- server.Serve(listener) }()
	go func() { ended <- balancer.Run(running) }()
	err := wait(ctx, running, server, served, again, reread, log)
	end()
	return errors.Join(err, <-ended)
}

// wait returns when ctx has ended and the last request with it, or when the server cannot go on.
func wait(ctx, running context.Context, server *http.Server, served <-chan error, again <-chan os.Signal, reread func() error, log *slog.Logger) error {
	for {
		select {
		case <-again:
			if err := reread(); err != nil {
				log.Error("nodes stay as they are", "error", err)
			} else {
				log.Info("nodes read again")
			}
		case err := <-served:
			return err
		case <-ctx.Done():
			err := server.Shutdown(running)
			if served := <-served; !errors.Is(served, http.ErrServerClosed) {
				err = errors.Join(err, served)
			}
			return err
		}
	}
}
