package sqlite_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fnlb/fnlb/store"
	"github.com/fnlb/fnlb/store/storetest"
)

// tmpfs mounts a small one; it takes root.
func tmpfs(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("mounting takes root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("fnlb", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

// TestFull: a disk without space. Nothing that was answered is lost, nothing is half there, and it heals by itself.
func TestFull(t *testing.T) {
	dir := tmpfs(t)
	path := filepath.Join(dir, "nodes.db")
	m, v := mirror(t, path)
	for i := range 20 {
		storetest.Update(t, m, fmt.Sprintf("n/%d", i), fmt.Sprint(i))
	}
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for piece := make([]byte, 4096); err == nil; {
		_, err = f.Write(piece)
	}
	f.Close()
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	for _, key := range []string{"n/big", "n/19"} {
		// The log may have room left for a while.
		for i := 0; ; i++ {
			value := `"` + strings.Repeat(fmt.Sprint(i%10), 200_000) + `"`
			if err := m.Update(t.Context(), key, storetest.Put("", value).Change); err != nil {
				if _, is := errors.AsType[*store.Away](err); !is || !strings.Contains(err.Error(), "no space left") {
					t.Errorf("got %v, not that there is no space", err)
				}
				break
			}
		}
	}
	if n := len(v.Records()); n < 20 {
		t.Errorf("%d records are left of 20", n)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	storetest.Update(t, m, "n/after", "1")
	db, err := opener(t, path)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c, err := db.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 19 {
		if got, _ := store.Find(c.Records, fmt.Sprintf("n/%d", i)); string(got) != fmt.Sprint(i) {
			t.Errorf("n/%d is %q", i, got)
		}
	}
	if got, _ := store.Find(c.Records, "n/after"); string(got) != "1" {
		t.Errorf("n/after is %q", got)
	}
}

// TestFullAtStart: there is not even space for the tables.
func TestFullAtStart(t *testing.T) {
	dir := tmpfs(t)
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	m, _ := mirror(t, filepath.Join(dir, "nodes.db"))
	away(t, m, "no space left")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	storetest.Update(t, m, "n/1", "1")
}

// asNobody is the environment variable with the file that the test program opens as a user without rights.
const asNobody = "FNLB_STORE_NOBODY"

// TestRightsMissing: the file is another user's.
func TestRightsMissing(t *testing.T) {
	if path := os.Getenv(asNobody); path != "" {
		m, v := mirror(t, path)
		storetest.Until(t, v, "that it is away", func() bool { _, err := m.Standing(); return err != nil })
		err := m.Update(t.Context(), "n/1", storetest.Put("", "2").Change)
		fmt.Printf("said: %v, with %d records\n", err, len(v.Records()))
		return
	}
	if os.Getuid() != 0 {
		t.Fatal("becoming another user takes root")
	}
	const mend = "readable and writable for user 65534"
	for _, c := range []struct {
		name         string
		folder, file os.FileMode
		want         string
		records      int
	}{
		{"file not readable", 0o755, 0o600, mend, 0},
		{"file read-only", 0o755, 0o644, mend, 0},
		{"folder closed", 0o700, 0o644, mend, 0},
		{"no file", 0o755, 0, mend, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			top, err := os.MkdirTemp("/tmp", "fnlb-rights") // t.TempDir's parents may be closed
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := os.RemoveAll(top); err != nil {
					t.Error(err)
				}
			})
			made := filled(t, 1)
			path := filepath.Join(top, "folder", "nodes.db")
			if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			program, err := os.ReadFile(os.Args[0])
			if err != nil {
				t.Fatal(err)
			}
			if c.file != 0 {
				content, err := os.ReadFile(made)
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(os.WriteFile(path, content, 0o600), os.Chmod(path, c.file)); err != nil {
					t.Fatal(err)
				}
			}
			copied := filepath.Join(top, "test")
			if err := errors.Join(os.WriteFile(copied, program, 0o755), os.Chmod(top, 0o755), os.Chmod(filepath.Dir(path), c.folder)); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(copied, "-test.run", "^TestRightsMissing$")
			cmd.Dir = "/"
			cmd.Env = append(os.Environ(), asNobody+"="+path, "TMPDIR=/tmp")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), c.want) {
				t.Errorf("got %v, %s", err, out)
			}
		})
	}
}
