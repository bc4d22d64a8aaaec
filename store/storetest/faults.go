package storetest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fnlb/fnlb/store"
)

// Faults is what a Mirror on a database of a server must bear.
func Faults(t *testing.T, s *Server, open Opener) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *site)
	}{
		{"cut at random", cutAtRandom},
		{"stalled", stalled},
		{"paused", paused},
		{"answer lost", answerLost},
		{"killed", serverKilled},
		{"wiped", wiped},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := NewProxy(t, s.Socket)
			name := s.Database(t)
			c.test(t, &site{s: s, proxy: p, name: name, open: open, f: Fixture{Open: bind(t, open, s.URL(name, p))}})
		})
	}
}

// site is a database of a server behind a proxy.
type site struct {
	s     *Server
	proxy *Proxy
	name  string
	open  Opener
	f     Fixture
}

// records reads the database past all faults.
func (s *site) records(t *testing.T) []store.Record {
	t.Helper()
	return load(t, open(t, Fixture{Open: bind(t, s.open, s.s.URL(s.name, nil))})).Records
}

// cutAtRandom: connections end at any moment.
func cutAtRandom(t *testing.T, s *site) {
	m, _ := mirror(t, s.f)
	w := write(m, 8)
	for range 20 {
		time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
		s.proxy.Cut()
	}
	w.some(t, 50)
	w.check(t, func() []store.Record { return s.records(t) })
}

// silent: while the server does not answer, changes are refused and reading goes on; it heals by itself.
func silent(t *testing.T, s *site, begin, end func()) {
	m, v := mirror(t, s.f)
	Update(t, m, "n/1", "1")
	begin()
	ended := false
	defer func() {
		if !ended {
			end()
		}
	}()
	// One may go through that was on its way.
	Until(t, v, "that the database is away", func() bool {
		err := m.Update(t.Context(), "n/1", Put("", "2").Change)
		if err != nil && !isAway(err) {
			t.Fatalf("update: %v", err)
		}
		return err != nil
	})
	if len(v.Records()) != 1 {
		t.Errorf("reading gives %q", v.Records())
	}
	if _, away := m.Standing(); away == nil {
		t.Error("it does not stand as away")
	}
	end()
	ended = true
	Update(t, m, "n/1", "3")
	if got := fmt.Sprintf("%s", s.records(t)); got != "[{n/1 3}]" {
		t.Errorf("the database has %s", got)
	}
}

func stalled(t *testing.T, s *site) { silent(t, s, s.proxy.Stall, func() { s.proxy.Resume() }) }

func paused(t *testing.T, s *site) { silent(t, s, s.s.Pause, s.s.Continue) }

// answerLost: the connection is cut at the commit. Each change is made, once.
func answerLost(t *testing.T, s *site) {
	m, v := mirror(t, s.f)
	Update(t, m, "n/1", "0") // nothing but changes commits from now on
	done, unknown := 0, 0
	for range 5 {
		s.proxy.LoseAnswer(s.s.kind.commit)
		err := m.Update(t.Context(), "n/1", func(old []byte) ([]byte, error) { return fmt.Append(nil, length(old)+1), nil })
		switch {
		case err == nil:
			done++
		case isAway(err): // on a machine that is busy for seconds it may not be reached again in time
			t.Logf("nobody knows: %v", err)
			unknown++
		default:
			t.Fatal(err)
		}
		Until(t, v, "the database", func() bool { _, away := m.Standing(); return away == nil })
	}
	if s.proxy.Lost() == 0 {
		t.Error("no answer was lost")
	}
	var value []byte
	if is := s.records(t); len(is) > 0 {
		value = is[0].Value
	}
	if n := length(value); n < done || n > done+unknown {
		t.Errorf("after %d changes, and %d of which nobody knows, the database has %d", done, unknown, n)
	}
}

func length(number []byte) (n int) {
	fmt.Sscan(string(number), &n) //nolint:errcheck // none is 0
	return n
}

// serverKilled: all its processes at once, with writers at work.
func serverKilled(t *testing.T, s *site) {
	m, _ := mirror(t, s.f)
	w := write(m, 8)
	for range 3 {
		w.some(t, 20)
		s.s.Kill()
		s.s.Start(t)
	}
	w.some(t, 20)
	w.check(t, func() []store.Record { return s.records(t) })
}

// wiped: the server comes back with a fresh folder. What is known is written back.
func wiped(t *testing.T, s *site) {
	m, v := mirror(t, s.f)
	Update(t, m, "n/1", "1")
	Update(t, m, "n/2", "2")
	s.s.Stop()
	s.s.Wipe(t)
	s.s.Start(t)
	if err := s.s.SQL(s.s.kind.admin, "CREATE DATABASE "+s.name); err != nil {
		t.Fatal(err)
	}
	Update(t, m, "n/3", "3")
	Until(t, v, "the records", func() bool { return len(v.Records()) == 3 })
	if got := fmt.Sprintf("%s", s.records(t)); got != "[{n/1 1} {n/2 2} {n/3 3}]" {
		t.Errorf("the database has %s", got)
	}
}

// text keeps what is logged.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *text) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *text) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// hostile are passwords with everything that an address makes a difference of. Each begins with mark.
var hostile = []string{mark + "@h/d?x#y", mark + "%41%zz:&=;", mark + `'"\ (tcp(x)/`, mark + "é😀<>[]{}|^`$~"}

const mark = "s3cr"

// Secrets has a Mirror log in with hostile passwords, and fail in all ways there are. None of them may be in what is logged or answered.
func Secrets(t *testing.T, s *Server, open Opener, makeUser func(user, password, database string) string) {
	p := NewProxy(t, s.Socket)
	name := s.Database(t)
	for i, password := range hostile {
		user := fmt.Sprintf("user%d", i)
		if err := s.SQL(name, makeUser(user, password, name)); err != nil {
			t.Fatal(err)
		}
		scheme, _, _ := strings.Cut(s.URL(name, p), "://")
		login := func(user, password string) string {
			return scheme + "://" + url.UserPassword(user, password).String() + "@"
		}
		addresses := map[string]string{
			"right":            login(user, password) + p.Addr + "/" + name,
			"wrong password":   login(user, password+"x") + p.Addr + "/" + name,
			"wrong user":       login("nobody", password) + p.Addr + "/" + name,
			"wrong database":   login(user, password) + p.Addr + "/" + mark[:1] + "none",
			"refused":          login(user, password) + "127.0.0.1:1/" + name,
			"no such name":     login(user, password) + "none.invalid/" + name,
			"TLS":              login(user, password) + p.Addr + "/" + name + map[string]string{"postgres": "?sslmode=require", "mysql": "?tls=true"}[scheme],
			"no such setting":  login(user, password) + p.Addr + "/" + name + "?nonsense=1",
			"bad parameter":    login(user, password) + p.Addr + "/" + name + "?connect_timeout=x&timeout=y&sslmode=z",
			"bad pool":         login(user, password) + p.Addr + "/" + name + "?pool_max_conns=x",
			"secret parameter": login(user, "x") + p.Addr + "/" + name + "?sslpassword=" + url.QueryEscape(password),
		}
		for what, address := range addresses {
			said := tryLogin(t, open, address, what == "right", p)
			if strings.Contains(said, mark) {
				t.Errorf("password %q, %s: it is told: %s", password, what, said)
			}
		}
	}
}

// tryLogin gives everything that is said.
func tryLogin(t *testing.T, open Opener, address string, right bool, p *Proxy) string {
	t.Helper()
	a, err := store.Parse(address)
	if err != nil {
		if right {
			t.Errorf("%s: %v", address, err)
		}
		return err.Error()
	}
	log := &text{}
	m := store.New(store.Options{Name: a.String(), Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Open: func(ctx context.Context) (store.DB, error) { return open(ctx, a) }})
	v := m.Follow("n")
	stop := Start(t, m)
	Until(t, v, "whether it can be reached", func() bool { loaded, away := m.Standing(); return loaded || away != nil })
	_, away := m.Standing()
	if right {
		Update(t, m, "n/1", "1")
		p.Cut()
		Update(t, m, "n/1", "2")
	} else if away == nil {
		t.Errorf("%s can be reached", a)
	}
	err = m.Update(t.Context(), "n/1", Put("", "3").Change)
	stop()
	return fmt.Sprintf("%v %+v %v %+v %s", away, away, err, a, log)
}
