package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	pb "github.com/fnlb/fnlb/proto/rollout/lb"
)

// hang is a call that begins, and ends with its context.
type hang struct {
	begun chan struct{}
	ended chan error // why
}

func newHang() hang { return hang{make(chan struct{}, 1), make(chan error, 1)} }

func (h hang) do(ctx context.Context) error {
	h.begun <- struct{}{}
	<-ctx.Done()
	h.ended <- ctx.Err()
	return errors.New("postgres://u:secret@h: cut off")
}

// await gives what a channel has within patience.
func await[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("%s did not come", what)
	}
	return v
}

// TestDeadline: a client's deadline ends its call, here and there, and is no error of ours.
func TestDeadline(t *testing.T) {
	h := newHang()
	lb := client(t, &pools{do: h.do})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := lb.AddPool(ctx, goodPool())
	refused(t, "AddPool", err, codes.DeadlineExceeded, "")
	select {
	case <-h.begun: // on a busy machine the time may be over before the call gets there
		if why := await(t, "the end of the call", h.ended); why == nil {
			t.Error("the call ended by itself")
		}
	default:
	}
}

// TestGone: a client that goes away ends its call.
func TestGone(t *testing.T) {
	h := newHang()
	lb := client(t, &pools{do: h.do})
	ctx, cancel := context.WithCancel(t.Context())
	var call sync.WaitGroup
	defer call.Wait()
	call.Go(func() {
		_, err := lb.AddPool(ctx, goodPool())
		refused(t, "AddPool", err, codes.Canceled, "")
	})
	defer cancel()
	await(t, "the call", h.begun)
	cancel()
	if err := await(t, "the end of the call", h.ended); !errors.Is(err, context.Canceled) {
		t.Errorf("ended by %v", err)
	}
}

// TestCallTime: a call has half a minute, whatever its client asks for.
func TestCallTime(t *testing.T) {
	for name, asked := range map[string]time.Duration{"none": 0, "later": time.Hour, "sooner": 3 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}})
				want := callTime
				if asked != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, asked)
					defer cancel()
					want = min(want, asked)
				}
				s := New(options(&pools{do: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}))
				from := time.Now()
				_, err := s.guardCall(ctx, goodPool(), &grpc.UnaryServerInfo{FullMethod: pb.LoadBalancer_AddPool_FullMethodName},
					func(ctx context.Context, req any) (any, error) { return s.AddPool(ctx, req.(*pb.AddPoolReq)) })
				refused(t, "AddPool", err, codes.DeadlineExceeded, "")
				if took := time.Since(from); took != want {
					t.Errorf("it took %s, want %s", took, want)
				}
			})
		})
	}
}

// TestEnd: Serve ends although a call hangs, a client watches and another says nothing; the call is cut off long before its own time is over.
func TestEnd(t *testing.T) {
	h := newHang()
	s := serve(t, options(&pools{do: h.do}))
	conn := dial(t, s.addr)
	silent, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx := within(t)
	watch, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{Service: "rollout.lb.LoadBalancer"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	var call sync.WaitGroup
	call.Go(func() {
		if _, err := pb.NewLoadBalancerClient(conn).AddPool(ctx, goodPool()); err == nil {
			t.Error("the call that hangs succeeded")
		}
	})
	await(t, "the call", h.begun)
	if err := s.stop(); err != nil {
		t.Errorf("serve: %v", err)
	}
	if why := await(t, "the end of the call", h.ended); !errors.Is(why, context.Canceled) {
		t.Errorf("the call was ended by %v", why)
	}
	call.Wait()
	if _, err := net.Dial("tcp", s.addr); err == nil {
		t.Error("the port is still open")
	}
}

// early repeats what must happen before stopTime is over, where the machine was too busy for it.
func early(t *testing.T, try func() error) {
	t.Helper()
	var err error
	for range 10 {
		from := time.Now()
		if err = try(); err == nil {
			return
		}
		if time.Since(from) < stopTime {
			break
		}
	}
	t.Error(err)
}

// TestFinish: a call that runs when the end comes, and ends soon, is answered.
func TestFinish(t *testing.T) {
	early(t, func() error {
		begun, ended := make(chan struct{}), make(chan struct{})
		s := serve(t, options(&pools{do: func(context.Context) error { close(begun); <-ended; return nil }}))
		lb := pb.NewLoadBalancerClient(dial(t, s.addr))
		answer := make(chan error, 1)
		go func() {
			_, err := lb.AddPool(context.Background(), goodPool())
			answer <- err
		}()
		await(t, "the call", begun)
		stopped := make(chan error, 1)
		go func() { stopped <- s.stop() }()
		for { // until no new connection is taken, which is when the end has begun
			conn, err := net.Dial("tcp", s.addr)
			if err != nil {
				break
			}
			conn.Close()
		}
		close(ended)
		err := await(t, "the answer", answer)
		return errors.Join(err, await(t, "the end", stopped))
	})
}

// TestWatch: who watches the health learns of the end before the connection goes.
func TestWatch(t *testing.T) {
	early(t, func() error {
		s := serve(t, options(&pools{}))
		ctx, cancel := context.WithCancel(within(t))
		defer cancel()
		watch, err := healthpb.NewHealthClient(dial(t, s.addr)).Watch(ctx, &healthpb.HealthCheckRequest{Service: "rollout.lb.LoadBalancer"})
		if err != nil {
			return err
		}
		if m, err := watch.Recv(); err != nil || m.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			return fmt.Errorf("at first %v: %w", m, err)
		}
		stopped := make(chan error, 1)
		go func() { stopped <- s.stop() }()
		m, err := watch.Recv()
		cancel()
		if err := await(t, "the end", stopped); err != nil {
			return err
		}
		if err != nil || m.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
			return fmt.Errorf("at the end %v: %w", m, err)
		}
		return nil
	})
}

// TestListenerFails: who closed the port under us is told.
func TestListenerFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := New(options(&pools{})).Serve(t.Context(), l); err == nil || !strings.HasPrefix(err.Error(), "serve pools on 127.0.0.1:") {
		t.Errorf("got %v", err)
	}
}

// TestBigHeaders: metadata has a bound as well, and the connection goes on.
func TestBigHeaders(t *testing.T) {
	p := &pools{}
	lb := client(t, p)
	ctx := within(t)
	if _, err := lb.AddPool(metadata.AppendToOutgoingContext(ctx, "x", mega[:maxHeader*2]), goodPool()); err == nil {
		t.Error("metadata of twice the bound was taken")
	}
	if got, _ := p.last(); got != nil {
		t.Errorf("the pools were asked for %v", got)
	}
	if _, err := lb.AddPool(ctx, goodPool()); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

// speak opens a connection of HTTP/2 that asks for nothing.
func speak(t *testing.T, addr string) (net.Conn, *http2.Framer) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(conn, conn)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return conn, f
}

// TestPings: a client that pings all the time is told to calm down and cut off.
func TestPings(t *testing.T) {
	conn, f := speak(t, serve(t, options(&pools{})).addr)
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if f.WritePing(false, [8]byte{}) != nil {
			break // cut off already
		}
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("the connection ended without a word: %v", err)
		}
		if away, ok := frame.(*http2.GoAwayFrame); ok {
			if away.ErrCode != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("told %s", away.ErrCode)
			}
			break
		}
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		t.Errorf("it is not cut off: %v", err)
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// TestCrowded: a peer with more connections than there may be loses its oldest, and another peer keeps its only one.
func TestCrowded(t *testing.T) {
	o := options(&pools{})
	o.Files = 0 // so that there may be the fewest
	s := serve(t, o)
	var dials atomic.Int32
	lb := pb.NewLoadBalancerClient(dial(t, s.addr, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		dials.Add(1)
		return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext(ctx, "tcp", addr)
	})))
	ctx := within(t)
	if _, err := lb.AddPool(ctx, goodPool()); err != nil {
		t.Fatal(err)
	}
	const many, lost = 40, 40 + 1 - fewestConns
	conns := make([]net.Conn, many)
	for i := range conns {
		conns[i], _ = speak(t, s.addr)
	}
	for i := range lost {
		if err := conns[i].SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conns[i]); isTimeout(err) {
			t.Errorf("connection %d of %d is still open", i, many)
		}
	}
	if _, err := lb.AddPool(ctx, goodPool()); err != nil || dials.Load() != 1 {
		t.Errorf("the other peer: %v, %d connections", err, dials.Load())
	}
	last, f := conns[many-1], http2.NewFramer(conns[many-1], conns[many-1])
	if err := last.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if err := f.WritePing(false, [8]byte{7}); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("the newest connection is not served: %v", err)
		}
		if ping, ok := frame.(*http2.PingFrame); ok && ping.IsAck() {
			return
		}
	}
}

// TestConnections: a few files are left for others, and a thousand connections are enough.
func TestConnections(t *testing.T) {
	for files, want := range map[uint64]int{0: 16, 128: 16, 1024: 128, 8000: 1000, 1 << 40: 1000} {
		o := options(&pools{})
		o.Files = files
		if got := New(o).connections(); got != want {
			t.Errorf("%d files: %d connections, want %d", files, got, want)
		}
	}
}
