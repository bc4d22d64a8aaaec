package kubetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
)

// process is a server that dies with the tests, also when these are killed.
type process struct {
	name, log string
	cmd       *exec.Cmd
	ended     chan struct{} // closed when it has
}

func (c *Cluster) process(name string, args ...string) *process {
	cmd := exec.Command(tool(name), args...) //nolint:noctx // it ends with end
	cmd.Dir = c.dir
	return &process{name: name, log: filepath.Join(c.dir, map[string]string{"etcd": "etcd.log", "kube-apiserver": "apiserver.log"}[name]), cmd: cmd, ended: make(chan struct{})}
}

// start starts it from a thread that lives as long as it does: the kernel kills it with that thread.
func (p *process) start() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		defer close(p.ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		_ = log.Close() // the process has its own
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // nobody asks how a server ended that was killed
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w; test/install-tools.sh kubernetes installs it", p.name, err)
	}
	return nil
}

// end kills it and waits until it is gone.
func (p *process) end() {
	if p == nil || p.cmd.Process == nil {
		return
	}
	_ = p.cmd.Process.Kill() // an error means that it has ended
	<-p.ended
}
