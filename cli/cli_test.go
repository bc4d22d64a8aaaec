package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/fnlb/fnlb/proto/rollout/lb"
)

// leakless fails a run that leaves goroutines.
type leakless struct{ *testing.M }

func (m leakless) Run() int {
	status := m.M.Run()
	if err := goleak.Find(); err != nil && status == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

// TestMain runs this test binary as cli when a script calls it by that name.
func TestMain(m *testing.M) { testscript.Main(leakless{m}, map[string]func(){"cli": main}) }

// balancer answers by the pattern, and notes what it is asked for.
type balancer struct {
	pb.UnimplementedLoadBalancerServer

	mu    sync.Mutex
	asked []string
}

func (b *balancer) note(ctx context.Context, pattern, what string) error {
	md, _ := metadata.FromIncomingContext(ctx)
	b.mu.Lock()
	b.asked = append(b.asked, strings.Join(append([]string{pattern, what}, md.Get("authorization")...), " "))
	b.mu.Unlock()
	switch pattern {
	case "/taken":
		return status.Error(codes.AlreadyExists, "pattern(/taken)\nis already\tregistered")
	case "/away":
		return status.Error(codes.Unavailable, "the store cannot be written")
	case "/slow":
		<-ctx.Done()
	}
	return ctx.Err()
}

func (b *balancer) AddPool(ctx context.Context, r *pb.AddPoolReq) (*pb.AddPoolResp, error) {
	c := r.GetHealthChecks()
	sc := c.GetHealthChecks()[0].GetStatusCheck()
	return &pb.AddPoolResp{}, b.note(ctx, r.GetPattern(), fmt.Sprint("add ", r.GetPoolType(), " ", c.GetIntervalSecs(), " ", sc.GetUrlPath(), " ", sc.GetHealthyValues()))
}

func (b *balancer) RemovePool(ctx context.Context, r *pb.RemovePoolReq) (*pb.RemovePoolResp, error) {
	return &pb.RemovePoolResp{}, b.note(ctx, r.GetPattern(), "remove")
}

func (b *balancer) AddBackend(ctx context.Context, r *pb.AddBackendReq) (*pb.AddBackendResp, error) {
	return &pb.AddBackendResp{}, b.note(ctx, r.GetPattern(), "add "+address(r.GetBackend().GetIpBackend()))
}

func (b *balancer) RemoveBackend(ctx context.Context, r *pb.RemoveBackendReq) (*pb.RemoveBackendResp, error) {
	return &pb.RemoveBackendResp{}, b.note(ctx, r.GetPattern(), "remove "+address(r.GetBackend().GetIpBackend()))
}

func (b *balancer) PoolHealth(ctx context.Context, r *pb.PoolHealthReq) (*pb.PoolHealthResp, error) {
	err := b.note(ctx, r.GetPattern(), fmt.Sprint("health ", r.GetHealthy(), r.GetSick()))
	if r.GetPattern() == "/empty" {
		return &pb.PoolHealthResp{Health: &pb.PoolHealth{Status: pb.PoolStatus_PS_EMPTY}}, err
	}
	return &pb.PoolHealthResp{Health: degraded()}, err
}

// start serves the balancer until the test ends, and gives its address.
func (b *balancer) start(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	pb.RegisterLoadBalancerServer(g, b)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := g.Serve(l); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() { g.Stop(); serving.Wait() })
	return l.Addr().String()
}

// TestScripts: LB is a balancer, SILENT takes connections and says nothing, CLOSED is no port.
func TestScripts(t *testing.T) {
	b := &balancer{}
	lb := b.start(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	t.Run("scripts", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir: "testdata", RequireExplicitExec: true, RequireUniqueNames: true,
			Setup: func(env *testscript.Env) error {
				env.Setenv("LB", lb)
				env.Setenv("SILENT", silent.Addr().String())
				env.Setenv("CLOSED", "127.0.0.1:1") // tcpmux; nobody has it
				return nil
			},
			Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "answered": answered},
		})
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	if all := strings.Join(b.asked, "\n"); strings.Contains(all, "/wrong") {
		t.Errorf("wrong use was sent: %q", all)
	}
	for _, want := range []string{
		"/ add PT_P2C 10 /healthz [ok OK]", "/ add 127.0.0.1:8082/", "/ add [fd00::1]:8082/v2", "/ remove 127.0.0.1:8082", "/ remove", "/ health true true",
		"/token remove Bearer geheim",
	} {
		if !strings.Contains("\n"+strings.Join(b.asked, "\n")+"\n", "\n"+want+"\n") {
			t.Errorf("the balancer was never asked for %q, but %q", want, b.asked)
		}
	}
}

// exits is "exits CODE COMMAND…": it ends with that code and says why in one line of standard error, and nothing else.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] {
		ts.Fatalf("%q: %v, want exit status %s", args[1:], err, args[0])
	}
	if said := ts.ReadFile("stderr"); strings.Count(said, "\n") != 1 || !strings.HasSuffix(said, "\n") || !strings.HasPrefix(said, "cli: ") {
		ts.Fatalf("%q: standard error is not one line: %q", args[1:], said)
	}
	if said := ts.ReadFile("stdout"); said != "" {
		ts.Fatalf("%q: something stands on standard output: %q", args[1:], said)
	}
}

// answered is "answered COMMAND…": it succeeds; again where the machine was too busy for its two seconds.
func answered(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: answered COMMAND…")
	}
	var err error
	for range 10 {
		if err = ts.Exec(args[0], args[1:]...); err == nil || !strings.Contains(ts.ReadFile("stderr"), "did not answer in time") {
			break
		}
	}
	ts.Check(err)
}

// TestStopped: Ctrl-C ends a call at once, with one line.
func TestStopped(t *testing.T) {
	lb := (&balancer{}).start(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	if status := run(ctx, []string{"--lb=" + lb, "--pattern=/slow", "removePool"}, &stdout, &stderr, false); status != 1 || stdout.Len() != 0 || strings.Count(stderr.String(), "\n") != 1 {
		t.Errorf("%d, %q, %q", status, &stdout, &stderr)
	}
}
