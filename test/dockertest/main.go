package dockertest

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// folderVariable tells the tests inside of the namespaces which folder is theirs; whoever does not have it is outside.
const folderVariable = "FNLB_DOCKERTEST"

// tagVariable begins the name of the folder, for a test that looks for what is left of another one.
const tagVariable = "FNLB_DOCKERTEST_TAG"

// proxySocket is where the proxy outside listens, in that folder.
const proxySocket = "proxy.sock"

// Main runs the tests of a package in namespaces of their own and returns the exit code; for TestMain, which does nothing else before.
func Main(m *testing.M) int {
	flag.Parse()
	folder := os.Getenv(folderVariable)
	if folder == "" {
		code, err := outside()
		if err != nil {
			fmt.Fprintln(os.Stderr, "dockertest:", err)
			return 1
		}
		return code
	}
	if err := inside(); err != nil {
		fmt.Fprintln(os.Stderr, "dockertest:", err)
		return 1
	}
	shared.folder = folder
	code := m.Run()
	if err := shared.end(); err != nil {
		fmt.Fprintln(os.Stderr, "dockertest:", err)
		return 1
	}
	return code
}

// outside runs this binary again, as the only child of a first process in new namespaces, and cleans up after it.
func outside() (code int, err error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("a Docker Engine and its namespaces need root: run the tests as root or with sudo")
	}
	for _, program := range []string{"dockerd", "containerd", "runc", "iptables", "tini"} {
		if _, err := exec.LookPath(program); err != nil {
			return 0, fmt.Errorf("%w: `make tools` installs what a Docker Engine needs", err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	if err := sweep(); err != nil {
		return 0, fmt.Errorf("clean up after tests that were killed: %w", err)
	}
	folder, lock, err := makeFolder()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, remove(folder), lock.Close()) }()
	stop, err := serveProxy(filepath.Join(folder, proxySocket))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT) // go test sends SIGQUIT at its time limit
	defer signal.Stop(signals)
	cmd := exec.Command("tini", append([]string{"--", self}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), folderVariable+"="+folder)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// The first process dies with this thread, and all others with it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC, Pdeathsig: syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start in namespaces of their own: %w: the tests need root and the right to make namespaces", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			if err := cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return 0, err
			}
		case err := <-ended:
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				return 0, err
			}
			if code = cmd.ProcessState.ExitCode(); code < 0 {
				return 0, fmt.Errorf("the tests ended by %s", cmd.ProcessState)
			}
			return code, nil
		}
	}
}

// inside makes the namespaces fit to live in: nothing that is mounted here shows outside, /proc and /run are ours, loopback is up.
func inside() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// containerd and xtables have fixed places there; what other engines put there is none of our business.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := os.Mkdir("/run/lock", 0o1777); err != nil {
		return err
	}
	return loopbackUp()
}

func loopbackUp() (err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

// The folders are at a place whose path is short enough for sockets, and locked for as long as they are used.
const (
	folders    = "/tmp/dockertest"
	folderLock = "lock"
)

func makeFolder() (folder string, lock *os.File, err error) {
	if folder, err = os.MkdirTemp(filepath.Dir(folders), filepath.Base(folders)+os.Getenv(tagVariable)); err != nil {
		return "", nil, err
	}
	// It gets its name when it is locked: sweep of another test would take it for a dead one's.
	name := filepath.Join(folder, folderLock)
	lock, err = os.Create(name + ".new")
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err == nil {
		err = os.Rename(lock.Name(), name)
	}
	return folder, lock, err
}

// sweep removes what test binaries have left that were killed.
func sweep() error {
	locks, err := filepath.Glob(folders + "*/" + folderLock)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range locks {
		lock, err := os.Open(name)
		if err != nil {
			continue // it has just been removed
		}
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			errs = append(errs, remove(filepath.Dir(name)))
		}
		errs = append(errs, lock.Close())
	}
	return errors.Join(errs...)
}

// remove removes a folder and what else bears its name. Of a test binary that was killed processes may just be dying, which keep their
// control groups busy and may write another file.
func remove(folder string) error {
	for end := time.Now().Add(removed); ; time.Sleep(10 * time.Millisecond) {
		err := errors.Join(os.RemoveAll(folder), removeGroups(folder))
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// groupOf is the control group of the engine's containers, which is named after its folder.
func groupOf(folder string) string { return "/" + filepath.Base(folder) }

// removeGroups removes the control groups that the engine has made, in every hierarchy there is.
func removeGroups(folder string) error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		roots, err := filepath.Glob(pattern + groupOf(folder))
		if err != nil {
			return err
		}
		for _, root := range roots {
			var found []string
			err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					found = append(found, path)
				}
				return err
			})
			if err != nil {
				errs = append(errs, err)
			}
			for i := len(found) - 1; i >= 0; i-- { // from below
				if err := os.Remove(found[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
					errs = append(errs, err)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// moduleRoot is the nearest folder upwards from the working directory that holds go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod in the working directory or above it")
		}
		dir = up
	}
}
