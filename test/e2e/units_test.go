package e2e

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/fnlb/fnlb/config"
)

var unitFlag = regexp.MustCompile(`--([a-z-]+)`)

// TestUnits: systemd finds nothing to say about any unit of deploy/systemd, thinks each well locked up, and knows the flags.
func TestUnits(t *testing.T) {
	const root = "../../deploy/systemd"
	haproxy := Binary(t) // any program will do: it is only looked at
	units := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		units++
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		// Each folder is a set of units that belong together; what they start need not be installed here.
		dir := t.TempDir()
		siblings, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*.service"))
		if err != nil {
			return err
		}
		for _, s := range siblings {
			data, err := os.ReadFile(s)
			if err != nil {
				return err
			}
			here := strings.NewReplacer("/usr/local/bin/fnlb", Binary(t), "/usr/sbin/haproxy", haproxy).Replace(string(data))
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(s)), []byte(here), 0o644); err != nil {
				return err
			}
		}
		unit := filepath.Join(dir, filepath.Base(path))
		if out, err := exec.Command("systemd-analyze", "verify", "--man=no", unit).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", path, err, out)
		}
		// 0 is locked up, 100 is open; 50 is called medium.
		if out, err := exec.Command("systemd-analyze", "security", "--offline=yes", "--threshold=25", unit).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", path, err, out)
		}
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "ExecStart=/usr/local/bin/fnlb run ") {
				continue
			}
			for _, m := range unitFlag.FindAllStringSubmatch(line, -1) {
				if !slices.Contains(config.Names(), m[1]) {
					t.Errorf("%s: there is no flag --%s", path, m[1])
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if units < 3 {
		t.Errorf("%d units", units)
	}
}
