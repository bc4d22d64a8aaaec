package model

import (
	"fmt"
	"reflect"
	"testing"
)

func TestServerWhy(t *testing.T) {
	t.Parallel()
	none, err := NewWeight(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		s    ServerStatus
		want string
	}{
		{ServerStatus{Health: Up}, ""},
		{ServerStatus{Health: Up, LastCheck: "200"}, ""},
		{ServerStatus{Health: Up, Weight: none}, "it takes no new requests: its weight is 0"},
		{ServerStatus{}, "its first check is under way"},
		{ServerStatus{LastCheck: PassedFirst}, "HAProxy does not have it yet"},
		{ServerStatus{LastCheck: "refused"}, "it has not passed its first check: refused"},
		{ServerStatus{Health: Down}, "its checks fail"},
		{ServerStatus{Health: Down, LastCheck: "timeout"}, "its checks fail: timeout"},
		{ServerStatus{Health: Maintenance}, "it is taken out for maintenance"},
		{ServerStatus{Health: Draining}, "it drains: it takes no new requests"},
	} {
		if got := test.s.Why(); got != test.want {
			t.Errorf("%+v: %q", test.s, got)
		}
	}
	for h := range Healths {
		if s := (&ServerStatus{Health: Health(h)}).Why(); (s == "") != (Health(h) == Up) {
			t.Errorf("%s: %q", Health(h), s)
		}
	}
}

// TestUnserved: what cannot be comes first, and what is told of an owner once is not told again by what follows from it.
func TestUnserved(t *testing.T) {
	t.Parallel()
	of := func(name string) Owner { return Owner{"docker", name} }
	st := Status{
		Problems: []Problem{{Owner: of("z"), Reason: "taken", Mend: "free it"}, {Owner: of("z"), Reason: "taken", Mend: "free it"}, {Owner: of("z"), Reason: "another"}},
		Servers: []ServerStatus{
			{Owner: of("z")}, {Owner: of("up"), Health: Up}, {Owner: of("down"), Health: Down, Mend: "start it"}, {Owner: of("two"), LastCheck: "x"}, {Owner: of("two"), LastCheck: "y"},
		},
		Found: []Found{
			{Owner: of("up")}, {Owner: of("no"), Verdict: Ignored, Reason: "not enabled"}, {Owner: of("z"), Verdict: LeftOut, Reason: "taken"},
			{Owner: of("soon"), Verdict: Waiting, Reason: "starts"}, {Owner: of("bad"), Verdict: LeftOut, Reason: "no port", Mend: "lb.target"}, {Owner: of("refused"), Reason: "HAProxy says no"},
		},
	}
	want := []Unserved{
		{of("z"), "taken", "free it"}, {of("z"), "another", ""},
		{of("bad"), "no port", "lb.target"},
		{of("down"), "its checks fail", "start it"}, {of("refused"), "HAProxy says no", ""},
		{of("two"), "it has not passed its first check: x", ""}, {of("two"), "it has not passed its first check: y", ""},
		{of("soon"), "starts", ""}, {of("no"), "not enabled", ""},
	}
	if got := st.Unserved(); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", lines(got), lines(want))
	}
	if got := (&Status{}).Unserved(); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
	for up, want := range []string{"0 of 2 up", "1 of 2 up", "2 of 2 up"} {
		if got := UpOf(up, 2); got != want {
			t.Errorf("%d: %s", up, got)
		}
	}
}

func lines(rows []Unserved) (s string) {
	for _, r := range rows {
		s += fmt.Sprintln(r.Owner, "|", r.Why, "|", r.Mend)
	}
	return s
}
