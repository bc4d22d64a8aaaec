package docker

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/fnlb/fnlb/model"
)

func two(w *world, _ *Options) { w.add(published(1), published(2), web(3, nil)) }

const both = "web1@172.17.0.1:8080 web2@172.17.0.2:8080"

// TestFirstIsWhole: nothing is said before all that the first list made necessary is known.
func TestFirstIsWhole(t *testing.T) {
	t.Parallel()
	run(t, func(w *world, _ *Options) {
		for i := 1; i <= 20; i++ {
			w.add(published(i))
		}
		w.cost = time.Second
	}, func(r *rig) {
		r.pass(2900 * time.Millisecond) // eight at a time
		if _, n := r.last(); n != 0 {
			t.Errorf("%d Snapshots before all were inspected", n)
		}
		r.pass(200 * time.Millisecond)
		s, n := r.last()
		if n != 1 || len(s.Offers) != 20 || len(s.Found) != 20 {
			t.Errorf("%d Snapshots, the last has %d offers and %d found", n, len(s.Offers), len(s.Found))
		}
		if r.asked[id(3)] != 1 {
			t.Errorf("a container was inspected %d times", r.asked[id(3)])
		}
	})
}

func TestNothingIsTheTruthToo(t *testing.T) {
	t.Parallel()
	run(t, func(w *world, _ *Options) { w.add(web(3, nil)) }, func(r *rig) {
		if s, n := r.last(); n != 1 || len(s.Offers)+len(s.Found) != 0 || s.Source != "docker" || r.inspections() != 0 {
			t.Errorf("%d Snapshots: %+v, %d inspections", n, s, r.inspections())
		}
		r.pass(time.Hour)
		if _, n := r.last(); n != 1 {
			t.Errorf("%d Snapshots, though nothing happened", n)
		}
	})
}

// TestLeaves: what takes a container out is acted on at once, without a question to the engine.
func TestLeaves(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		tell func(r *rig)
		want string
		by   string
	}{
		{"SIGTERM", func(r *rig) { r.event(events.ActionKill, id(1), "signal", "15") }, "web2@172.17.0.2:8080", "stopped by signal 15"},
		{"its own signal", func(r *rig) { r.event(events.ActionKill, id(2), "signal", "37") }, "web1@172.17.0.1:8080", "stopped by signal 37"},
		{"SIGHUP", func(r *rig) { r.event(events.ActionKill, id(1), "signal", "1") }, both, ""},
		{"SIGUSR1", func(r *rig) { r.event(events.ActionKill, id(1), "signal", "10") }, both, ""},
		{"another's own signal", func(r *rig) { r.event(events.ActionKill, id(1), "signal", "37") }, both, ""},
		{"end", func(r *rig) { r.event(events.ActionDie, id(1), "exitCode", "137") }, "web2@172.17.0.2:8080", "exit code 137"},
		{"a label in place of the exit code", func(r *rig) { r.event(events.ActionDie, id(1), "exitCode", "0\n"+strings.Repeat("x", 1<<16)) }, "web2@172.17.0.2:8080", "exit code"},
		{"removal", func(r *rig) { r.event(events.ActionDestroy, id(1)) }, "web2@172.17.0.2:8080", "removed"},
		{"HEALTHCHECK", func(r *rig) { r.event("health_status: unhealthy", id(1)) }, "web2@172.17.0.2:8080", "HEALTHCHECK"},
		{"pause", func(r *rig) { r.event(events.ActionPause, id(1)) }, "web1@172.17.0.1:8080/maint web2@172.17.0.2:8080", ""},
		{"disconnect", func(r *rig) { r.event(events.ActionDisconnect, id(1), "network", "id-bridge") }, "web2@172.17.0.2:8080", "disconnected"},
		{"disconnect from another network", func(r *rig) { r.event(events.ActionDisconnect, id(1), "network", "id-front") }, both, ""},
		{"end of a container that is none of ours", func(r *rig) { r.event(events.ActionDie, id(3)) }, both, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			run(t, func(w *world, o *Options) {
				two(w, o)
				w.change(id(2), func(f *facts) { f.stopSignal = "SIGRTMIN+3" })
			}, func(r *rig) {
				r.want("at first", both)
				r.pass(time.Second) // not the moment after another Snapshot
				release := make(chan struct{})
				r.locked(func() { r.stalled = release })
				before := time.Now()
				tt.tell(r)
				r.want("after the event", tt.want)
				if d := time.Since(before); d != 0 {
					t.Errorf("it took %s", d)
				}
				s, _ := r.last()
				asked := ""
				for _, a := range s.Asked {
					asked += a.By
					readable(t, "by", a.By)
				}
				if tt.by == "" && asked != "" || !strings.Contains(asked, tt.by) {
					t.Errorf("asked for by %q, want %q", asked, tt.by)
				}
				close(release)
			})
		})
	}
}

// TestAskedIsForgotten: a stop is told for a minute, and not of a container that is back.
func TestAskedIsForgotten(t *testing.T) {
	t.Parallel()
	run(t, two, func(r *rig) {
		r.change(id(1), func(f *facts) { f.state = "exited" })
		r.event(events.ActionDie, id(1), "exitCode", "0")
		r.want("after its end", "web2@172.17.0.2:8080")
		if s, _ := r.last(); len(s.Asked) != 1 || s.Asked[0].Owner != (model.Owner{Source: "docker", Name: "web1"}) {
			t.Errorf("asked: %+v", s.Asked)
		}
		r.pass(remembered + 10*time.Second)
		if s, _ := r.last(); len(s.Asked) != 0 {
			t.Errorf("after a minute: %+v", s.Asked)
		}
		r.event(events.ActionDie, id(1), "exitCode", "0")
		r.change(id(1), func(f *facts) { f.state, f.started = "running", "again" })
		r.event(events.ActionStart, id(1))
		r.pass(minPut)
		if s, _ := r.last(); len(s.Asked) != 0 {
			t.Errorf("of one that runs: %+v", s.Asked)
		}
	})
}

// TestComes: events that bring a container, or bring it back.
func TestComes(t *testing.T) {
	t.Parallel()
	run(t, two, func(r *rig) {
		r.want("at first", both)
		r.add(published(4))
		r.event(events.ActionCreate, id(4))
		r.event(events.ActionStart, id(4))
		r.pass(minPut)
		r.want("after a start", both+" web4@172.17.0.4:8080")

		r.event("health_status: unhealthy", id(4))
		r.want("unhealthy", both)
		r.event("health_status: healthy", id(4))
		r.pass(minPut)
		r.want("healthy again", both+" web4@172.17.0.4:8080")

		r.change(id(4), func(f *facts) { f.name = "renamed" })
		r.event(events.ActionRename, id(4))
		r.pass(minPut)
		r.want("renamed", "renamed@172.17.0.4:8080 "+both)

		r.change(id(4), func(f *facts) { f.networks = nil })
		r.event(events.ActionDisconnect, id(4), "network", "id-bridge")
		r.want("disconnected", both)
		r.change(id(4), func(f *facts) { f.networks = []endpoint{place("front", "10.2.0.4")} })
		r.event(events.ActionConnect, id(4), "network", "id-front")
		r.pass(minPut)
		r.want("connected to another", "renamed@10.2.0.4:8080 "+both)

		r.event(events.ActionPause, id(4))
		r.want("paused", "renamed@10.2.0.4:8080/maint "+both)
		r.event(events.ActionUnPause, id(4))
		r.pass(minPut)
		r.want("unpaused", "renamed@10.2.0.4:8080 "+both)

		first := r.instance("renamed")
		r.event(events.ActionKill, id(4), "signal", "15")
		r.event(events.ActionDie, id(4), "exitCode", "0")
		r.want("stopped", both)
		r.change(id(4), func(f *facts) { f.started = "again" })
		r.event(events.ActionStart, id(4))
		r.pass(minPut)
		r.want("started again", "renamed@10.2.0.4:8080 "+both)
		if r.instance("renamed") == first {
			t.Error("two runs of a container are taken for one")
		}
	})
}

func (r *rig) instance(server string) string {
	s, _ := r.last()
	for i := range s.Offers {
		for _, srv := range s.Offers[i].Servers {
			if srv.Name == server {
				return srv.Instance
			}
		}
	}
	r.t.Errorf("there is no server %s", server)
	return ""
}

// TestAskedAgain: an answer that was asked for before an event is not believed.
func TestAskedAgain(t *testing.T) {
	t.Parallel()
	run(t, two, func(r *rig) {
		r.locked(func() { r.cost = time.Second })
		r.change(id(1), func(f *facts) { f.networks[0] = place("bridge", "172.17.0.99") })
		r.event(events.ActionConnect, id(1), "network", "id-bridge")
		r.pass(500 * time.Millisecond) // the answer is on its way
		r.change(id(1), func(f *facts) { f.networks[0] = place("bridge", "172.17.0.100") })
		r.event(events.ActionConnect, id(1), "network", "id-bridge")
		r.pass(600 * time.Millisecond)
		r.want("the first answer is stale", both)
		r.pass(time.Second)
		r.want("the second is not", "web1@172.17.0.100:8080 web2@172.17.0.2:8080")
		if n := r.asked[id(1)]; n != 3 {
			t.Errorf("it was inspected %d times", n)
		}
	})
}

// TestStoppedBeforeTheAnswer: a container that is told to stop while it is inspected for the first time never serves.
func TestStoppedBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	run(t, two, func(r *rig) {
		r.locked(func() { r.cost = time.Second })
		r.add(published(4))
		r.event(events.ActionStart, id(4))
		r.pass(500 * time.Millisecond)
		r.event(events.ActionKill, id(4), "signal", "15")
		r.pass(4 * time.Second)
		r.want("it runs, and was told to stop", both)
		r.event(events.ActionDie, id(4), "exitCode", "0")
		r.change(id(4), func(f *facts) { f.started = "again" })
		r.event(events.ActionStart, id(4))
		r.pass(4 * time.Second)
		r.want("started again", both+" web4@172.17.0.4:8080")
	})
}

// TestAddressTaken is row 21: no Snapshot has two servers with one address, and the newcomer is another instance.
func TestAddressTaken(t *testing.T) {
	t.Parallel()
	run(t, two, func(r *rig) {
		for run := range 20 {
			old, next := id(10+run), published(11+run, "lb.publish", "81")
			if run == 0 {
				old = id(1)
			}
			next.networks[0].ip4 = netip.MustParseAddr("172.17.0.1")
			r.change(old, func(f *facts) { f.state = "exited"; f.networks = nil })
			r.event(events.ActionDie, old, "exitCode", "0")
			r.add(next)
			r.event(events.ActionStart, next.id)
			r.pass(minPut)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		seen := map[string]bool{}
		for _, s := range r.puts {
			at := map[netip.AddrPort]string{}
			for i := range s.Offers {
				for _, srv := range s.Offers[i].Servers {
					if other := at[srv.Addr()]; other != "" {
						t.Errorf("%s and %s have %s", other, srv.Name, srv.Addr())
					}
					at[srv.Addr()] = srv.Name
					seen[srv.Instance] = true
				}
			}
		}
		if len(seen) != 22 {
			t.Errorf("%d instances were seen", len(seen))
		}
	})
}

// TestMissed: the list finds what events did not tell, and the stream is opened again behind the last event.
func TestMissed(t *testing.T) {
	t.Parallel()
	run(t, two, func(r *rig) {
		r.event(events.ActionKill, id(1), "signal", "1")
		r.pass(time.Second)
		r.add(published(4))
		r.locked(func() { delete(r.containers, id(2)) })
		r.pass(5 * time.Second)
		r.want("one came and one went without a word", "web1@172.17.0.1:8080 web4@172.17.0.4:8080")
		if len(r.since) != 1 {
			t.Errorf("the stream was opened %d times: an event may still come", len(r.since))
		}
		r.change(id(4), func(f *facts) { f.state = "exited" })
		r.pass(5 * time.Second)
		r.want("one ended without a word", "web1@172.17.0.1:8080")
		r.pass(6 * time.Second)
		if len(r.since) != 2 || r.since[0] != "" || r.since[1] != "1000000000.000000002" {
			t.Errorf("the stream was opened at %q", r.since)
		}
		r.want("after that", "web1@172.17.0.1:8080")
		if _, n := r.lastDown(); !strings.Contains(r.log.String(), "did not tell") {
			t.Errorf("%d times down; the log is:\n%s", n, &r.log)
		}
		r.pass(time.Hour)
		if len(r.since) != 2 {
			t.Errorf("the stream was opened at %q", r.since)
		}
	})
}

// TestListsDiffer: an engine whose list words things otherwise than its details is asked again and believed.
func TestListsDiffer(t *testing.T) {
	t.Parallel()
	run(t, func(w *world, o *Options) {
		two(w, o)
		w.wording = "healthy"
	}, func(r *rig) {
		r.pass(time.Minute)
		r.want("all the while", both)
		if n := r.asked[id(1)]; n < 10 {
			t.Errorf("it was inspected %d times: the lists do not differ", n)
		}
		if len(r.since) != 1 {
			t.Errorf("the stream was opened at %q", r.since)
		}
	})
}

// TestStalled: an engine that says nothing is down after the time limit, its last truth stays, and it is up when it goes on.
func TestStalled(t *testing.T) {
	t.Parallel()
	run(t, two, func(r *rig) {
		_, before := r.last()
		release := make(chan struct{})
		r.locked(func() { r.stalled = release })
		r.pass(5*time.Second + callTimeout + time.Second)
		err, n := r.lastDown()
		if n == 0 || !strings.Contains(fmt.Sprint(err), "deadline exceeded") {
			t.Fatalf("down %d times: %v", n, err)
		}
		r.pass(10 * time.Minute)
		if _, after := r.last(); after != before {
			t.Errorf("%d Snapshots came while it was stalled", after-before)
		}
		r.want("all the while", both)
		r.locked(func() { r.stalled = nil; delete(r.containers, id(1)) })
		close(release)
		r.pass(2 * time.Second)
		r.want("after it", "web2@172.17.0.2:8080")
	})
}

// TestAway: an engine that is away for a day is asked again at most five seconds apart, and what it says counts within two.
func TestAway(t *testing.T) {
	t.Parallel()
	run(t, two, func(r *rig) {
		_, before := r.last()
		r.goes()
		r.pass(24 * time.Hour)
		r.want("all day", both)
		if _, after := r.last(); after != before {
			t.Errorf("%d Snapshots came while it was away", after-before)
		}
		r.mu.Lock()
		downs := len(r.downs)
		r.mu.Unlock()
		for i := 1; i < len(r.connects); i++ {
			if d := r.connects[i].Sub(r.connects[i-1]); d > 5*time.Second || d < firstPause && i > 1 {
				t.Fatalf("%s between two attempts", d)
			}
		}
		if downs < 24*60*60/5 {
			t.Errorf("it was tried %d times", downs)
		}
		r.locked(func() { delete(r.containers, id(1)) })
		r.comes()
		r.pass(2 * time.Second)
		r.want("it is back", "web2@172.17.0.2:8080")
		if r.closed != 1 {
			t.Errorf("%d connections were closed", r.closed)
		}
	})
}

// TestBackAsBefore: an engine that comes back with nothing new is up without a Snapshot.
func TestBackAsBefore(t *testing.T) {
	t.Parallel()
	run(t, two, func(r *rig) {
		_, before := r.last()
		r.goes()
		r.pass(time.Minute)
		r.comes()
		r.pass(2 * time.Second)
		err, n := r.lastDown()
		if _, after := r.last(); after != before || err != nil || n < 2 {
			t.Errorf("%d more Snapshots, down %d times, the last was %v", after-before, n, err)
		}
	})
}

// TestAwayAtStart: what an earlier process had holds until the engine comes; without it nothing is said.
func TestAwayAtStart(t *testing.T) {
	t.Parallel()
	s := quiet(nil)
	s.at = on()
	for _, c := range []*tracked{published(1), published(2), published(3, "lb.publish", "81")} {
		s.containers[c.id] = c
	}
	earlier := s.snapshot()
	run(t, func(w *world, o *Options) {
		w.away, o.Earlier = true, &earlier
		w.add(published(2))
	}, func(r *rig) {
		r.want("while it is away", both+" web3@172.17.0.3:8080")
		if err, n := r.lastDown(); n == 0 || err == nil {
			t.Error("it is not told to be down")
		}
		r.pass(time.Minute)
		r.comes()
		r.pass(2 * time.Second)
		r.want("when it has come", "web2@172.17.0.2:8080")
		if got := r.ports(); got != ":80 :81" {
			t.Errorf("ports %s: those of the earlier process do not stay", got)
		}
		r.pass(portStays)
		if got := r.ports(); got != ":80" {
			t.Errorf("ports %s ten minutes later", got)
		}
	})
	run(t, func(w *world, _ *Options) { w.away = true }, func(r *rig) {
		r.pass(time.Hour)
		if _, n := r.last(); n != 0 {
			t.Errorf("%d Snapshots, and nobody knows anything", n)
		}
	})
}

// ports are those of the newest Snapshot.
func (r *rig) ports() string {
	s, _ := r.last()
	seen := map[string]bool{}
	for i := range s.Offers {
		for _, l := range s.Offers[i].Listeners {
			seen[l.Bind.String()] = true
		}
	}
	return strings.Join(sortedKeys(seen), " ")
}

// TestCrowd is row 20: what starts at once is few Snapshots, and each of them is whole as far as was known.
func TestCrowd(t *testing.T) {
	t.Parallel()
	const n = 500
	run(t, two, func(r *rig) {
		r.pass(time.Second)
		_, before := r.last()
		r.locked(func() { r.cost = 10 * time.Millisecond })
		for i := 10; i < 10+n; i++ {
			r.add(published(i))
			r.event(events.ActionCreate, id(i))
			r.event(events.ActionStart, id(i))
		}
		r.pass(5 * time.Second)
		s, after := r.last()
		if len(s.Offers) != n+2 {
			t.Errorf("%d offers", len(s.Offers))
		}
		// Inspecting takes 630 ms in all; there is one Snapshot each 5 ms at most.
		if after-before > 630/5+2 {
			t.Errorf("%d Snapshots", after-before)
		}
		if len(r.since) != 1 {
			t.Errorf("the stream was opened %d times", len(r.since))
		}
		least := 2
		for _, s := range r.puts[before:] {
			if len(s.Offers) < least {
				t.Errorf("%d offers after %d", len(s.Offers), least)
			}
			least = len(s.Offers)
		}
	})
	run(t, func(w *world, _ *Options) {
		for i := 1; i <= n; i++ {
			w.add(published(i))
		}
		w.cost = 10 * time.Millisecond
	}, func(r *rig) {
		r.pass(5 * time.Second)
		if s, puts := r.last(); puts != 1 || len(s.Offers) != n {
			t.Errorf("at the start: %d Snapshots, %d offers", puts, len(s.Offers))
		}
	})
}

// TestSurvives: a container that was told to stop and runs on takes requests again after a minute, which is told.
func TestSurvives(t *testing.T) {
	t.Parallel()
	run(t, two, func(r *rig) {
		r.event(events.ActionKill, id(1), "signal", "SIGTERM")
		r.pass(survival - time.Second)
		r.want("before a minute has passed", "web2@172.17.0.2:8080")
		r.pass(10 * time.Second)
		r.want("after it", both)
		if !strings.Contains(r.log.String(), "was told to stop and runs on") {
			t.Errorf("the log is:\n%s", &r.log)
		}
	})
}

// TestPortsStay is row 23, and that such a port gives way to what somebody asks for.
func TestPortsStay(t *testing.T) {
	t.Parallel()
	run(t, func(w *world, _ *Options) { w.add(published(1, "lb.weight", "3"), published(2, "lb.publish", "81")) }, func(r *rig) {
		r.locked(func() { delete(r.containers, id(1)) })
		r.event(events.ActionDestroy, id(1))
		r.want("when it is gone", "web2@172.17.0.2:8080")
		s, _ := r.last()
		i := slices.IndexFunc(s.Offers, func(o model.Offer) bool { return o.Owner.Name == "port :80" })
		if i < 0 || !s.Offers[i].Yields || len(s.Offers[i].Servers) != 0 || len(s.Offers[i].Services) != 1 {
			t.Fatalf("offers %+v", s.Offers)
		}
		state, problems := model.Merge(append(slices.Clone(s.Offers), model.Offer{
			Owner: model.Owner{Source: "nodes", Name: "x"}, Since: time.Now(),
			Rows: model.Rows{Listeners: []model.Listener{{Bind: model.Bind{Port: 80}, ClientTimeout: time.Hour}}},
		}))
		if len(problems) != 1 || problems[0].Owner.Name != "port :80" || state.Listeners[0].ClientTimeout != time.Hour {
			t.Errorf("it does not yield: %v", problems)
		}
		r.pass(portStays - time.Minute)
		if got := r.ports(); got != ":80 :81" {
			t.Errorf("ports %s after nine minutes", got)
		}
		r.pass(2 * time.Minute)
		if got := r.ports(); got != ":81" {
			t.Errorf("ports %s after eleven", got)
		}
	})
}

// TestConflicts: of containers that want one port in different ways the older has it, by name, and its check is what the port is
// checked by.
func TestConflicts(t *testing.T) {
	t.Parallel()
	run(t, func(w *world, _ *Options) {
		w.add(published(1, "lb.check", "/a"), published(2, "lb.ssl", "/certs/web.pem"), published(3, "lb.dst_addr", "127.0.0.1"), published(4, "lb.check", "/b"))
	}, func(r *rig) {
		s, _ := r.last()
		state, problems := model.Merge(s.Offers)
		var left []string
		for _, p := range problems {
			left = append(left, p.Owner.Name)
			if !strings.Contains(p.Reason, "docker web1") {
				t.Errorf("%s: %q does not name the older one", p.Owner.Name, p.Reason)
			}
		}
		if got := strings.Join(left, " "); got != "web2 web3" {
			t.Errorf("left out: %q", got)
		}
		if len(state.Servers) != 2 || state.Services[0].Check.Asks[0].Path != "/a" {
			t.Errorf("%+v", state.Rows)
		}
		for _, f := range s.Found {
			if said := strings.Contains(strings.Join(f.Notes, " "), "web1 asks, which is older: lb.check=/b is not used"); said != (f.Owner.Name == "web4") {
				t.Errorf("%s: notes %q", f.Owner.Name, f.Notes)
			}
		}
	})
}

// TestOneBad is row 2: a container of which the engine tells nothing, or nonsense, costs the others nothing.
func TestOneBad(t *testing.T) {
	t.Parallel()
	run(t, func(w *world, o *Options) {
		two(w, o)
		w.add(published(4), published(5, "lb.publish", "0"))
		w.broken[id(4)] = errors.New("500: container is in a state that it cannot be in")
	}, func(r *rig) {
		r.want("beside it", both)
		s, _ := r.last()
		for name, want := range map[string]model.Verdict{"web1": model.Offered, "web4": model.Waiting, "web5": model.LeftOut} {
			i := slices.IndexFunc(s.Found, func(f model.Found) bool { return f.Owner.Name == name })
			if i < 0 || s.Found[i].Verdict != want || want != model.Offered && s.Found[i].Mend == "" {
				t.Errorf("%s: %+v", name, s.Found)
			}
		}
		r.pass(time.Minute)
		if err, n := r.lastDown(); err != nil || len(r.since) != 1 {
			t.Errorf("told %d times, down by %v; the stream was opened %d times", n, err, len(r.since))
		}
		if n := strings.Count(r.log.String(), "does not tell"); n != 1 {
			t.Errorf("told %d times:\n%s", n, &r.log)
		}
		r.locked(func() { delete(r.broken, id(4)) })
		r.pass(6 * time.Second)
		r.want("when it is told of", both+" web4@172.17.0.4:8080")

		r.locked(func() { r.broken[id(1)] = errors.New("500") })
		r.event(events.ActionConnect, id(1), "network", "id-front")
		r.pass(time.Minute)
		r.want("what was known before holds", both+" web4@172.17.0.4:8080")
		r.event(events.ActionDie, id(1), "exitCode", "1")
		r.want("until an event says otherwise", "web2@172.17.0.2:8080 web4@172.17.0.4:8080")
	})
}

// TestFailingInspections: an engine that dies while the first list is worked off is not taken for one with fewer containers.
func TestFailingInspections(t *testing.T) {
	t.Parallel()
	run(t, func(w *world, _ *Options) {
		for i := 1; i <= 20; i++ {
			w.add(published(i))
		}
		w.cost = time.Second
	}, func(r *rig) {
		r.pass(1500 * time.Millisecond)
		release := make(chan struct{})
		r.locked(func() { r.stalled = release })
		r.pass(3 * callTimeout)
		if _, n := r.last(); n != 0 {
			t.Errorf("%d Snapshots of a part", n)
		}
		if err, n := r.lastDown(); n == 0 {
			t.Errorf("it is not down: %v", err)
		}
		r.locked(func() { r.stalled = nil; r.cost = 0 })
		close(release)
		r.pass(2 * time.Second)
		if s, n := r.last(); n != 1 || len(s.Offers) != 20 {
			t.Errorf("%d Snapshots, the last has %d offers", n, len(s.Offers))
		}
	})
}

// TestBalancerMoves: a network that the balancer joins or leaves changes where others are reached.
func TestBalancerMoves(t *testing.T) {
	t.Parallel()
	c := published(1)
	c.networks = []endpoint{place("back", "10.1.0.2"), place("front", "10.2.0.2")}
	own := web(99, nil)
	own.networks = []endpoint{place("front", "10.2.0.9")}
	run(t, func(w *world, _ *Options) { w.away = true; w.add(c, own) }, func(r *rig) {
		r.s.self = func() string { return own.id }
		r.comes()
		r.pass(time.Second)
		r.want("both are in front", "web1@10.2.0.2:8080")
		r.change(own.id, func(f *facts) { f.networks = []endpoint{place("back", "10.1.0.9")} })
		r.event(events.ActionDisconnect, own.id, "network", "id-front")
		r.event(events.ActionConnect, own.id, "network", "id-back")
		r.pass(time.Second)
		r.want("both are in back", "web1@10.1.0.2:8080")
	})
}

// TestSaid: the lines that docker-loadbalancer's users look for, each once.
func TestSaid(t *testing.T) {
	t.Parallel()
	run(t, func(w *world, _ *Options) {
		w.add(published(1), published(2, "lb.ssl", "/certs/web.pem", "lb.publish", "443"), published(3, "lb.pubish", "1", "lb.publish", "8081"))
	}, func(r *rig) {
		r.pass(time.Hour)
		for _, line := range []string{
			`msg="Backends changed"`, `msg="Publish port 80 HTTP"`, `msg="Publish port 443 SSL /certs/web.pem"`, `msg="Backend web1 at 172.17.0.1 port 8080"`,
			`msg="Container web3 skipped" reason="port 8081 may not be published"`, "did you mean lb.publish?",
		} {
			if n := strings.Count(r.log.String(), line); n != 1 {
				t.Errorf("%s is said %d times in\n%s", line, n, &r.log)
			}
		}
		r.event(events.ActionKill, id(1), "signal", "9")
		r.pass(time.Second)
		if !strings.Contains(r.log.String(), `msg="Backend web1 left"`) {
			t.Errorf("the log is\n%s", &r.log)
		}
	})
}
