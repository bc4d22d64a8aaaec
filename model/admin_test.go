package model

import (
	"encoding/json"
	"testing"
)

// TestWeight: the zero value is HAProxy's default, each weight is itself again after JSON, and a row from before there were weights is
// one of the default.
func TestWeight(t *testing.T) {
	for n := range MaxWeight + 1 {
		w, err := NewWeight(n)
		if err != nil || w.Int() != n || (w == 0) != (n == 1) {
			t.Errorf("%d is %v, %v", n, w.Int(), err)
		}
		data, err := json.Marshal(Server{Weight: w})
		if err != nil {
			t.Fatal(err)
		}
		var s Server
		if err := json.Unmarshal(data, &s); err != nil || s.Weight != w {
			t.Errorf("%d is %s in JSON, which reads as %v, %v", n, data, s.Weight, err)
		}
	}
	for _, n := range []int{-1, 257, 1 << 40} {
		if w, err := NewWeight(n); err == nil {
			t.Errorf("%d is %v", n, w)
		}
	}
	for _, bad := range []string{`{"weight":257}`, `{"weight":-1}`, `{"weight":1.5}`, `{"weight":"5"}`, `{"admin":"gone"}`, `{"admin":1}`} {
		var s Server
		if err := json.Unmarshal([]byte(bad), &s); err == nil {
			t.Errorf("%s reads as %+v", bad, s)
		}
	}
}

func TestShare(t *testing.T) {
	fifty, err := NewWeight(50)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		s    Server
		want int
	}{{Server{}, 1}, {Server{Weight: fifty}, 50}, {Server{Weight: fifty, Admin: Drain}, 0}, {Server{Weight: fifty, Admin: Maint}, 50}} {
		if got := tt.s.Share(); got != tt.want {
			t.Errorf("%+v has %d", tt.s, got)
		}
	}
}
