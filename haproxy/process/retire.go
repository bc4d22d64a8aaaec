package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Retire asks a master that is no child of ours to finish its requests and end (SIGUSR1). The process must have been started
// with the master socket whose answer named it; a pid that means another process by now is never signalled.
func Retire(master int, socket string) error {
	fd, err := unix.PidfdOpen(master, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil // it has ended already
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", master, err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written to it
	// The descriptor holds the process, so what is read now is its own command line.
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", master))
	if err != nil {
		return fmt.Errorf("read the command line of process %d: %w", master, err)
	}
	if !bytes.Contains(cmdline, []byte("\x00"+socket+"\x00")) && !bytes.Contains(cmdline, []byte("\x00"+socket+",")) {
		return fmt.Errorf("process %d is not the HAProxy of %s", master, socket)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGUSR1, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", master, err)
	}
	return nil
}
