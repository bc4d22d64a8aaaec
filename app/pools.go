package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/fnlb/fnlb/api/access"
	"github.com/fnlb/fnlb/api/rpc"
	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/discovery"
	poolsource "github.com/fnlb/fnlb/discovery/pools"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
)

// poolSources make the source of pools, and that of the spare services for pools to come. As with nodes, what only memory had is read back
// when we go on with the HAProxy that shows it; which services it has is never written into a store.
func (b *balancer) poolSources(adopting bool) ([]discovery.Source, error) {
	o := poolsource.Options{
		Bind: b.s.PoolsHTTP, Timeouts: b.s.Timeouts, Policy: b.s.NodePolicy, Store: b.store, Prober: check.NewProber(), Expected: expectedRules(),
		Conflict: func(o model.Offer) error { return b.collector.Conflict(o) }, Serves: b.serves, Incomplete: adopting, Now: time.Now, Log: b.log,
	}
	spares := discovery.Kept{File: b.dirs.kept("spares"), Log: b.log}
	err := b.recall(adopting, spares, "spares", func(s model.Snapshot, _ string) { o.EarlierSpares = &s })
	memory := b.s.DB.Kind() == store.Memory
	kept := discovery.Kept{File: b.dirs.kept("pools"), Log: b.log}
	if memory {
		err = errors.Join(err, b.recall(adopting, kept, "pools", func(s model.Snapshot, _ string) { o.Earlier = &s }))
	}
	b.pools = poolsource.New(o)
	spares.Source = b.pools.Spares()
	b.kept = append(b.kept, spares)
	if !memory {
		return []discovery.Source{b.pools, spares}, err
	}
	kept.Source = b.pools
	b.kept = append(b.kept, kept)
	return []discovery.Source{kept, spares}, err
}

// expectedRules are those of pools to come.
func expectedRules() []model.Check { return []model.Check{rpc.Usual()} }

// serves waits until a route is in force and a server of its service, where one is named, takes requests, at most until ctx ends.
func (b *balancer) serves(ctx context.Context, route model.Route, server string) {
	up := func(s model.ServerStatus) bool {
		return s.Service == route.Service && s.Name == server && s.Health == model.Up
	}
	for {
		changed := b.supervisor.Changed()
		st := b.supervisor.Status()
		if slices.Contains(st.Rows.Routes, route) && (server == "" || slices.ContainsFunc(st.Servers, up)) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// healthWords are those of the log about a server's health: the original's for each sort.
func healthWords(s model.Server) (healthy, unhealthy string) {
	if s.Owner.Source != "pools" {
		return "is healthy", "is unhealthy"
	}
	backend := "backend http://" + s.Addr().String()
	return backend + " became healthy", backend + " became sick"
}

// listenPools opens the gRPC service of pools.
func (b *balancer) listenPools(rules access.Rules, files uint64, report *report) error {
	if b.s.Pools.Port == 0 {
		return nil
	}
	secure, err := b.poolsTLS()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", b.s.Pools.String())
	if err != nil {
		return fmt.Errorf("pools: %w; free the port, or choose another with --pools-listen", err)
	}
	b.closers = append(b.closers, func() error {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	if secure == nil && rules.Token != nil {
		b.log.Warn("the token of --mgmt-token-file passes the gRPC port in plain text; --pools-cert makes it TLS", "pools_listen", b.s.Pools)
	}
	server := rpc.New(rpc.Options{Pools: b.pools, Reporter: report, Rules: rules, TLS: secure, Files: files, Panics: &b.panics, Log: b.log})
	b.parts = append(b.parts, running{"pools", func(ctx context.Context) error { return server.Serve(ctx, l) }})
	return nil
}

// poolsTLS reads the files of the gRPC service; nil without any.
func (b *balancer) poolsTLS() (*tls.Config, error) {
	if b.s.PoolsCert == "" {
		return nil, nil //nolint:nilnil // plain text
	}
	key := b.s.PoolsKey
	if key == "" {
		key = b.s.PoolsCert
	}
	own := &renewed{cert: b.s.PoolsCert, key: key, log: b.log}
	var err error
	if own.last, err = own.load(); err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: own.get}
	if b.s.PoolsClientCA == "" {
		return c, nil
	}
	pem, err := os.ReadFile(b.s.PoolsClientCA)
	if err != nil {
		return nil, fmt.Errorf("authorities of pools: %w; correct --pools-client-ca", err)
	}
	c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("authorities of pools: %s has no certificate; correct --pools-client-ca", b.s.PoolsClientCA)
	}
	return c, nil
}

// renewed is a certificate that is read anew for each connection, which are few and long: a new one needs no restart. While what lies there
// cannot be used, the last good one serves.
type renewed struct {
	cert, key string // files
	log       *slog.Logger

	mu   sync.Mutex
	last *tls.Certificate
	told bool // that it cannot be used
}

func (r *renewed) load() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(r.cert, r.key)
	if err != nil {
		return nil, fmt.Errorf("certificate of pools: %w; correct --pools-cert and --pools-key", err)
	}
	return &pair, nil
}

func (r *renewed) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next, err := r.load()
	switch {
	case err == nil:
		r.last = next
		if r.told {
			r.log.Info("the certificate of pools can be used again", "file", r.cert)
		}
	case !r.told:
		r.log.Warn("the certificate of pools cannot be used, the last good one serves", "error", err)
	}
	r.told = err != nil
	return r.last, nil
}
