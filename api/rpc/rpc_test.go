package rpc

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/fnlb/fnlb/api"
	"github.com/fnlb/fnlb/model"
	pb "github.com/fnlb/fnlb/proto/rollout/lb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what must happen; it is for a machine that is busy.
const patience = 60 * time.Second

// pools notes what it is asked for. Do, where it is set, decides what becomes of a change.
type pools struct {
	do func(ctx context.Context) error

	mu    sync.Mutex
	asked []any  // model.Pool, model.Member, or the pattern of a removed pool
	by    string // who asked last
	row   model.PoolRow
}

func (p *pools) note(ctx context.Context, what any) error {
	p.mu.Lock()
	p.asked, p.by = append(p.asked, what), model.Asker(ctx)
	p.mu.Unlock()
	if p.do == nil {
		return nil
	}
	return p.do(ctx)
}

func (p *pools) AddPool(ctx context.Context, pool model.Pool) error            { return p.note(ctx, pool) }
func (p *pools) RemovePool(ctx context.Context, pattern string) error          { return p.note(ctx, pattern) }
func (p *pools) AddMember(ctx context.Context, _ string, m model.Member) error { return p.note(ctx, m) }
func (p *pools) RemoveMember(ctx context.Context, _ string, m model.Member) error {
	return p.note(ctx, m)
}

func (p *pools) Pool(string) (model.PoolRow, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.do != nil {
		return p.row, p.do(context.Background())
	}
	return p.row, nil
}

func (p *pools) last() (what any, by string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.asked) == 0 {
		return nil, p.by
	}
	return p.asked[len(p.asked)-1], p.by
}

// reporter has a status and nothing else.
type reporter struct {
	api.Reporter
	status model.Status
}

func (r reporter) Status() model.Status { return r.status }

// served is a Server that serves.
type served struct {
	addr   string
	panics *atomic.Uint64
	stop   func() error // ends Serve and gives its error
}

func options(p api.Pools) Options {
	return Options{Pools: p, Reporter: reporter{}, Files: 1 << 20, Panics: &atomic.Uint64{}, Log: slog.New(slog.DiscardHandler)}
}

// serve runs a Server on a port of the loopback until the test ends.
func serve(t *testing.T, o Options) served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- New(o).Serve(ctx, l) }()
	stop := sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return errors.New("it still serves")
		}
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return served{l.Addr().String(), o.Panics, stop}
}

func dial(t *testing.T, addr string, more ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// client is the generated client of a Server with these pools.
func client(t *testing.T, p api.Pools) pb.LoadBalancerClient {
	t.Helper()
	return pb.NewLoadBalancerClient(dial(t, serve(t, options(p)).addr))
}

// within is a context for calls that must be answered.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// refused wants a code, and a text at the beginning of the message.
func refused(t *testing.T, what string, err error, code codes.Code, text string) {
	t.Helper()
	got := status.Convert(err)
	if got.Code() != code || !strings.HasPrefix(got.Message(), text) {
		t.Errorf("%s: got %s %q, want %s %q…", what, got.Code(), got.Message(), code, text)
	}
	if strings.ContainsAny(got.Message(), "\n\x00") || len(got.Message()) > 300 {
		t.Errorf("%s: the message is no line for a person: %.400q", what, got.Message())
	}
}

func status1(path string, values ...string) *pb.HealthCheck {
	return &pb.HealthCheck{HealthCheck: &pb.HealthCheck_StatusCheck{StatusCheck: &pb.StatusCheck{UrlPath: path, HealthyValues: values}}}
}

func goodPool() *pb.AddPoolReq {
	return &pb.AddPoolReq{Pattern: "/", PoolType: pb.PoolType_PT_P2C, HealthChecks: &pb.HealthChecks{
		HealthChecks: []*pb.HealthCheck{status1("/healthz", "ok", "OK")}, IntervalSecs: 10,
	}}
}

func at(ip string, port int32, path string) *pb.Backend {
	return &pb.Backend{Backend: &pb.Backend_IpBackend{IpBackend: &pb.IPBackend{Ip: ip, Port: port, UrlPath: path}}}
}

// TestCalls: what a good call says reaches the pools as types, with who asked.
func TestCalls(t *testing.T) {
	p := &pools{}
	lb := client(t, p)
	ctx := within(t)
	member := model.Member{IP: netip.MustParseAddr("fd00::1"), Port: 8082, BasePath: "/v2"}
	for _, test := range []struct {
		name string
		call func() error
		want func(any) bool
	}{
		{"AddPool", func() error { _, err := lb.AddPool(ctx, goodPool()); return err }, func(got any) bool {
			pool, ok := got.(model.Pool)
			return ok && pool.Pattern == "/" && pool.Check.Equal(model.Check{
				Kind: model.CheckHTTP, Interval: 10 * time.Second, Timeout: time.Second, Rise: 1, Fall: 1,
				Asks: []model.Ask{{Path: "/healthz", Bodies: []string{"ok", "OK"}}},
			})
		}},
		{"RemovePool", func() error { _, err := lb.RemovePool(ctx, &pb.RemovePoolReq{Pattern: "/a"}); return err }, func(got any) bool { return got == "/a" }},
		{"AddBackend", func() error {
			_, err := lb.AddBackend(ctx, &pb.AddBackendReq{Pattern: "/", Backend: at("fd00::1", 8082, "/v2/")})
			return err
		}, func(got any) bool { return got == member }},
		{"RemoveBackend", func() error {
			_, err := lb.RemoveBackend(ctx, &pb.RemoveBackendReq{Pattern: "/", Backend: at("FD00:0::1", 8082, "/v2")})
			return err
		}, func(got any) bool { return got == member }},
		{"IPv4 in IPv6", func() error {
			_, err := lb.AddBackend(ctx, &pb.AddBackendReq{Pattern: "/", Backend: at("::ffff:192.0.2.7", 65535, "/")})
			return err
		}, func(got any) bool { return got == model.Member{IP: netip.MustParseAddr("192.0.2.7"), Port: 65535} }},
	} {
		err := test.call()
		if got, by := p.last(); err != nil || !test.want(got) || by != "pools API from 127.0.0.1" {
			t.Errorf("%s: %+v by %q, %v", test.name, got, by, err)
		}
	}
}

// TestCodes: what the pools say becomes a code, and only a problem's words reach the caller.
func TestCodes(t *testing.T) {
	var answer error
	p := &pools{do: func(context.Context) error { return answer }}
	lb := client(t, p)
	ctx := within(t)
	for _, test := range []struct {
		err  error
		code codes.Code
		text string
	}{
		{model.Problem{Kind: model.Invalid, Reason: "a", Mend: "b"}, codes.InvalidArgument, "a; b"},
		{model.Problem{Kind: model.Conflict, Reason: "pattern(/) is already registered"}, codes.AlreadyExists, "pattern(/) is already registered"},
		{model.Problem{Kind: model.NotFound, Reason: "pool(/) not found"}, codes.NotFound, "pool(/) not found"},
		{model.Problem{Kind: model.Refused, Reason: "backend is sick: no"}, codes.FailedPrecondition, "backend is sick: no"},
		{model.Problem{Kind: model.Unavailable, Reason: "the store"}, codes.Unavailable, "the store"},
		{model.Problem{Kind: 99, Reason: "odd"}, codes.Internal, "odd"},
		{errors.Join(errors.New("postgres://u:secret@h"), model.Problem{Kind: model.Conflict, Reason: "only this"}), codes.AlreadyExists, "only this"},
		{errors.New("postgres://u:secret@h: refused"), codes.Internal, "internal error; the balancer's log has more"},
		{model.Problem{Kind: model.Refused, Reason: "line\nand\x00line " + strings.Repeat("x", 4000)}, codes.FailedPrecondition, "line and line xxx"},
	} {
		answer = test.err
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
		} {
			err := call()
			refused(t, name, err, test.code, test.text)
			if strings.Contains(status.Convert(err).Message(), "secret") {
				t.Errorf("%s: the secret is told: %v", name, err)
			}
		}
	}
}

// TestPoolHealth: the status is of the whole pool, whatever is listed; healthy ones come first.
func TestPoolHealth(t *testing.T) {
	a := model.Member{IP: netip.MustParseAddr("10.0.0.1"), Port: 1, BasePath: "/v1"}
	b := model.Member{IP: netip.MustParseAddr("10.0.0.2"), Port: 2, BasePath: "/v1"}
	up := func(service string, m model.Member, h model.Health) model.ServerStatus {
		return model.ServerStatus{Service: service, Name: m.Name(), Health: h}
	}
	for _, test := range []struct {
		name          string
		members       []model.Member
		servers       []model.ServerStatus
		healthy, sick bool
		status        pb.PoolStatus
		want          string
	}{
		{"empty", nil, []model.ServerStatus{up("s", a, model.Up)}, true, true, pb.PoolStatus_PS_EMPTY, ""},
		{"full", []model.Member{a, b}, []model.ServerStatus{up("s", a, model.Up), up("s", b, model.Up)}, true, true, pb.PoolStatus_PS_FULL, "10.0.0.1 BS_HEALTHY,10.0.0.2 BS_HEALTHY"},
		{"degraded", []model.Member{a, b}, []model.ServerStatus{up("s", a, model.Down), up("s", b, model.Up)}, true, true, pb.PoolStatus_PS_DEGRADED, "10.0.0.2 BS_HEALTHY,10.0.0.1 BS_SICK"},
		{"only healthy", []model.Member{a, b}, []model.ServerStatus{up("s", b, model.Up)}, true, false, pb.PoolStatus_PS_DEGRADED, "10.0.0.2 BS_HEALTHY"},
		{"only sick", []model.Member{a, b}, []model.ServerStatus{up("s", b, model.Up)}, false, true, pb.PoolStatus_PS_DEGRADED, "10.0.0.1 BS_SICK"},
		{"neither", []model.Member{a, b}, []model.ServerStatus{up("s", b, model.Up)}, false, false, pb.PoolStatus_PS_DEGRADED, ""},
		{"another service's", []model.Member{a}, []model.ServerStatus{up("t", a, model.Up)}, true, true, pb.PoolStatus_PS_DEGRADED, "10.0.0.1 BS_SICK"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := options(&pools{row: model.PoolRow{Service: "s", Members: test.members}})
			o.Reporter = reporter{status: model.Status{Servers: test.servers}}
			lb := pb.NewLoadBalancerClient(dial(t, serve(t, o).addr))
			answer, err := lb.PoolHealth(within(t), &pb.PoolHealthReq{Pattern: "/", Healthy: test.healthy, Sick: test.sick})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, h := range answer.GetHealth().GetBackends() {
				got = append(got, h.GetBackend().GetIpBackend().GetIp()+" "+h.GetStatus().String())
				if p := h.GetBackend().GetIpBackend().GetUrlPath(); p != "/v1" {
					t.Errorf("url_path %q", p)
				}
			}
			if text := strings.Join(got, ","); text != test.want || answer.GetHealth().GetStatus() != test.status {
				t.Errorf("%s %s, want %s %s", answer.GetHealth().GetStatus(), text, test.status, test.want)
			}
		})
	}
}

// TestPanic: a call that panics is an answer, is counted, and the next one works.
func TestPanic(t *testing.T) {
	var calm atomic.Bool
	o := options(&pools{do: func(context.Context) error {
		if !calm.Load() {
			panic("secret")
		}
		return nil
	}})
	s := serve(t, o)
	lb := pb.NewLoadBalancerClient(dial(t, s.addr))
	_, err := lb.AddPool(within(t), goodPool())
	refused(t, "panic", err, codes.Internal, "internal error; the balancer's log has more")
	calm.Store(true)
	if _, err := lb.AddPool(within(t), goodPool()); err != nil || s.panics.Load() != 1 {
		t.Errorf("%v, %d panics", err, s.panics.Load())
	}
}
