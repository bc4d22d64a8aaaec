package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/fnlb/fnlb/proto/rollout/lb"
)

// call makes the call that the command names.
func call(ctx context.Context, s settings, out io.Writer, coloured bool) (err error) {
	security, err := transport(s)
	if err != nil {
		return err
	}
	if s.tokenFile != "" {
		token, err := os.ReadFile(s.tokenFile)
		if err != nil {
			return fmt.Errorf("token: %w", err)
		}
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	limit := changeTime
	if s.command == "poolHealth" {
		limit = healthTime
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// Names are the resolver's of the system, and no proxy of the environment is asked.
	conn, err := grpc.NewClient("passthrough:///"+s.lb, grpc.WithTransportCredentials(security), grpc.WithNoProxy())
	if err != nil {
		return fmt.Errorf("%s: %w", s.lb, err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := send(ctx, pb.NewLoadBalancerClient(conn), s, out, coloured); err != nil {
		return said(s, err, conn.GetState() == connectivity.Ready)
	}
	return nil
}

func send(ctx context.Context, lb pb.LoadBalancerClient, s settings, out io.Writer, coloured bool) (err error) {
	backend := &pb.Backend{Backend: &pb.Backend_IpBackend{IpBackend: &pb.IPBackend{Ip: s.ip, Port: int32(s.port), UrlPath: s.urlPath}}}
	switch s.command {
	case "addPool":
		healthy := &pb.StatusCheck{UrlPath: "/healthz", HealthyValues: []string{"ok", "OK"}}
		_, err = lb.AddPool(ctx, &pb.AddPoolReq{
			Pattern: s.pattern, PoolType: pb.PoolType_PT_P2C,
			HealthChecks: &pb.HealthChecks{HealthChecks: []*pb.HealthCheck{{HealthCheck: &pb.HealthCheck_StatusCheck{StatusCheck: healthy}}}, IntervalSecs: 10},
		})
	case "removePool":
		_, err = lb.RemovePool(ctx, &pb.RemovePoolReq{Pattern: s.pattern})
	case "addBackend":
		_, err = lb.AddBackend(ctx, &pb.AddBackendReq{Pattern: s.pattern, Backend: backend})
	case "removeBackend":
		_, err = lb.RemoveBackend(ctx, &pb.RemoveBackendReq{Pattern: s.pattern, Backend: backend})
	case "poolHealth":
		var answer *pb.PoolHealthResp
		if answer, err = lb.PoolHealth(ctx, &pb.PoolHealthReq{Pattern: s.pattern, Healthy: true, Sick: true}); err == nil {
			err = show(out, s, answer.GetHealth(), coloured)
		}
	}
	return err
}

// said makes one line for a person of what the balancer, or without it reached the way to it, said.
func said(s settings, err error, reached bool) error {
	answer, ok := status.FromError(err)
	if !ok {
		return err
	}
	text := strings.Join(strings.Fields(answer.Message()), " ")
	switch code := answer.Code(); {
	case code == codes.Unavailable && !reached:
		return fmt.Errorf("%s: %s: is the balancer running, with --pools-listen?", s.lb, text)
	case code == codes.DeadlineExceeded:
		return fmt.Errorf("%s did not answer in time: %s", s.lb, text)
	}
	return fmt.Errorf("%s: %s", answer.Code(), text)
}

func transport(s settings) (credentials.TransportCredentials, error) {
	if !s.tls && s.ca == "" && s.cert == "" {
		return insecure.NewCredentials(), nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.ca != "" {
		pem, err := os.ReadFile(s.ca)
		if err != nil {
			return nil, fmt.Errorf("authorities: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("authorities: %s has no certificate", s.ca)
		}
	}
	if s.cert != "" {
		own, err := tls.LoadX509KeyPair(s.cert, s.key)
		if err != nil {
			return nil, fmt.Errorf("our certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{own}
	}
	return credentials.NewTLS(config), nil
}
