package kubernetes

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkSnapshot is what one change costs us with 5,000 pods.
func BenchmarkSnapshot(b *testing.B) {
	o := Options{Port: Port{Number: 8080}, Pool: "nodes", Now: time.Now}
	s := New(o)
	for i := range 5000 {
		name := fmt.Sprintf("p-%d", i)
		s.world.set(name, []entry{o.readPod(aPod(name, fmt.Sprintf("10.1.%d.%d", i/250, i%250)))})
	}
	for b.Loop() {
		s.snapshot()
	}
}
