package templates

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/fnlb/fnlb/model"
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

// BenchmarkRoutes renders a listener with many routes, as a change of one of them does.
func BenchmarkRoutes(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, g, a := sample(8081, netip.MustParseAddrPort("192.0.2.1:80")), sampleGlobals(), abilities(b, "2.6")
			g.RunDir, g.Bundled = "/run/fnlb", "bundle"
			for i := range n {
				p, err := model.ParsePattern(fmt.Sprintf("host%d.example.org/path/%d/", i/10, i))
				if err != nil {
					b.Fatal(err)
				}
				s.Routes = append(s.Routes, model.Route{Bind: s.Listeners[0].Bind, Pattern: p, Service: "nodes"})
			}
			for _, kind := range []string{"changed", "same"} {
				b.Run(kind, func(b *testing.B) {
					b.ReportAllocs()
					for n := 0; b.Loop(); n++ {
						if kind == "changed" {
							s.Routes[len(s.Routes)-1].Path = fmt.Sprintf("/changed/%d", n)
						}
						if _, err := ours().Render(s, g, a); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		})
	}
}
