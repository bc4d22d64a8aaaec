package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Disk is a small file system of the test's own, so that it can be filled, made read-only and kept from answering. That needs root.
type Disk struct {
	Dir string // where it is mounted
	t   *testing.T
}

// NewDisk mounts one of 16 MiB; it goes with the test.
func NewDisk(t *testing.T) *Disk {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test mounts a small file system and needs root")
	}
	d := &Disk{Dir: TempDir(t), t: t}
	image := filepath.Join(TempDir(t), "image")
	d.run("truncate", "-s", "16M", image)
	d.run("mkfs.ext4", "-q", "-m", "0", image)
	d.run("mount", "-o", "loop", image, d.Dir)
	t.Cleanup(d.unmount)
	return d
}

func (d *Disk) run(command string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(command, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s %q: %v: %s", command, args, err, out)
	}
}

// unmount waits for the last process that has something open there.
func (d *Disk) unmount() {
	for end := time.Now().Add(Patience); ; time.Sleep(10 * time.Millisecond) { // the kernel does not tell when
		err := syscall.Unmount(d.Dir, 0)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			d.t.Error(errors.Join(err, syscall.Unmount(d.Dir, syscall.MNT_DETACH)))
			return
		}
	}
}

// Fill leaves not one byte of the disk, until clear is called.
func (d *Disk) Fill() (clear func()) {
	d.t.Helper()
	path := filepath.Join(d.Dir, "full")
	f, err := os.Create(path)
	if err != nil {
		d.t.Fatal(err)
	}
	for size := 1 << 20; size > 0; { // smaller and smaller: a write that does not fit as a whole may leave some room
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 4
		} else if err != nil {
			d.t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		d.t.Fatal(err)
	}
	return sync.OnceFunc(func() {
		if err := os.Remove(path); err != nil {
			d.t.Error(err)
		}
	})
}

// ReadOnly makes the disk's folder one in which nothing can be written, until writable is called. Files that are open are not affected.
func (d *Disk) ReadOnly() (writable func()) {
	d.t.Helper()
	d.run("mount", "--bind", d.Dir, d.Dir) // the mount below has files that are open for writing, so that it cannot become read-only
	d.run("mount", "-o", "remount,bind,ro", d.Dir)
	writable = sync.OnceFunc(func() {
		d.run("mount", "-o", "remount,bind,rw", d.Dir)
		if err := syscall.Unmount(d.Dir, syscall.MNT_DETACH); err != nil { // whoever has something open keeps it
			d.t.Error(err)
		}
	})
	d.t.Cleanup(writable)
	return writable
}

// Freeze keeps everybody waiting who writes to the disk, until thaw is called.
func (d *Disk) Freeze() (thaw func()) {
	d.t.Helper()
	d.run("fsfreeze", "-f", d.Dir)
	thaw = sync.OnceFunc(func() { d.run("fsfreeze", "-u", d.Dir) })
	d.t.Cleanup(thaw) // before fnlb is stopped: whoever waits for the disk cannot even be killed
	return thaw
}
