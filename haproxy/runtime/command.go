package runtime

import (
	"errors"
	"fmt"
	"strings"
)

// maxCommand bounds one command; HAProxy's own buffer has 16 KiB.
const maxCommand = 8 << 10

// Command is one command of the runtime API. Only Cmd makes one, so that its text cannot hold a second command.
type Command struct{ line string }

// String is the command as it is written to the socket.
func (c Command) String() string { return c.line }

// Cmd joins words to a command. It refuses every word that the socket could read as something else than this one word: empty ones,
// spaces, control characters and what is not ASCII, ';' (a second command), quotes and backslashes, "<<" (a payload), and '@'
// first in the command (another process).
func Cmd(words ...string) (Command, error) {
	if len(words) == 0 {
		return Command{}, errors.New("command: no words")
	}
	for _, w := range words {
		if w == "" {
			return Command{}, errors.New("command: empty word")
		}
		for i := range len(w) {
			if c := w[i]; c <= ' ' || c > '~' || strings.IndexByte(`;'"\`, c) >= 0 {
				return Command{}, fmt.Errorf("command %s: word %q: byte %q is not allowed", words[0], w, c)
			}
		}
		if strings.Contains(w, "<<") {
			return Command{}, fmt.Errorf("command %s: word %q marks a payload", words[0], w)
		}
	}
	if words[0][0] == '@' {
		return Command{}, fmt.Errorf("command %s: the process is not part of a command", words[0])
	}
	line := strings.Join(words, " ")
	if len(line) > maxCommand {
		return Command{}, fmt.Errorf("command %s: %d bytes, at most %d fit", words[0], len(line), maxCommand)
	}
	return Command{line}, nil
}

// The commands of this package's own calls.
var (
	showProc    = Command{"show proc"}
	showVersion = Command{"show version"}
	reload      = Command{"reload"}
	showState   = Command{"show servers state"}
	showStat    = Command{"show stat -1 4 -1"} // all proxies, servers only, all ids
	showInfo    = Command{"show info"}
	showLoaded  = Command{"show env " + revisionVariable}
	errTooLarge = fmt.Errorf("reply of more than %d MiB", maxReply>>20)
)

// revisionVariable is set by our own configuration file; so the worker itself says what it has loaded.
const revisionVariable = "FNLB_REVISION"
