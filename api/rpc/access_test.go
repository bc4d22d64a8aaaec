package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/fnlb/fnlb/api/access"
	pb "github.com/fnlb/fnlb/proto/rollout/lb"
)

// reflected asks reflection for the services there are.
func reflected(ctx context.Context, conn *grpc.ClientConn) error {
	stream, err := reflectpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_ListServices{}}); err != nil && !errors.Is(err, io.EOF) { // then Recv says why
		return err
	}
	_, err = stream.Recv()
	return err
}

func watched(ctx context.Context, conn *grpc.ClientConn) error {
	stream, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	_, err = stream.Recv()
	return err
}

// TestAccess: who may not is told so, whatever the method; the health check answers everybody.
func TestAccess(t *testing.T) {
	foreign := access.Rules{Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, AllowSet: true}
	secret := access.Rules{Token: []byte("geheim")}
	const may, needs = "127.0.0.1 may not use the management API", "a bearer token is needed"
	for _, test := range []struct {
		name   string
		rules  access.Rules
		tokens []string
		code   codes.Code
		text   string
	}{
		{"loopback", access.Rules{}, nil, codes.OK, ""},
		{"foreign", foreign, nil, codes.PermissionDenied, may},
		{"nobody", access.Rules{AllowSet: true}, nil, codes.PermissionDenied, may},
		{"foreign with token", access.Rules{Allow: foreign.Allow, AllowSet: true, Token: secret.Token}, []string{"Bearer geheim"}, codes.PermissionDenied, may},
		{"no token", secret, nil, codes.Unauthenticated, needs},
		{"wrong token", secret, []string{"Bearer geheim2"}, codes.Unauthenticated, needs},
		{"no scheme", secret, []string{"geheim"}, codes.Unauthenticated, needs},
		{"two tokens", secret, []string{"Bearer geheim", "Bearer geheim"}, codes.Unauthenticated, needs},
		{"empty token", access.Rules{Token: []byte{}}, []string{"Bearer "}, codes.Unauthenticated, needs},
		{"token", secret, []string{"Bearer geheim"}, codes.OK, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &pools{}
			o := options(p)
			o.Rules = test.rules
			conn := dial(t, serve(t, o).addr)
			ctx, stop := context.WithCancel(within(t))
			defer stop()
			alive, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: "rollout.lb.LoadBalancer"})
			if err != nil || alive.GetStatus() != healthpb.HealthCheckResponse_SERVING {
				t.Errorf("health check: %v, %v", alive, err)
			}
			ctx = metadata.NewOutgoingContext(ctx, metadata.MD{"authorization": test.tokens})
			lb := pb.NewLoadBalancerClient(conn)
			for name, call := range map[string]func() error{
				"AddPool":    func() error { _, err := lb.AddPool(ctx, goodPool()); return err },
				"RemovePool": func() error { _, err := lb.RemovePool(ctx, &pb.RemovePoolReq{Pattern: "/"}); return err },
				"AddBackend": func() error {
					_, err := lb.AddBackend(ctx, &pb.AddBackendReq{Pattern: "/", Backend: at("::1", 1, "")})
					return err
				},
				"RemoveBackend": func() error {
					_, err := lb.RemoveBackend(ctx, &pb.RemoveBackendReq{Pattern: "/", Backend: at("::1", 1, "")})
					return err
				},
				"PoolHealth": func() error { _, err := lb.PoolHealth(ctx, &pb.PoolHealthReq{Pattern: "/"}); return err },
				"reflection": func() error { return reflected(ctx, conn) },
				"watch":      func() error { return watched(ctx, conn) },
			} {
				refused(t, name, call(), test.code, test.text)
			}
			if got, _ := p.last(); (got == nil) != (test.code != codes.OK) {
				t.Errorf("the pools were asked for %v", got)
			}
		})
	}
}

// TestCaller: a peer without an address is nobody whom a rule allows.
func TestCaller(t *testing.T) {
	s := New(options(&pools{}))
	for name, ctx := range map[string]context.Context{
		"none": t.Context(),
		"unix": peer.NewContext(t.Context(), &peer.Peer{Addr: &net.UnixAddr{Name: "@", Net: "unix"}}),
	} {
		if at := caller(ctx); at.IsValid() {
			t.Errorf("%s: %s", name, at)
		}
		refused(t, name, s.allow(ctx, pb.LoadBalancer_AddPool_FullMethodName), codes.PermissionDenied, "invalid IP may not")
	}
	mapped := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP("::ffff:10.0.0.1"), Port: 1}})
	if at := caller(mapped); at != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("IPv4 on a socket of IPv6 is %s", at)
	}
}

// authority signs certificates of a test.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, own, own, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := authority{key, cert, x509.NewCertPool()}
	a.pool.AddCert(cert)
	return a
}

// sign makes a certificate for 127.0.0.1, for servers and clients.
func (a authority) sign(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestTLS: a certificate that is asked for must be there and be signed by the right authority; nothing is answered in plain text.
func TestTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	plain := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ours.sign(t)}}
	mutual := plain.Clone()
	mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, ours.pool
	trusting := func(certs ...tls.Certificate) *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ours.pool, ServerName: "127.0.0.1", Certificates: certs}
	}
	old := trusting()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	for _, test := range []struct {
		name   string
		server *tls.Config
		client *tls.Config // nil: plain text
		code   codes.Code
	}{
		{"TLS", plain, trusting(), codes.OK},
		{"plain text to TLS", plain, nil, codes.Unavailable},
		{"TLS to plain text", nil, trusting(), codes.Unavailable},
		{"TLS 1.1", plain, old, codes.Unavailable},
		{"another authority's server", plain, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: theirs.pool, ServerName: "127.0.0.1"}, codes.Unavailable},
		{"mutual", mutual, trusting(ours.sign(t)), codes.OK},
		{"mutual without a certificate", mutual, trusting(), codes.Unavailable},
		{"mutual with another authority's", mutual, trusting(theirs.sign(t)), codes.Unavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			o := options(&pools{})
			o.TLS = test.server
			var more []grpc.DialOption
			if test.client != nil {
				more = append(more, grpc.WithTransportCredentials(credentials.NewTLS(test.client)))
			}
			conn := dial(t, serve(t, o).addr, more...)
			_, err := pb.NewLoadBalancerClient(conn).AddPool(within(t), goodPool())
			refused(t, test.name, err, test.code, "")
			_, err = healthpb.NewHealthClient(conn).Check(within(t), &healthpb.HealthCheckRequest{})
			refused(t, "health", err, test.code, "")
		})
	}
}
