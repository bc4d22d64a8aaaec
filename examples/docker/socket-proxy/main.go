// Command socket-proxy stands before the Docker Engine's socket and lets through what fnlb asks, and nothing else: nobody who
// breaks into the balancer can start a container by it.
//
//	GET /_ping (and HEAD), /version, /info, /events, /containers/json, /containers/NAME/json, /networks, /networks/NAME
//
// each with and without /vX.Y before it. What a container has in its environment, which often is a secret, is left out of the answer.
// Everything else is 403, and told on standard error.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const maxInspect = 4 << 20 // bytes of an answer that is rewritten

func main() {
	listen := flag.String("listen", ":2375", "`address` to listen on: HOST:PORT, or the path of a Unix socket")
	engine := flag.String("engine", "/var/run/docker.sock", "the Engine's `socket`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := serve(ctx, *listen, *engine, log.New(os.Stderr, "socket-proxy: ", 0))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "socket-proxy:", err)
		os.Exit(1)
	}
}

// serve runs until ctx ends.
func serve(ctx context.Context, listen, engine string, log *log.Logger) error {
	network := "tcp"
	if strings.HasPrefix(listen, "/") {
		network = "unix"
		if err := os.Remove(listen); err != nil && !errors.Is(err, fs.ErrNotExist) { // of one that was killed
			return err
		}
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, network, listen)
	if err != nil {
		return err
	}
	if network == "unix" {
		if err := os.Chmod(listen, 0o660); err != nil {
			return errors.Join(err, l.Close())
		}
	}
	log.Printf("listens on %s", l.Addr())
	s := &http.Server{Handler: filter(engine, log), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log, DisableGeneralOptionsHandler: true}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	err = s.Close() // streams of events have no end of their own
	if end := <-ended; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, end)
	}
	return err
}

// name is an id or a name (the Engine's own pattern).
const name = `[a-zA-Z0-9][a-zA-Z0-9_.-]*`

const version = `^(/v[0-9]+\.[0-9]+)?`

var (
	allowed   = regexp.MustCompile(version + `/(_ping|version|info|events|containers/json|containers/` + name + `/json|networks|networks/` + name + `)$`)
	inspected = regexp.MustCompile(version + `/containers/` + name + `/json$`)
)

// filter hands on what is allowed. It looks at the path as it was sent, so that no other spelling of one gets through.
func filter(engine string, log *log.Logger) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", "engine", "engine"
		},
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", engine)
		}, MaxIdleConns: 8, IdleConnTimeout: time.Minute, DisableCompression: true},
		FlushInterval:  -1, // events are of use at once
		ModifyResponse: hideEnvironment,
		ErrorLog:       log,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.EscapedPath()
		read := r.Method == http.MethodGet || r.Method == http.MethodHead && strings.HasSuffix(path, "/_ping")
		if !read || !allowed.MatchString(path) || r.ContentLength != 0 || r.Header.Get("Upgrade") != "" {
			log.Printf("refused: %s %q", r.Method, path)
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Connection", "close") // else the server would wait for a body first
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintln(w, `{"message":"the socket proxy does not allow this"}`)
			return
		}
		proxy.ServeHTTP(w, r)
	})
}

// hideEnvironment takes Config.Env out of the answer about a container.
func hideEnvironment(r *http.Response) error {
	if !inspected.MatchString(r.Request.URL.EscapedPath()) || r.StatusCode != http.StatusOK {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, maxInspect+1))
	if err = errors.Join(err, r.Body.Close()); err != nil {
		return err
	}
	if len(data) > maxInspect {
		return fmt.Errorf("more than %d bytes about a container", maxInspect)
	}
	var all, config map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	if err := json.Unmarshal(all["Config"], &config); err != nil {
		return err
	}
	delete(config, "Env")
	if all["Config"], err = json.Marshal(config); err != nil {
		return err
	}
	if data, err = json.Marshal(all); err != nil {
		return err
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
	r.Header.Set("Content-Length", strconv.Itoa(len(data)))
	return nil
}
