package process

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	maxLog   = 8 << 20 // bytes of haproxy.log; at a start beyond that it begins anew
	maxWords = 16 << 10
	maxLines = 12
)

// ExitError is how HAProxy's master ended.
type ExitError struct {
	Code   int            // exit code; above 128 the master tells so that a worker died by signal Code-128
	Signal syscall.Signal // that ended the master itself, or 0
	Output string         // HAProxy's own last words
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit code %d", e.Code)
	switch {
	case e.Signal != 0:
		how = fmt.Sprintf("its master was ended by %s (%s)", unix.SignalName(e.Signal), e.Signal)
	case e.Code > 128 && e.Code < 192:
		sig := syscall.Signal(e.Code - 128)
		how = fmt.Sprintf("its worker was ended by %s (%s), exit code %d", unix.SignalName(sig), sig, e.Code)
	}
	if e.Output == "" {
		return how
	}
	return how + ": " + e.Output
}

func exitError(st *os.ProcessState, words error) *ExitError {
	e := &ExitError{Code: st.ExitCode()}
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		e.Signal = ws.Signal()
	}
	if words != nil {
		e.Output = words.Error()
	}
	return e
}

// openLog opens the log for appending, and says how long it is.
func openLog(path string) (*os.File, int64, error) {
	info, err := os.Stat(path)
	flags := os.O_WRONLY | os.O_APPEND | os.O_CREATE
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, 0, err
	case info.Size() > maxLog:
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o640)
	if err != nil {
		return nil, 0, err
	}
	if info, err = f.Stat(); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// logSince gives what HAProxy complained about since an offset of its log, as an error; nil when it said nothing. That the log
// cannot be read is what it says then.
func logSince(path string, from int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := io.ReadAll(io.NewSectionReader(f, from, maxLog))
	if err != nil {
		return err
	}
	if words := complaints(string(data)); words != "" {
		return errors.New(words)
	}
	return nil
}

// complaints picks the ALERT lines of HAProxy's output without their marks, or without any the WARNING lines; the last ones, each
// once. The form of a line is "[ALERT]    (PID) : TEXT".
func complaints(output string) string {
	if len(output) > maxWords {
		output = output[len(output)-maxWords:]
	}
	for _, level := range []string{"[ALERT]", "[WARNING]"} {
		var lines []string
		seen := map[string]bool{}
		for line := range strings.Lines(output) {
			if !strings.HasPrefix(line, level) {
				continue
			}
			text := bare(line)
			if text != "" && !seen[text] {
				seen[text] = true
				lines = append(lines, text)
			}
		}
		if n := len(lines); n > 0 {
			return strings.Join(lines[max(0, n-maxLines):], "; ")
		}
	}
	return ""
}

// bare cuts "[LEVEL] (PID) : " off a line.
func bare(line string) string {
	_, text, ok := strings.Cut(line, ") : ")
	if !ok {
		return strings.TrimSpace(line)
	}
	return strings.TrimSpace(text)
}
