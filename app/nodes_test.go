package app

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// TestNodeTable: the table of nodes fits a terminal, whatever is in it.
func TestNodeTable(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	many, few := uint64(12345678901), uint64(0)
	got := nodeTable([]nodeRow{
		{Node: "*web.internal:8080", Weight: 1, State: "ready", Health: "online", Since: now.Add(-3 * time.Hour), Requests: &many, Addresses: []nodeRow{
			{Address: "10.0.0.5:8080", Health: "online", Since: now.Add(-49 * time.Hour), Requests: &many},
			{Address: "[2001:db8:1111:2222:3333:4444:5555:6666]:8080", Health: "offline", Since: now.Add(-59 * time.Second), LastCheck: "connection failed, Connection refused at initial connection step of a check that asks /version"},
		}},
		{Node: "10.0.0.9:8080", Weight: 256, State: "drain", Health: "draining", Since: now.Add(time.Hour), Requests: &few},
		{Node: "a-node-with-a-name-that-is-longer-than-a-column.example.org:8080", Weight: 0, State: "maint", Health: "maintenance", Since: now.Add(-90 * time.Minute)},
		{Node: "new:8080", Weight: 1, State: "ready", Health: "pending", LastCheck: "resolve new: no such host"},
	}, now)
	want := `
NODE                              HEALTH       STATE  WEIGHT    REQUESTS  SINCE
*web.internal:8080                online       ready       1  12345678901     3h
  10.0.0.5:8080                   online                      12345678901     2d
  [2001:db8:1111:2222:3333:4444:5555:6666]:8080
                                  offline                              -    59s
    connection failed, Connection refused at initial connection step of a c…
10.0.0.9:8080                     draining     drain     256           0     0s
a-node-with-a-name-that-is-longer-than-a-column.example.org:8080
                                  maintenance  maint       0           -     1h
new:8080                          pending      ready       1           -      -
  resolve new: no such host
`
	if got = "\n" + got; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	for line := range strings.Lines(got) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}
