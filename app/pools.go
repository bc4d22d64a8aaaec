package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/fnlb/fnlb/api/access"
	"github.com/fnlb/fnlb/api/rpc"
	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/discovery"
	poolsource "github.com/fnlb/fnlb/discovery/pools"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/store"
)

// poolSource makes the source of pools. As with nodes, what only memory had is read back when we go on with the HAProxy that shows it.
func (b *balancer) poolSource(adopting bool) (discovery.Source, error) {
	o := poolsource.Options{
		Bind: b.s.PoolsHTTP, Timeouts: b.s.Timeouts, Policy: b.s.NodePolicy, Store: b.store, Prober: check.NewProber(),
		Conflict: func(o model.Offer) error { return b.collector.Conflict(o) }, Serves: b.serves, Incomplete: adopting, Now: time.Now, Log: b.log,
	}
	if b.s.DB.Kind() != store.Memory {
		b.pools = poolsource.New(o)
		return b.pools, nil
	}
	kept := discovery.Kept{File: b.dirs.kept("pools"), Log: b.log}
	err := b.recall(adopting, kept, "pools", func(s model.Snapshot, _ string) { o.Earlier = &s })
	b.pools = poolsource.New(o)
	kept.Source = b.pools
	b.kept = append(b.kept, kept)
	return kept, err
}

// lookAgain is how often a call asks whether what it wants is in force: the supervisor's Status tells no events.
const lookAgain = 5 * time.Millisecond

// serves waits until a server takes requests, or without one until the service is in force, at most until ctx ends.
func (b *balancer) serves(ctx context.Context, service, server string) {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		st := b.supervisor.Status()
		if server == "" {
			if slices.ContainsFunc(st.Rows.Services, func(s model.Service) bool { return s.Name == service }) {
				return
			}
		} else if slices.ContainsFunc(st.Servers, func(s model.ServerStatus) bool {
			return s.Service == service && s.Name == server && s.Health == model.Up
		}) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
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
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(b.s.PoolsCert, key)
		if err != nil {
			return nil, fmt.Errorf("certificate of pools: %w; correct --pools-cert and --pools-key", err)
		}
		return &pair, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	// Read anew for each connection, which are few and long: a renewed certificate needs no restart.
	c := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return load() }}
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
