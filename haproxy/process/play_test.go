package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fnlb/fnlb/haproxy/runtime"
)

// play is what the test binary does as a child of a test.
func play(mode string) error {
	switch mode {
	case "only6":
		return hold("tcp6", "[::]:"+os.Getenv("PROCESS_TEST_PORT"))
	case "share":
		return hold("tcp4", "127.0.0.1:"+os.Getenv("PROCESS_TEST_PORT"))
	case "limited":
		return limited(os.Getenv("PROCESS_TEST_HAPROXY"), os.Getenv("PROCESS_TEST_DIR"))
	}
	return fmt.Errorf("mode %q", mode)
}

// hold listens until standard input ends; on [::] for IPv6 alone.
func hold(network, addr string) error {
	lc := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		var errs []error
		errs = append(errs, c.Control(func(fd uintptr) {
			errs = append(errs, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
			if network == "tcp6" {
				errs = append(errs, unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
			}
		}))
		return errors.Join(errs...)
	}}
	l, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, l.Close())
}

// limited starts HAProxy with 256 open files, though the process began with more, and tells what HAProxy made of it.
func limited(binary, dir string) error {
	if err := SetFileLimit(256); err != nil {
		return err
	}
	n, err := FileLimit()
	if err != nil {
		return err
	}
	socket := filepath.Join(dir, "m.sock")
	client := runtime.New(socket)
	c := New(Options{Binary: binary, Files: []string{filepath.Join(dir, "haproxy.cfg"), filepath.Join(dir, "own.cfg")}, Socket: socket, Log: filepath.Join(dir, "log")}, client)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	id, err := c.Start(ctx, "r1")
	if err != nil {
		return err
	}
	info, err := client.Info(ctx, id.Worker)
	if err := errors.Join(err, c.Stop(ctx)); err != nil {
		return err
	}
	if n != 256 || info.UlimitN < 250 || info.UlimitN > 256 || info.MaxConn < 90 || info.MaxConn > 128 {
		return fmt.Errorf("limit %d, in HAProxy %+v", n, info)
	}
	return nil
}
