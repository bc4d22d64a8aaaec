package pools

import (
	"testing"

	"github.com/fnlb/fnlb/haproxy/haproxytest"
)

func TestAddsOnly(t *testing.T) {
	haproxytest.Each(t, func(t *testing.T, h haproxytest.HAProxy) {
		b := start(t, h, "--listen", "")
		b.addPool("/")
		adds(b, h, 60)
	})
}
