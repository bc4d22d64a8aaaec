package e2e

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

// damage is what happens to one exchange with the master socket.
type damage int

const (
	none    damage = iota
	words          // the commands are carried out, and the reply is one that nobody knows
	half           // they are carried out, and the reply ends in the middle
	silent         // they are carried out, and the connection ends without a reply
	cut            // it ends after some of the commands
	unheard        // it ends before the first
	late           // the reply comes when nobody waits for it any more
	damages = int(late)
)

func (d damage) String() string {
	return []string{"none", "words", "half", "silent", "cut", "unheard", "late"}[d]
}

// middleman passes exchanges on to a master socket, and damages some of them.
type middleman struct {
	t        *testing.T
	socket   string // of the real master
	listener net.Listener
	all      sync.WaitGroup

	mu     sync.Mutex
	choose func(request string) damage // nil: all is well
	r      *rand.Rand
	done   [damages + 1]int
}

// startMiddleman listens on path.
func startMiddleman(t *testing.T, path, socket string, r *rand.Rand) *middleman {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	m := &middleman{t: t, socket: socket, listener: l, r: r}
	m.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
				return
			}
			m.all.Go(func() {
				m.pass(c.(*net.UnixConn))
				_ = c.Close() // it may have gone before
			})
		}
	})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		m.all.Wait()
	})
	return m
}

// pass carries one exchange out. What fails in it is for the other side to see.
func (m *middleman) pass(c *net.UnixConn) {
	data, err := io.ReadAll(c) // the client ends its direction behind the last command
	if err != nil {
		return
	}
	request := string(data)
	lines := strings.SplitAfter(strings.TrimSuffix(request, "\n"), "\n")
	m.mu.Lock()
	d, at := none, m.r.Float64()
	if m.choose != nil {
		d = m.choose(request)
	}
	m.done[d]++
	m.mu.Unlock()
	switch d {
	case unheard:
		return
	case cut:
		request = strings.Join(lines[:1+int(at*float64(len(lines)-1))], "")
	}
	reply, err := m.ask(request)
	if err != nil {
		return
	}
	switch d {
	case words:
		first, _, _ := strings.Cut(reply, "\n\n")
		reply = first + "\n\nThis is no reply that anybody knows.\n\n"
	case half:
		reply = reply[:len(reply)/2]
	case silent:
		return
	case late:
		time.Sleep(2100 * time.Millisecond) // the length is the fault: a call may take 2 s
	}
	_, _ = io.WriteString(c, reply)
}

func (m *middleman) ask(request string) (string, error) {
	c, err := net.Dial("unix", m.socket)
	if err != nil {
		return "", err
	}
	defer c.Close() //nolint:errcheck // it was read to its end
	if _, err := io.WriteString(c, request); err != nil {
		return "", err
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		return "", err
	}
	reply, err := io.ReadAll(c)
	return string(reply), err
}

// damage lets choose say what happens to each exchange from now on.
func (m *middleman) damage(choose func(request string) damage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.choose = choose
}

// once damages the next exchange with a command, and no other.
func (m *middleman) once(d damage, command string) {
	m.damage(func(request string) damage {
		if d == none || !strings.Contains(request, command) {
			return none
		}
		now := d
		d = none
		return now
	})
}

// TestRepliesDamaged is fault row 12: replies that are unknown, partial, late or missing, and connections that end in the middle of some
// commands, cost no request; a doubt about what the worker has is told, and in the end it has what is wanted. FNLB_SEEDS is how many rounds
// of damage at random there are, FNLB_SEED where they begin.
func TestRepliesDamaged(t *testing.T) {
	seeds, first := times(t, "FNLB_SEEDS", 2), times(t, "FNLB_SEED", 1)
	each(t, func(t *testing.T, h haproxytest.HAProxy) {
		n := three(t)
		come := []*Node{NewNode(t, "d"), NewNode(t, "e"), NewNode(t, "f")}
		b := newOutside(t)
		b.Config = filepath.Join(b.Dir, "haproxy.cfg")
		between := filepath.Join(b.Dir, "between.sock")
		b.Run(h, "--haproxy-master", "unix@"+between, "--nodes", list(n...))
		b.WaitLog(0, "waiting for the HAProxy", between)
		o := startOutside(t, h, b)
		m := startMiddleman(t, between, o.socket, rand.New(rand.NewPCG(uint64(first), 0)))
		all := wishes{}
		for _, x := range n {
			all[x.Addr] = wish{1, "ready"}
		}
		b.WaitOnline(n...)
		b.waitConverged(o.socket, all.wanted())
		result := underLoad(t, b.Traffic, func() {
			for d := words; d <= late; d++ {
				for _, step := range []struct {
					command string
					do      func()
				}{
					{"add server", func() { b.Put(come[0].Addr); all[come[0].Addr] = wish{1, "ready"} }},
					{"weight 9", func() { b.wish(come[0], `"weight":9`); all[come[0].Addr] = wish{9, "ready"} }},
					{"state maint", func() { b.Delete(come[0].Addr); delete(all, come[0].Addr) }},
				} {
					mark := len(b.Log())
					m.once(d, step.command)
					step.do()
					if d == late { // it might only be slow: whether it answers is asked first
						b.WaitLog(mark, "msg=reloaded", "a change at run time is not complete")
					} else {
						b.WaitLog(mark, "level=WARN", "not changed at run time, reloading")
						b.WaitLog(mark, "msg=reloaded", "runtime-failed")
					}
					b.waitConverged(o.socket, all.wanted())
				}
			}
			for seed := first; seed < first+seeds; seed++ {
				r := rand.New(rand.NewPCG(uint64(seed), 1))
				m.damage(func(request string) damage { // under the lock of the middleman
					if !strings.Contains(request, " server ") || m.r.IntN(3) > 0 { // questions that fail are row 11
						return none
					}
					return damage(1 + m.r.IntN(damages))
				})
				for range 20 {
					all.change(b, r, come[r.IntN(len(come))])
					if r.IntN(2) == 0 {
						b.WaitApplied()
					}
				}
				m.damage(nil)
				b.waitConverged(o.socket, all.wanted())
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
		})
		m.mu.Lock()
		defer m.mu.Unlock()
		t.Logf("%d seeds from %d on; exchanges by damage %v; %d reloads; %s", seeds, first, fmt.Sprint(m.done), strings.Count(b.Log(), "msg=reloaded"), result)
	})
}
