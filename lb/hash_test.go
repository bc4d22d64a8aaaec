package lb

import (
	"strings"
	"testing"
)

// TestSum64 compares with github.com/cespare/xxhash, over all lengths that take another way through the code.
func TestSum64(t *testing.T) {
	text := strings.Repeat("/some/path?-0123456789abcdefghij", 4)
	for _, v := range []struct {
		length int
		sum    uint64
	}{
		{0, 0xEF46DB3751D8E999},
		{1, 0xE89CD67289EDDAEA},
		{3, 0x042B44A8409A4482},
		{4, 0x190E311C2F313544},
		{5, 0xBEE4CAA0438701A0},
		{7, 0x22C372E3B1846396},
		{8, 0x0FAB4BCEE0D16FEE},
		{11, 0x56687CB646115FED},
		{12, 0xE6BA695901E84EE7},
		{15, 0x50812A5E05D89885},
		{16, 0xF7EF036DF199911B},
		{31, 0xA1D61B71A6BCA8FD},
		{32, 0x51005288AE48CEFA},
		{33, 0x27B80BE4C3E2B857},
		{39, 0xD99B2E44F2630191},
		{63, 0x50CE12860B902C47},
		{64, 0x95CB08D3F6FD1BEB},
		{100, 0xE30B17C77315CB33},
	} {
		if got := sum64(text[:v.length]); got != v.sum {
			t.Errorf("%d bytes: %#x, not %#x", v.length, got, v.sum)
		}
	}
}
