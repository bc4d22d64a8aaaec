package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/fnlb/fnlb/api"
	"github.com/fnlb/fnlb/api/access"
	"github.com/fnlb/fnlb/api/crowd"
	"github.com/fnlb/fnlb/model"
	pb "github.com/fnlb/fnlb/proto/rollout/lb"
)

// Limits of the listener.
const (
	maxMessage   = 64 << 10         // bytes of one call
	maxHeader    = 16 << 10         // bytes
	maxStreams   = 100              // calls at once on a connection
	connectTime  = 10 * time.Second // for the handshakes of a connection
	idleTime     = 15 * time.Minute // of a connection without calls
	pingTime     = 2 * time.Minute  // after which a silent client is asked whether it lives
	leastPing    = 10 * time.Second // between two pings of a client; who pings more often is cut off
	callTime     = 30 * time.Second // for a call whose client sets no deadline, or a later one
	stopTime     = 2 * time.Second  // for calls that run when the end comes
	fewestConns  = 16
	mostConns    = 1000
	connsOfFiles = 8 // one connection for so many files that may be open
)

// Options are what a Server needs. All are required but TLS.
type Options struct {
	Pools    api.Pools
	Reporter api.Reporter
	Rules    access.Rules
	TLS      *tls.Config // nil: plain text
	Files    uint64      // open files that this process may have
	Panics   *atomic.Uint64
	Log      *slog.Logger
}

// Server is the gRPC service.
type Server struct {
	pb.UnimplementedLoadBalancerServer
	o     Options
	judge func(netip.Addr, []string) error
}

// New starts nothing.
func New(o Options) *Server { return &Server{o: o, judge: o.Rules.Caller()} }

// Serve answers what l accepts until ctx ends or l fails; then it closes l, gives running calls two seconds, and returns when the last
// connection is closed. The end of ctx is no error.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxHeaderListSize(maxHeader), grpc.MaxConcurrentStreams(maxStreams), grpc.ConnectionTimeout(connectTime),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: leastPing, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTime, Time: pingTime}),
		grpc.ChainUnaryInterceptor(s.guardCall), grpc.ChainStreamInterceptor(s.guardStream),
	}
	if s.o.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(s.o.TLS)))
	}
	g := grpc.NewServer(options...)
	pb.RegisterLoadBalancerServer(g, s)
	alive := health.NewServer()
	alive.SetServingStatus(pb.LoadBalancer_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(g, alive)
	reflection.Register(g)
	return s.serve(ctx, g, alive, bounded{l, crowd.New(s.connections())})
}

func (s *Server) connections() int {
	return int(max(fewestConns, min(mostConns, s.o.Files/connsOfFiles)))
}

func (s *Server) serve(ctx context.Context, g *grpc.Server, alive *health.Server, l net.Listener) error {
	var failure error
	var serving sync.WaitGroup
	ended := make(chan struct{})
	serving.Go(func() {
		defer close(ended)
		failure = g.Serve(l)
	})
	select {
	case <-ended:
	case <-ctx.Done():
	}
	alive.Shutdown() // who watches learns it before the connection goes
	hard := time.AfterFunc(stopTime, g.Stop)
	g.GracefulStop()
	hard.Stop()
	serving.Wait()
	if failure != nil && !errors.Is(failure, grpc.ErrServerStopped) {
		return fmt.Errorf("serve pools on %s: %w", l.Addr(), failure)
	}
	return nil
}

// guardCall judges a call, bounds its time, and survives what goes wrong in it.
func (s *Server) guardCall(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	defer s.survive(info.FullMethod, &err)
	if err := s.allow(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(asked(ctx), callTime)
	defer cancel()
	return handle(ctx, req)
}

func (s *Server) guardStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	defer s.survive(info.FullMethod, &err)
	if err := s.allow(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	return handle(srv, stream)
}

// survive makes an answer of a panic.
func (s *Server) survive(method string, err *error) {
	if p := recover(); p != nil {
		s.o.Panics.Add(1)
		s.o.Log.Error("a call of the pools panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "internal error; the balancer's log has more")
	}
}

// allow is nil when the caller may; health asks for nothing, as over HTTP.
func (s *Server) allow(ctx context.Context, method string) error {
	if method == healthpb.Health_Check_FullMethodName {
		return nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	err := s.judge(caller(ctx), md.Get("authorization"))
	var no *access.Refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &no) && no.Token:
		return status.Error(codes.Unauthenticated, no.Msg)
	}
	return status.Error(codes.PermissionDenied, err.Error())
}

// caller is the address that the connection comes from; an invalid one, which no rule allows, where it is none.
func caller(ctx context.Context) netip.Addr {
	if p, ok := peer.FromContext(ctx); ok {
		if at, err := netip.ParseAddrPort(p.Addr.String()); err == nil {
			return at.Addr().Unmap().WithZone("")
		}
	}
	return netip.Addr{}
}

// asked notes who makes the call.
func asked(ctx context.Context) context.Context {
	return model.WithAsker(ctx, "pools API from "+caller(ctx).String())
}
