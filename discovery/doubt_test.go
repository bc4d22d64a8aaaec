package discovery

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fnlb/fnlb/model"
)

func eight() []string { return []string{"1", "2", "3", "4", "5", "6", "7", "8"} }

// doubtRig is a source of eight servers that were sent.
func doubtRig(t *testing.T) (*rig, Sink) {
	t.Helper()
	a := newRemote("a")
	r := run(t, Static{pool("pool")}, a)
	to := <-a.to
	to.Put(servers("a", eight()...))
	r.want(t, "0s r1 1 2 3 4 5 6 7 8")
	return r, to
}

// TestDoubt is fault row 31: a listing that has suddenly less than half waits for a second one that agrees, for 10 s at most.
func TestDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, to := doubtRig(t)
		time.Sleep(time.Second)
		to.Put(servers("a", "1", "2"))
		time.Sleep(500 * time.Millisecond)
		to.Put(servers("a", "1", "2")) // too soon to count as a second look
		time.Sleep(8 * time.Second)
		r.want(t)
		st := r.Status()
		if len(st.Problems) != 1 || st.Problems[0].Reason != "a lists 2 of 8 servers of pool: waiting 10s for a second listing" || st.Problems[0].Mend == "" ||
			st.Sources[0].Doubts != 1 || !st.Sources[0].Up {
			t.Errorf("status %+v", st)
		}
		time.Sleep(2 * time.Second)
		r.want(t, "11s r2 1 2")
		if st := r.Status(); len(st.Problems) != 0 || st.Sources[0].Doubts != 0 {
			t.Errorf("status %+v", st)
		}
		r.wantLog(t, "level=WARN msg=\"a source lists much less, which is not believed yet\" source=a service=pool reason=\"a lists 2 of 8",
			"nothing has contradicted it for 10s")
	})
}

func TestDoubtConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, to := doubtRig(t)
		to.Put(servers("a"))
		time.Sleep(3 * time.Second)
		to.Put(servers("a"))
		r.want(t, "3s r2")
		r.wantLog(t, "lists 0 of 8", "a second listing agrees")
	})
}

// TestDoubtSettled: the next listing has them again; meanwhile what is new was passed on.
func TestDoubtSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, to := doubtRig(t)
		to.Put(servers("a", "1", "9"))
		time.Sleep(time.Second)
		r.want(t, "0s r2 1 2 3 4 5 6 7 8 9")
		to.Put(servers("a", append(eight()[1:], "9")...))
		r.want(t, "1s r3 2 3 4 5 6 7 8 9")
		time.Sleep(time.Minute)
		r.want(t)
		r.wantLog(t, "lists 2 of 8", "most of them, again")
	})
}

// TestDoubtStartsAnew with each listing that is another one, and not for ever.
func TestDoubtStartsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, to := doubtRig(t)
		for i := range 3 {
			to.Put(servers("a", eight()[i]))
			time.Sleep(9 * time.Second)
		}
		r.want(t)
		time.Sleep(time.Second)
		r.want(t, "28s r2 3")
		to.Put(servers("a", eight()...))
		time.Sleep(time.Second)
		r.states()
		for i := range 20 {
			to.Put(servers("a", eight()[i%8]))
			time.Sleep(9 * time.Second)
		}
		if got := r.states(); len(got) == 0 || !strings.HasPrefix(got[0], "1m29") {
			t.Errorf("a source whose every listing is another one: %q", got)
		}
	})
}

// TestNoDoubt: small services, half of one, what somebody asked for, and what is replaced are not doubted; neither is what goes
// little by little.
func TestNoDoubt(t *testing.T) {
	asked := servers("a", "1")
	for _, name := range eight()[1:] {
		asked.Asked = append(asked.Asked, model.Asked{Owner: model.Owner{Source: "a", Name: name}})
	}
	for name, test := range map[string]struct {
		before []string
		after  model.Snapshot
	}{
		"small":    {[]string{"1", "2", "3"}, servers("a")},
		"half":     {eight(), servers("a", "1", "2", "3", "4")},
		"asked":    {eight(), asked},
		"replaced": {eight(), servers("a", "11", "12", "13", "14")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newRemote("a")
				r := run(t, Static{pool("pool")}, a)
				to := <-a.to
				to.Put(servers("a", test.before...))
				r.states()
				to.Put(test.after)
				if got := r.states(); len(got) != 1 || len(r.Status().State.Servers) != len(test.after.Offers) {
					t.Errorf("sent %q", got)
				}
				r.wantLog(t)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		r, to := doubtRig(t)
		for i := range 9 {
			to.Put(servers("a", eight()[i:]...))
			r.states()
		}
		if n := len(r.Status().State.Servers); n != 0 {
			t.Errorf("%d servers are left", n)
		}
		r.wantLog(t)
	})
}

// TestDoubtOfPart: an owner of many servers that lists fewer, in one of two services; the other goes at once.
func TestDoubtOfPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		offer := func(n int, more ...string) model.Snapshot {
			all := servers("a", append(eight()[:n], more...)...)
			one := model.Offer{Owner: model.Owner{Source: "a", Name: "cluster"}}
			for i := range all.Offers {
				one.Servers = append(one.Servers, all.Offers[i].Servers...)
			}
			side := model.Offer{Owner: model.Owner{Source: "a", Name: "side"}}
			side.Services = []model.Service{{Name: "side"}}
			side.Servers = []model.Server{{Service: "side", Name: fmt.Sprintf("side%d", n), IP: one.Servers[0].IP, Port: 1}}
			return model.Snapshot{Source: "a", Offers: []model.Offer{one, side}}
		}
		a := newRemote("a")
		r := run(t, Static{pool("pool")}, a)
		to := <-a.to
		to.Put(offer(8))
		r.want(t, "0s r1 1 2 3 4 5 6 7 8 side8")
		to.Put(offer(2))
		r.want(t, "0s r2 1 2 3 4 5 6 7 8 side2")
		time.Sleep(11 * time.Second)
		r.want(t, "10s r3 1 2 side2")
	})
}

// TestDoubtHolds, whatever is listed and when: what a source lists is in the State at once; what it suddenly lists no more stays for a
// while; in the end the State is what it lists.
func TestDoubtHolds(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			a := newRemote("a")
			r := run(t, Static{pool("pool")}, a)
			to := <-a.to
			var listed, before []string
			since := time.Now() // that the newest listing stands
			for range 60 {
				next := []string{}
				keep := rng.IntN(11)
				for i := range 10 {
					if rng.IntN(10) < keep {
						next = append(next, fmt.Sprintf("%02d", i))
					}
				}
				if rng.IntN(3) == 0 {
					next = listed
				}
				if !slices.Equal(next, listed) {
					since = time.Now()
				}
				listed = next
				to.Put(servers("a", listed...))
				time.Sleep(time.Duration(rng.IntN(4000)) * time.Millisecond)
				r.states()
				now := names(r.Status().State)
				for _, name := range listed {
					if !slices.Contains(now, name) && time.Since(since) > 250*time.Millisecond {
						t.Fatalf("seed %d: %s is listed and not in %v", seed, name, now)
					}
				}
				if len(before) >= doubtLeast && 2*len(now) < len(before) && time.Since(since) < doubtApart && r.lastDoubt() < doubtMost {
					t.Fatalf("seed %d: %v went to %v in %s", seed, before, now, time.Since(since))
				}
				before = now
			}
			time.Sleep(doubtTime + time.Second)
			r.states()
			if now := names(r.Status().State); !slices.Equal(now, listed) {
				t.Errorf("seed %d: in the end %v, listed %v", seed, now, listed)
			}
		})
	}
}

// lastDoubt is 0 unless a doubt lasted for doubtMost, after which everything is believed.
func (r *rig) lastDoubt() time.Duration {
	if strings.Contains(r.log.String(), "as short for") {
		return doubtMost
	}
	return 0
}

func names(s model.State) []string {
	out := []string{}
	for i := range s.Servers {
		out = append(out, s.Servers[i].Name)
	}
	return out
}
