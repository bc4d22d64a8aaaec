package storetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// nobody is whom servers run as when we are root: they refuse to be root.
const nobody = 65534

// startLimit is for a machine that has a lot to do.
const startLimit = 2 * time.Minute

// Server is a real database server, on a folder and a socket of its own.
type Server struct {
	Socket string

	kind  *kind
	dir   string
	fsync bool
	cmd   *exec.Cmd
}

// kind is what differs between servers.
type kind struct {
	name   string
	make   func(s *Server) error // fills the folder
	start  func(s *Server) *exec.Cmd
	ready  func(s *Server) error
	stop   syscall.Signal
	admin  string // a database that is always there
	commit string // what a client sends to commit, in small letters
	ask    func(s *Server, database string) *exec.Cmd
	url    func(s *Server, database string, proxy *Proxy) string

	once   sync.Once
	shared *Server
	failed error
	made   int // databases
	mu     sync.Mutex
}

// Main runs the tests of a package, ends the servers that they share, and looks for goroutines that are left. In the program that Kill starts
// it writes instead, to what open opens.
func Main(m *testing.M, open Opener) {
	if url := os.Getenv(writerURL); url != "" {
		os.Exit(beWriter(url, open))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(exit int) {
		StopShared()
		os.Exit(exit)
	}))
}

// StopShared ends the servers that the tests of a package have shared.
func StopShared() {
	for _, k := range []*kind{postgres, mariadb} {
		if k.shared != nil {
			k.shared.stop()
			os.RemoveAll(k.shared.dir) //nolint:errcheck // below /tmp
		}
	}
}

// share gives the server that all tests of a package share, which does not wait for the disk.
func (k *kind) share(t testing.TB) *Server {
	t.Helper()
	k.once.Do(func() {
		s, err := k.create(false)
		if err == nil {
			err = s.start()
		}
		k.shared, k.failed = s, err
	})
	if k.failed != nil {
		t.Fatalf("start %s: %v; test/install-tools.sh packages installs it", k.name, k.failed)
	}
	return k.shared
}

// own gives a server that ends with the test.
func (k *kind) own(t testing.TB, fsync bool) *Server {
	t.Helper()
	s, err := k.create(fsync)
	if err != nil {
		t.Fatalf("make a folder for %s: %v; test/install-tools.sh packages installs it", k.name, err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(s.dir); err != nil {
			t.Error(err)
		}
	})
	s.Start(t)
	t.Cleanup(s.stop)
	return s
}

func (k *kind) create(fsync bool) (*Server, error) {
	dir, err := os.MkdirTemp("/tmp", "fnlb-"+k.name) // sockets need short paths
	if err != nil {
		return nil, err
	}
	s := &Server{kind: k, dir: dir, fsync: fsync}
	for _, sub := range []string{"", "tmp"} {
		path := filepath.Join(dir, sub)
		if err := os.MkdirAll(path, 0o700); err != nil {
			return s, err
		}
		if os.Getuid() == 0 {
			if err := os.Chown(path, nobody, nobody); err != nil {
				return s, err
			}
		}
	}
	if err := k.make(s); err != nil {
		return s, err
	}
	return s, s.run("/bin/cp", "-a", filepath.Join(dir, "data"), filepath.Join(dir, "fresh")) // for Wipe: it is much faster
}

// command makes one that runs as nobody, knows nothing of our environment, and ends with us.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=" + s.dir, "TMPDIR=" + filepath.Join(s.dir, "tmp")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	return cmd
}

// run runs a command to its end.
func (s *Server) run(name string, args ...string) error {
	if out, err := s.command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

func (s *Server) log() string { return filepath.Join(s.dir, "log") }

func (s *Server) start() error {
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = s.kind.start(s)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	deadline := time.Now().Add(startLimit)
	for {
		err := s.kind.ready(s)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || !alive(s.cmd.Process.Pid) {
			said, _ := os.ReadFile(s.log())
			s.stop()
			return fmt.Errorf("%w: %s", err, said)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// alive tells whether a process has not ended; who has is a zombie until somebody waits.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// Start starts it once more, after Kill or Stop.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	if err := s.start(); err != nil {
		t.Fatalf("start %s: %v", s.kind.name, err)
	}
}

// Stop ends it in order.
func (s *Server) Stop() { s.stop() }

func (s *Server) stop() {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	s.signal(syscall.SIGCONT)
	s.cmd.Process.Signal(s.kind.stop) //nolint:errcheck // it may have ended
	ended := time.AfterFunc(time.Minute, func() { s.signal(syscall.SIGKILL) })
	s.cmd.Wait() //nolint:errcheck // how it ended does not matter
	ended.Stop()
	s.cmd = nil
}

// Kill ends it, and all processes of it, at once.
func (s *Server) Kill() {
	pids := s.signal(syscall.SIGKILL)
	s.cmd.Wait() //nolint:errcheck // it was killed
	s.cmd = nil
	for deadline := time.Now().Add(limit); slices.ContainsFunc(pids, alive) && time.Now().Before(deadline); { // they hold its memory
		time.Sleep(5 * time.Millisecond)
	}
}

// Pause has none of its processes run until Continue.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Continue ends Pause.
func (s *Server) Continue() { s.signal(syscall.SIGCONT) }

// Wipe has it start with a fresh folder. It must be stopped.
func (s *Server) Wipe(t testing.TB) {
	t.Helper()
	data := filepath.Join(s.dir, "data")
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if err := s.run("/bin/cp", "-a", filepath.Join(s.dir, "fresh"), data); err != nil {
		t.Fatal(err)
	}
}

// signal reaches all its processes; first the server is stopped, so that it makes no more of them meanwhile.
func (s *Server) signal(sig syscall.Signal) (pids []int) {
	if s.cmd == nil {
		return nil
	}
	pids = []int{s.cmd.Process.Pid}
	for i := 0; i < len(pids); i++ {
		syscall.Kill(pids[i], syscall.SIGSTOP) //nolint:errcheck // one that has ended meanwhile
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pids[i], pids[i]))
		if err != nil {
			continue
		}
		for _, f := range strings.Fields(string(children)) {
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	for _, pid := range pids {
		syscall.Kill(pid, sig) //nolint:errcheck // one that has ended meanwhile
	}
	return pids
}
