// Command server is the web server in the containers of tests, with a knob for each way in which one starts, answers and ends.
//
//	/            its name, which is the container's host name unless --name says otherwise
//	/slow?d=3s   the same after that time
//	/running     how many of /slow are running
//	/healthz     200 or, after PUT /unhealthy and until PUT /healthy, 503
//
// server healthcheck [PORT] is for HEALTHCHECK: an image from scratch has neither shell nor curl.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "healthcheck" {
		os.Exit(said(healthcheck(os.Args[2:])))
	}
	os.Exit(said(run()))
}

func said(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		return 1
	}
	return 0
}

func healthcheck(args []string) error {
	port := "8080"
	if len(args) > 0 {
		port = args[0]
	}
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get("http://127.0.0.1:" + port + "/healthz") //nolint:noctx // it has a time limit
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

func run() error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	port := flag.Uint("port", 8080, "`port` to listen on")
	name := flag.String("name", host, "`name` in the answers")
	after := flag.Duration("listen-after", 0, "how long it does not listen yet")
	term := flag.String("on-term", "finish", "what SIGTERM does: close (ends at once), finish (no new connections, idle ones are closed, running requests end), linger (as finish, but first it goes on as before for the time of -linger), ignore")
	linger := flag.Duration("linger", time.Second, "see -on-term")
	flag.Parse()
	// From the first moment on: the kernel drops signals for a process 1 that has no handler.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	select {
	case <-time.After(*after):
	case <-signals:
		return nil
	}
	server := &http.Server{Addr: ":" + strconv.FormatUint(uint64(*port), 10), Handler: handler(*name), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.ListenAndServe() }()
	for {
		select {
		case err := <-served:
			return err
		case <-signals:
		}
		switch *term {
		case "ignore":
		case "close":
			return nil
		case "linger":
			time.Sleep(*linger)
			return server.Shutdown(context.Background())
		default:
			return server.Shutdown(context.Background())
		}
	}
}

func handler(name string) http.Handler {
	var sick atomic.Bool
	var running atomic.Int64
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter) { _, _ = io.WriteString(w, name) } // the client went away: nobody is left to tell
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { answer(w) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(r.FormValue("d"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		running.Add(1)
		defer running.Add(-1)
		select {
		case <-time.After(d):
			answer(w)
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("/running", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, running.Load()) })
	mux.HandleFunc("PUT /unhealthy", func(http.ResponseWriter, *http.Request) { sick.Store(true) })
	mux.HandleFunc("PUT /healthy", func(http.ResponseWriter, *http.Request) { sick.Store(false) })
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	return mux
}
