package rpc

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/model"
	pb "github.com/fnlb/fnlb/proto/rollout/lb"
)

var (
	mega = strings.Repeat("a", 1<<20) // more than a call may have
	huge = strings.Repeat("a", 10_000)
)

// TestBadPattern: every method has a pattern.
func TestBadPattern(t *testing.T) {
	p := &pools{}
	lb := client(t, p)
	ctx := within(t)
	for _, test := range []struct {
		pattern string
		code    codes.Code
		text    string
	}{
		{"", codes.InvalidArgument, "pattern must not be empty"},
		{"/" + huge, codes.InvalidArgument, "pattern has 10001 bytes"},
		{"/" + mega, codes.ResourceExhausted, "grpc: received message larger than max"},
	} {
		for name, call := range map[string]func(pattern string) error{
			"AddPool":    func(s string) error { r := goodPool(); r.Pattern = s; _, err := lb.AddPool(ctx, r); return err },
			"RemovePool": func(s string) error { _, err := lb.RemovePool(ctx, &pb.RemovePoolReq{Pattern: s}); return err },
			"AddBackend": func(s string) error {
				_, err := lb.AddBackend(ctx, &pb.AddBackendReq{Pattern: s, Backend: at("::1", 1, "")})
				return err
			},
			"RemoveBackend": func(s string) error {
				_, err := lb.RemoveBackend(ctx, &pb.RemoveBackendReq{Pattern: s, Backend: at("::1", 1, "")})
				return err
			},
			"PoolHealth": func(s string) error { _, err := lb.PoolHealth(ctx, &pb.PoolHealthReq{Pattern: s}); return err },
		} {
			refused(t, name, call(test.pattern), test.code, test.text)
		}
	}
	if got, _ := p.last(); got != nil {
		t.Errorf("the pools were asked for %v", got)
	}
}

// TestBadPool: the texts are the original's where it had one.
func TestBadPool(t *testing.T) {
	p := &pools{}
	lb := client(t, p)
	ctx := within(t)
	check1 := func(h ...*pb.HealthCheck) func(*pb.AddPoolReq) {
		return func(r *pb.AddPoolReq) { r.HealthChecks.HealthChecks = h }
	}
	interval := func(secs int32) func(*pb.AddPoolReq) {
		return func(r *pb.AddPoolReq) { r.HealthChecks.IntervalSecs = secs }
	}
	const seconds, concrete = "interval_secs must be from 1 to 86400", "a health_check is missing its concrete type"
	for _, test := range []struct {
		name string
		bad  func(*pb.AddPoolReq)
		text string
	}{
		{"no type", func(r *pb.AddPoolReq) { r.PoolType = pb.PoolType_PT_UNKNOWN }, "must set a pool_type"},
		{"unknown type", func(r *pb.AddPoolReq) { r.PoolType = 7 }, "must set a pool_type"},
		{"negative type", func(r *pb.AddPoolReq) { r.PoolType = -1 }, "must set a pool_type"},
		{"nothing of checks", func(r *pb.AddPoolReq) { r.HealthChecks = nil }, "must have at least 1 health_check"},
		{"no check", check1(), "must have at least 1 health_check"},
		{"nine checks", check1(slices.Repeat([]*pb.HealthCheck{status1("/", "ok")}, 9)...), "there are 9 health_checks"},
		{"empty check", check1(&pb.HealthCheck{}), concrete},
		{"second one empty", check1(status1("/", "ok"), &pb.HealthCheck{}), concrete},
		{"no values", check1(status1("/")), "must provide at least one healthy value"},
		{"33 values", check1(status1("/", slices.Repeat([]string{"ok"}, 33)...)), "there are 33 healthy values"},
		{"interval 0", interval(0), seconds},
		{"interval below 0", interval(-1), seconds},
		{"least interval", interval(-1 << 31), seconds},
		{"a day and a second", interval(86401), seconds},
		{"greatest interval", interval(1<<31 - 1), seconds},
		{"empty path", check1(status1("", "ok")), "a health_check is refused: "},
		{"no slash", check1(status1("healthz", "ok")), "a health_check is refused: "},
		{"newline", check1(status1("/a\nb", "ok")), "a health_check is refused: "},
		{"NUL", check1(status1("/a\x00", "ok")), "a health_check is refused: "},
		{"space", check1(status1("/a b", "ok")), "a health_check is refused: "},
		{"long path", check1(status1("/"+huge, "ok")), "a health_check is refused: "},
		{"empty value", check1(status1("/", "")), "a health_check is refused: "},
		{"value of lines", check1(status1("/", "a\nb")), "a health_check is refused: "},
		{"long value", check1(status1("/", huge)), "a health_check is refused: "},
	} {
		req := goodPool()
		test.bad(req)
		_, err := lb.AddPool(ctx, req)
		refused(t, test.name, err, codes.InvalidArgument, test.text)
	}
	if got, _ := p.last(); got != nil {
		t.Errorf("the pools were asked for %v", got)
	}
	_, err := lb.AddPool(ctx, &pb.AddPoolReq{})
	refused(t, "empty message", err, codes.InvalidArgument, "pattern must not be empty")
}

// TestBadBackend: both methods that have one refuse the same.
func TestBadBackend(t *testing.T) {
	p := &pools{}
	lb := client(t, p)
	ctx := within(t)
	const ip, port, path, concrete = "backend ip is invalid", "port is invalid", "url_path is refused: ", "a backend is missing its concrete type"
	for _, test := range []struct {
		name    string
		backend *pb.Backend
		text    string
	}{
		{"none", nil, concrete},
		{"empty", &pb.Backend{}, concrete},
		{"empty address", at("", 80, ""), ip},
		{"name", at("localhost", 80, ""), ip},
		{"name with a dot", at("backend.example", 80, ""), ip},
		{"with port", at("10.0.0.1:80", 80, ""), ip},
		{"brackets", at("[::1]", 80, ""), ip},
		{"zone", at("fe80::1%eth0", 80, ""), ip},
		{"leading zero", at("010.0.0.1", 80, ""), ip},
		{"newline", at("10.0.0.1\n", 80, ""), ip},
		{"long address", at(huge, 80, ""), ip},
		{"port 0", at("10.0.0.1", 0, ""), port},
		{"port 65536", at("10.0.0.1", 65536, ""), port},
		{"port 70000", at("10.0.0.1", 70000, ""), port},
		{"port below 0", at("10.0.0.1", -1, ""), port},
		{"least port", at("10.0.0.1", -1<<31, ""), port},
		{"port that wraps", at("10.0.0.1", 1<<16+80, ""), port},
		{"no slash", at("10.0.0.1", 80, "v2"), path},
		{"dots", at("10.0.0.1", 80, "/a/../b"), path},
		{"dots at the end", at("10.0.0.1", 80, "/a/.."), path},
		{"line", at("10.0.0.1", 80, "/a\nhttp-request deny"), path},
		{"carriage return", at("10.0.0.1", 80, "/a\r"), path},
		{"NUL", at("10.0.0.1", 80, "/a\x00"), path},
		{"space", at("10.0.0.1", 80, "/a b"), path},
		{"question mark", at("10.0.0.1", 80, "/a?b=c"), path},
		{"expression", at("10.0.0.1", 80, "/%[src]"), path},
		{"long path", at("10.0.0.1", 80, "/"+huge), path},
	} {
		_, err := lb.AddBackend(ctx, &pb.AddBackendReq{Pattern: "/", Backend: test.backend})
		refused(t, "add "+test.name, err, codes.InvalidArgument, test.text)
		_, err = lb.RemoveBackend(ctx, &pb.RemoveBackendReq{Pattern: "/", Backend: test.backend})
		refused(t, "remove "+test.name, err, codes.InvalidArgument, test.text)
	}
	for _, b := range []*pb.Backend{at(mega, 80, ""), at("10.0.0.1", 80, "/"+mega)} {
		_, err := lb.AddBackend(ctx, &pb.AddBackendReq{Pattern: "/", Backend: b})
		refused(t, "1 MB", err, codes.ResourceExhausted, "grpc: received message larger than max")
	}
	if got, _ := p.last(); got != nil {
		t.Errorf("the pools were asked for %v", got)
	}
}

// readable wants either a value, or one problem for people.
func readable(t *testing.T, err error) bool {
	t.Helper()
	if err == nil {
		return true
	}
	var p model.Problem
	if !errors.As(err, &p) || p.Kind != model.Invalid || p.Reason == "" {
		t.Errorf("%T %v is no problem of the input", err, err)
	}
	return false
}

func FuzzReadPool(f *testing.F) {
	for _, bad := range []func(*pb.AddPoolReq){
		func(*pb.AddPoolReq) {},
		func(r *pb.AddPoolReq) { r.HealthChecks = nil },
		func(r *pb.AddPoolReq) { r.HealthChecks.IntervalSecs = -1 },
		func(r *pb.AddPoolReq) { r.HealthChecks.HealthChecks = []*pb.HealthCheck{{}, status1("/", "")} },
	} {
		req := goodPool()
		bad(req)
		f.Add(encoded(f, req))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		var req pb.AddPoolReq
		if proto.Unmarshal(message, &req) != nil {
			return // not ours to read
		}
		pool, err := readPool(&req)
		if !readable(t, err) {
			return
		}
		if err := check.Validate(pool.Check); err != nil || pool.Pattern == "" || len(pool.Pattern) > maxPattern {
			t.Errorf("%+v was accepted: %v", pool, err)
		}
	})
}

func FuzzReadMember(f *testing.F) {
	for _, b := range []*pb.Backend{{}, at("10.0.0.1", 80, "/"), at("fe80::1%a", 80, ""), at("::ffff:10.0.0.1", 1, "/a//"), at("::1", -1, "/..")} {
		f.Add(encoded(f, b))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		var b pb.Backend
		if proto.Unmarshal(message, &b) != nil {
			return // not ours to read
		}
		m, err := readMember(&b)
		if !readable(t, err) {
			return
		}
		if !m.IP.IsValid() || m.IP.Zone() != "" || m.IP.Is4In6() || m.Port == 0 || int32(m.Port) != b.GetIpBackend().GetPort() {
			t.Errorf("%+v was accepted", m)
		}
		if m.BasePath != "" {
			if err := model.ValidBasePath(m.BasePath); err != nil {
				t.Errorf("%+v was accepted: %v", m, err)
			}
		}
	})
}

func encoded(f *testing.F, m proto.Message) []byte {
	f.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	return b
}
