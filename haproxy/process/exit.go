package process

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	maxLog   = 8 << 20  // bytes of haproxy.log; at a start beyond that it begins anew
	maxWords = 64 << 10 // bytes of the log that are looked at
	maxLines = 12
	maxLine  = 1000 // bytes
)

// ExitError is how HAProxy's master ended.
type ExitError struct {
	Code    int            // exit code; above 128 the master tells so that a worker died by signal Code-128
	Signal  syscall.Signal // that ended the master itself, or 0
	Adopted bool           // it was no child of ours, so that neither is known
	Output  string         // HAProxy's own last words
	Killed  []int          // its processes that outlived the master and ignored SIGTERM: a fault
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit code %d", e.Code)
	switch {
	case e.Adopted:
		how = "it ended; how is not known, because an earlier fnlb had started it"
	case e.Signal != 0:
		how = "its master was ended by " + signalName(e.Signal)
	case e.Code > 128 && e.Code < 192:
		how = fmt.Sprintf("its worker was ended by %s, exit code %d", signalName(syscall.Signal(e.Code-128)), e.Code)
	}
	if e.Signal == syscall.SIGKILL || e.Code == 128+int(syscall.SIGKILL) {
		how += " (out of memory? the kernel's log tells)"
	}
	if len(e.Killed) > 0 {
		how += fmt.Sprintf(", processes %v ignored SIGTERM and were killed", e.Killed)
	}
	if e.Output == "" {
		return how
	}
	if strings.Contains(e.Output, "Cannot raise FD limit") {
		return how + ": " + e.Output + "; raise the limit on open files (ulimit -n, docker run --ulimit nofile=, LimitNOFILE=)"
	}
	return how + ": " + e.Output
}

func exitError(st *os.ProcessState, words string, killed []int) *ExitError {
	return &ExitError{Code: st.ExitCode(), Signal: signalOf(st), Output: words, Killed: killed}
}

// signalOf is the signal that ended a process, or 0.
func signalOf(st *os.ProcessState) syscall.Signal {
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return ws.Signal()
	}
	return 0
}

func signalName(sig syscall.Signal) string { return fmt.Sprintf("%s (%s)", unix.SignalName(sig), sig) }

// ending tells how a process ended.
func ending(st *os.ProcessState) string {
	if sig := signalOf(st); sig != 0 {
		return "ended by " + signalName(sig)
	}
	return fmt.Sprintf("exit code %d", st.ExitCode())
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

// TrimLog begins HAProxy's own log anew when it has become long: it grows by some lines with every reload and every change of a
// server's health. HAProxy appends, so it goes on at the new end. One that somebody has deleted has no name to be found by.
func (c *Child) TrimLog() error {
	info, err := os.Stat(c.o.Log)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Size() <= maxLog:
		return nil
	}
	return os.Truncate(c.o.Log, 0)
}

// logSince gives the last 64 KiB of what was written to the log since an offset.
func logSince(path string, from int64) (text string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if info.Size() < from {
		from = 0 // somebody has cut it
	}
	data, err := io.ReadAll(io.NewSectionReader(f, max(from, info.Size()-maxWords), maxWords))
	return string(data), err
}

// startWords are the complaints since a start. That the log cannot be read is what it says then.
func startWords(path string, from int64) string {
	text, err := logSince(path, from)
	if err != nil {
		return "its log: " + err.Error()
	}
	return complaints(text)
}

// lastWords are the complaints since the last reload that succeeded or failed: the ALERT lines of a refused reload are not why HAProxy
// ended days later.
func lastWords(path string, from int64) string {
	text, err := logSince(path, from)
	if err != nil {
		return "its log: " + err.Error()
	}
	for _, mark := range []string{"Loading success.", "Loading failure!", "Failed to load worker"} {
		if i := strings.LastIndex(text, mark); i >= 0 {
			text = text[i+len(mark):]
		}
	}
	return complaints(text)
}

// complaints picks the ALERT lines of HAProxy's output without their marks, or without any the WARNING lines.
func complaints(output string) string {
	if words := said(output, "ALERT"); words != "" {
		return words
	}
	return said(output, "WARNING")
}

// said picks the lines of one level without their marks; the last ones, each once. The form of a line is "[ALERT]    (PID) : TEXT".
func said(output, level string) string {
	var lines []string
	seen := map[string]bool{}
	for line := range strings.Lines(output) {
		text, ok := strings.CutPrefix(line, "["+level+"]")
		if !ok {
			continue
		}
		if _, rest, ok := strings.Cut(text, ") : "); ok {
			text = rest
		}
		text = printable(text, maxLine)
		if text == "" || seen[text] || strings.HasPrefix(text, "config : Fatal errors found") || strings.HasPrefix(text, "config : Error(s) found in") {
			continue // the last two only sum up
		}
		seen[text] = true
		lines = append(lines, text)
	}
	return strings.Join(lines[max(0, len(lines)-maxLines):], "; ")
}

// printable makes one bounded line of what may hold anything: HAProxy repeats the words of a text.
func printable(s string, bytes int) string {
	s = strings.TrimSpace(s)
	if len(s) > bytes {
		s = s[:bytes] + "…"
	}
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r) || r == utf8.RuneError:
			return '?'
		}
		return r
	}, s)
}
