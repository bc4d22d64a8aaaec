package plan

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/haproxy/conf"
)

// many is a text with so many servers, but for the nth.
func many(n, without int) []byte {
	var b strings.Builder
	b.WriteString("defaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\nfrontend f\n  bind 127.0.0.1:80\n" +
		"  default_backend nodes\nbackend nodes\n  balance uri path-only\n  hash-type consistent\n  default-server check inter 1s hash-key addr-port\n")
	for i := range n {
		if i != without {
			fmt.Fprintf(&b, "  server 10.1.%d.%d:8080 10.1.%d.%d:8080 id %d\n", i/250, i%250, i/250, i%250, i*97+1)
		}
	}
	return []byte(b.String())
}

// BenchmarkOneAmongMany plans what takes one server away from many, from the new text on.
func BenchmarkOneAmongMany(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			was, err := Read(conf.Bundle{Main: many(n, -1)})
			if err != nil {
				b.Fatal(err)
			}
			text := many(n, n/2)
			b.ReportAllocs()
			for b.Loop() {
				now, err := Read(conf.Bundle{Main: text})
				if err != nil {
					b.Fatal(err)
				}
				if p := Make(was, now, nil); len(p.Steps) != 1 {
					b.Fatalf("%d steps, %v", len(p.Steps), p.Reload)
				}
			}
		})
	}
}
