package process

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test binary play a program that only tells its limit on open files, and those of play.
func TestMain(m *testing.M) {
	if os.Getenv("PROCESS_TEST_CHILD") == "limit" {
		if err := SetFileLimit(300); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		out, err := exec.Command("sh", "-c", "ulimit -n").CombinedOutput()
		fmt.Print(strings.TrimSpace(string(out)), err)
		os.Exit(0)
	}
	if mode := os.Getenv("PROCESS_TEST_CHILD"); mode != "" {
		if err := play(mode); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// These tests wait most of their time, so that more of them run side by side than there are processors.
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("6"); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}
