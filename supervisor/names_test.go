package supervisor

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fnlb/fnlb/check"
	"github.com/fnlb/fnlb/model"
)

// TestManyAddresses: a name with a star is one server for each of its addresses. Each is admitted by its own first check, leaves at once
// when DNS lists it no more, and stays when DNS fails.
func TestManyAddresses(t *testing.T) {
	inBubble(t, func(w *world) {
		w.renderer.live = true
		w.s.o.Allowed = model.Policy{}.Check
		w.healthy["192.0.2.6:80"] = check.Result{Reason: "connection refused"}
		names := func(list ...string) {
			w.set(func() { w.names["name"] = list })
			w.after(8 * time.Second)
		}
		w.run()
		w.put("*n=name:80", "a=192.0.2.1:80")
		w.after(2 * time.Second)
		want(t, "without DNS", w.servers(), "a@192.0.2.1:80")
		want(t, "health", w.health(), "*n:pending a:up")
		names("192.0.2.5", "192.0.2.4", "192.0.2.6", "169.254.169.254", "0.0.0.0")
		want(t, "an answer", w.servers(), "a@192.0.2.1:80 n_192.0.2.4@192.0.2.4:80 n_192.0.2.5@192.0.2.5:80")
		want(t, "health", w.health(), "*n:up *n:up *n:pending a:up")
		if n := w.probed("169.254.169.254:80") + w.probed("0.0.0.0:80"); n != 0 {
			t.Errorf("%d probes of addresses that are refused", n)
		}
		if p := fmt.Sprint(w.s.Status().Problems); !strings.Contains(p, "unspecified") || !strings.Contains(p, "and 1 more") {
			t.Errorf("problems %s", p)
		}
		w.set(func() { delete(w.healthy, "192.0.2.6:80") })
		w.after(2 * time.Second)
		want(t, "the third passes", w.servers(), "a@192.0.2.1:80 n_192.0.2.4@192.0.2.4:80 n_192.0.2.5@192.0.2.5:80 n_192.0.2.6@192.0.2.6:80")
		if p := w.probed("192.0.2.4:80"); p != 1 {
			t.Errorf("%d probes of an address that was admitted", p)
		}
		w.set(func() { w.down["n_192.0.2.5"] = true })
		w.after(6 * time.Second)
		want(t, "one is down", w.health(), "*n:up *n:down *n:up a:up")
		names("192.0.2.5", "192.0.2.6")
		want(t, "one goes", w.servers(), "a@192.0.2.1:80 n_192.0.2.5@192.0.2.5:80 n_192.0.2.6@192.0.2.6:80")
		want(t, "its health", w.health(), "*n:down *n:up a:up")
		names() // an answer of nothing
		w.set(func() { delete(w.names, "name") })
		w.after(time.Minute)
		names("169.254.169.254")
		want(t, "no answer of use", w.servers(), "a@192.0.2.1:80 n_192.0.2.5@192.0.2.5:80 n_192.0.2.6@192.0.2.6:80")
		if n := w.lines("is kept at its last addresses"); n != 1 {
			t.Errorf("%d lines about that", n)
		}
		if p := fmt.Sprint(w.s.Status().Problems); !strings.Contains(p, "link-local") {
			t.Errorf("problems %s", p)
		}
		if n := len(w.reloadTimes()); n != 0 {
			t.Errorf("%d reloads:\n%s", n, w.logged())
		}
		w.put("a=192.0.2.1:80")
		w.after(time.Second)
		want(t, "the name is deleted", w.servers(), "a@192.0.2.1:80")
	})
}

// TestAllAddressesChange: where no address that is served is left, those that are stay until one of the new ones has passed.
func TestAllAddressesChange(t *testing.T) {
	inBubble(t, func(w *world) {
		w.renderer.live = true
		w.names["name"] = []string{"192.0.2.4", "192.0.2.5"}
		w.run()
		w.put("*n=name:80")
		w.after(time.Second)
		w.set(func() {
			w.names["name"] = []string{"192.0.2.7", "192.0.2.8"}
			w.healthy["192.0.2.7:80"], w.healthy["192.0.2.8:80"] = check.Result{Reason: "starting"}, check.Result{Reason: "starting"}
		})
		w.after(10 * time.Second)
		want(t, "none has passed", w.servers(), "n_192.0.2.4@192.0.2.4:80 n_192.0.2.5@192.0.2.5:80")
		if p := fmt.Sprint(w.s.Status().Problems); !strings.Contains(p, "kept at 192.0.2.4:80") {
			t.Errorf("problems %s", p)
		}
		w.set(func() { delete(w.healthy, "192.0.2.8:80") })
		w.after(3 * time.Second)
		want(t, "one has passed", w.servers(), "n_192.0.2.8@192.0.2.8:80")
		want(t, "health", w.health(), "*n:pending *n:up")
		want := []string{"add server s/n_192.0.2.8", "set server s/n_192.0.2.4 state maint", "set server s/n_192.0.2.5 state maint"}
		at := -1
		for _, c := range w.ran() {
			for i, part := range want {
				if strings.HasPrefix(c, part) {
					if i != at+1 {
						t.Errorf("the order of %q", w.ran())
					}
					at = i
				}
			}
		}
		if at != len(want)-1 {
			t.Errorf("changes %q", w.ran())
		}
	})
}

// TestTooManyAddresses: a name has at most 256 servers, which is told.
func TestTooManyAddresses(t *testing.T) {
	inBubble(t, func(w *world) {
		for i := range 3000 {
			w.names["name"] = append(w.names["name"], fmt.Sprintf("192.0.%d.%d", 2+i/200, 1+i%200))
		}
		w.run()
		w.put("*n=name:80", "a=192.0.2.250:80")
		w.after(5 * time.Second)
		if n := strings.Count(w.servers(), "n_"); n != MostAddresses {
			t.Errorf("%d servers", n)
		}
		if p := fmt.Sprint(w.s.Status().Problems); !strings.Contains(p, "3000 addresses, of which the first 256 are used") {
			t.Errorf("problems %s", p)
		}
		if n := w.lines("3000 addresses"); n != 1 {
			t.Errorf("%d lines about it", n)
		}
	})
}

// TestNamesShareAnAddress: the same name with and without a star is one server where they meet, and stays when one of the two goes.
func TestNamesShareAnAddress(t *testing.T) {
	inBubble(t, func(w *world) {
		w.renderer.live = true
		w.names["name"] = []string{"192.0.2.4", "192.0.2.5"}
		w.run()
		w.put("n=name:80")
		w.after(time.Second)
		w.put("*n=name:80", "n=name:80")
		w.after(time.Second)
		want(t, "both", w.servers(), "n_192.0.2.4@192.0.2.4:80 n_192.0.2.5@192.0.2.5:80")
		want(t, "health", w.health(), "*n:up *n:up n:up")
		changes := len(w.ran())
		w.put("*n=name:80")
		w.after(time.Second)
		want(t, "the star alone", w.servers(), "n_192.0.2.4@192.0.2.4:80 n_192.0.2.5@192.0.2.5:80")
		if ran := w.ran(); len(ran) != changes {
			t.Errorf("changes %q", ran[changes:])
		}
	})
}

// TestNamesDisagree: two names that are one server and are asked for different things are told, both by name, until they agree.
func TestNamesDisagree(t *testing.T) {
	inBubble(t, func(w *world) {
		w.renderer.live = true
		w.names["name"] = []string{"192.0.2.4", "192.0.2.5"}
		w.run()
		disputes := func() (out []string) {
			for _, p := range w.s.Status().Problems {
				if p.Kind == model.Conflict {
					out = append(out, p.Owner.Name+": "+p.Reason)
				}
			}
			return out
		}
		for _, step := range []struct{ star, plain, want string }{
			{"", "", ""},
			{"weight=5", "", "n: *n (weight 5) and n (weight 1) are one server where both lead to one address, and *n counts there"},
			{"weight=5", "weight=5", ""},
			{"state=maint", "weight=5", "*n: n (weight 5) and *n (in maintenance) are one server where both lead to one address, and n counts there"},
		} {
			w.put("*n=name:80 "+step.star, "n=name:80 "+step.plain)
			w.after(2 * time.Second)
			want(t, step.star+" and "+step.plain, strings.Join(disputes(), "; "), step.want)
		}
	})
}

// TestAdoptManyAddresses: every address of a name that the HAProxy serves goes on being served, with and without DNS.
func TestAdoptManyAddresses(t *testing.T) {
	for name, answers := range map[string][]string{"no DNS": nil, "the same answer": {"192.0.2.4", "192.0.2.5"}, "one less": {"192.0.2.5"}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				w.renderer.live = true
				w.names["name"] = []string{"192.0.2.4", "192.0.2.5"}
				left(w, "*n=name:80")
				w.healthy["192.0.2.4:80"], w.healthy["192.0.2.5:80"] = check.Result{Reason: "no"}, check.Result{Reason: "no"}
				if w.names["name"] = answers; answers == nil {
					delete(w.names, "name")
				}
				next := w.again(true)
				next.renderer.live = true
				next.run()
				next.put("*n=name:80")
				next.after(10 * time.Second)
				servers := "n_192.0.2.4@192.0.2.4:80 n_192.0.2.5@192.0.2.5:80"
				if len(answers) == 1 {
					servers = "n_192.0.2.5@192.0.2.5:80"
				}
				want(t, "servers", next.servers(), servers)
				if len(next.reloadTimes())+len(next.startTimes()) != 0 {
					t.Errorf("%d reloads, %d starts:\n%s", len(next.reloadTimes()), len(next.startTimes()), next.logged())
				}
				if err := next.stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
