package rpc

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fnlb/fnlb/model"
	pb "github.com/fnlb/fnlb/proto/rollout/lb"
)

// AddPool adds a pool.
func (s *Server) AddPool(ctx context.Context, req *pb.AddPoolReq) (*pb.AddPoolResp, error) {
	p, err := readPool(req)
	if err == nil {
		s.o.Log.Info("adding pool", "pattern", model.Printable(p.Pattern))
		err = s.o.Pools.AddPool(ctx, p)
	}
	return &pb.AddPoolResp{}, s.answer(ctx, err)
}

// RemovePool removes a pool.
func (s *Server) RemovePool(ctx context.Context, req *pb.RemovePoolReq) (*pb.RemovePoolResp, error) {
	err := readPattern(req.GetPattern())
	if err == nil {
		s.o.Log.Info("removing pool", "pattern", model.Printable(req.GetPattern()))
		err = s.o.Pools.RemovePool(ctx, req.GetPattern())
	}
	return &pb.RemovePoolResp{}, s.answer(ctx, err)
}

// AddBackend adds a backend to a pool.
func (s *Server) AddBackend(ctx context.Context, req *pb.AddBackendReq) (*pb.AddBackendResp, error) {
	m, err := s.member(req.GetPattern(), req.GetBackend())
	if err == nil {
		s.o.Log.Info("adding backend", "pattern", model.Printable(req.GetPattern()), "backend", m.Name())
		err = s.o.Pools.AddMember(ctx, req.GetPattern(), m)
	}
	return &pb.AddBackendResp{}, s.answer(ctx, err)
}

// RemoveBackend removes a backend from a pool.
func (s *Server) RemoveBackend(ctx context.Context, req *pb.RemoveBackendReq) (*pb.RemoveBackendResp, error) {
	m, err := s.member(req.GetPattern(), req.GetBackend())
	if err == nil {
		s.o.Log.Info("removing backend", "pattern", model.Printable(req.GetPattern()), "backend", m.Name())
		err = s.o.Pools.RemoveMember(ctx, req.GetPattern(), m)
	}
	return &pb.RemoveBackendResp{}, s.answer(ctx, err)
}

func (*Server) member(pattern string, b *pb.Backend) (model.Member, error) {
	if err := readPattern(pattern); err != nil {
		return model.Member{}, err
	}
	return readMember(b)
}

// PoolHealth joins a pool's backends with what HAProxy, or our first check, has found.
func (s *Server) PoolHealth(ctx context.Context, req *pb.PoolHealthReq) (*pb.PoolHealthResp, error) {
	if err := readPattern(req.GetPattern()); err != nil {
		return nil, s.answer(ctx, err)
	}
	row, err := s.o.Pools.Pool(req.GetPattern())
	if err != nil {
		return nil, s.answer(ctx, err)
	}
	up := map[string]bool{}
	servers := s.o.Reporter.Status().Servers
	for i := range servers {
		if servers[i].Service == row.Service && servers[i].Health == model.Up {
			up[servers[i].Name] = true
		}
	}
	health := &pb.PoolHealth{Status: pb.PoolStatus_PS_FULL}
	var sick []*pb.BackendHealth
	for _, m := range row.Members {
		b := &pb.BackendHealth{Backend: backend(m), Status: pb.BackendStatus_BS_HEALTHY}
		if up[m.Name()] {
			health.Backends = append(health.Backends, b)
			continue
		}
		b.Status, health.Status = pb.BackendStatus_BS_SICK, pb.PoolStatus_PS_DEGRADED
		sick = append(sick, b)
	}
	if len(row.Members) == 0 {
		health.Status = pb.PoolStatus_PS_EMPTY
	}
	if !req.GetHealthy() {
		health.Backends = nil
	}
	if req.GetSick() {
		health.Backends = slices.Concat(health.Backends, sick)
	}
	return &pb.PoolHealthResp{Health: health}, nil
}

func backend(m model.Member) *pb.Backend {
	return &pb.Backend{Backend: &pb.Backend_IpBackend{IpBackend: &pb.IPBackend{Ip: m.IP.String(), Port: int32(m.Port), UrlPath: m.BasePath}}}
}

// answer gives an error its code.
func (s *Server) answer(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ended := ctx.Err(); ended != nil {
		return status.FromContextError(ended).Err()
	}
	var p model.Problem
	if !errors.As(err, &p) {
		s.o.Log.Error("a call of the pools went wrong", "error", err)
		return status.Error(codes.Internal, "internal error; the balancer's log has more")
	}
	return status.Error(code(p.Kind), model.Printable(p.Error()))
}

func code(k model.Kind) codes.Code {
	switch k {
	case model.Invalid:
		return codes.InvalidArgument
	case model.Conflict:
		return codes.AlreadyExists
	case model.NotFound:
		return codes.NotFound
	case model.Refused:
		return codes.FailedPrecondition
	case model.Unavailable:
		return codes.Unavailable
	}
	return codes.Internal
}
