package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// uidOf reads whose process it is.
func uidOf(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
			var real, effective int
			if _, err := fmt.Sscan(rest, &real, &effective); err != nil {
				t.Fatal(err)
			}
			return effective
		}
	}
	t.Fatalf("no Uid line in %s", data)
	return 0
}
