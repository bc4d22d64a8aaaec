package templates

import (
	"fmt"
	"net/netip"
	"testing"
)

// BenchmarkRender renders what a large pool needs; the map of lines is part of it.
func BenchmarkRender(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var at []netip.AddrPort
			for i := range n {
				at = append(at, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 8080))
			}
			s, g, a := sample(8081, at...), sampleGlobals(), abilities(b, "2.6")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ours().Render(s, g, a); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
