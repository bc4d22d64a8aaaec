package dockertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"path/filepath"
	"sync"
	"time"
)

// serveProxy answers as an HTTP proxy on a socket, outside of the namespaces, until stop is called.
func serveProxy(socket string) (stop func() error, err error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	// Requests name their target in full, so that nothing is to be rewritten.
	s := &http.Server{Handler: &httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}}, ReadHeaderTimeout: 30 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	return func() error {
		err := s.Close()
		if end := <-ended; !errors.Is(end, http.ErrServerClosed) {
			err = errors.Join(err, end)
		}
		return err
	}, nil
}

// relay is the proxy's end inside of the namespaces: an address that builds can use.
type relay struct {
	l      net.Listener
	socket string
	wait   sync.WaitGroup
}

func startRelay(folder string) (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("relay to the proxy: %w", err)
	}
	r := &relay{l: l, socket: filepath.Join(folder, proxySocket)}
	r.wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // it was closed
			}
			r.wait.Go(func() { r.hand(c) })
		}
	})
	return r, nil
}

// hand joins two connections until both ends have been closed. An error of either is one that the other end sees as well.
func (r *relay) hand(c net.Conn) {
	defer c.Close()
	var d net.Dialer
	out, err := d.DialContext(context.Background(), "unix", r.socket)
	if err != nil {
		return
	}
	defer out.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(out, c)
		_ = out.(*net.UnixConn).CloseWrite()
	}()
	_, _ = io.Copy(c, out)
	c.Close()
	<-done
}

func (r *relay) stop() {
	r.l.Close()
	r.wait.Wait()
}
