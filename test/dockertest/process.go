package dockertest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Process is one process, as /proc shows it.
type Process struct {
	PID, Parent int
	Name        string
	UID, GID    int // effective
	Groups      []int
	Permitted   uint64 // capabilities
	Effective   uint64
	Ambient     uint64
	Bounding    uint64
	NoNewPrivs  bool
	Command     []string
	State       string // R, S, Z …
}

// ReadProcess reads /proc/PID.
func ReadProcess(pid int) (Process, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	data, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return Process{}, err
	}
	p := Process{PID: pid}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		hex := func() uint64 {
			n, e := strconv.ParseUint(fields[0], 16, 64)
			err = errors.Join(err, e)
			return n
		}
		number := func(i int) int {
			n, e := strconv.Atoi(fields[i])
			err = errors.Join(err, e)
			return n
		}
		switch name {
		case "Name":
			p.Name = fields[0]
		case "State":
			p.State = fields[0]
		case "PPid":
			p.Parent = number(0)
		case "Uid":
			p.UID = number(1)
		case "Gid":
			p.GID = number(1)
		case "Groups":
			for i := range fields {
				p.Groups = append(p.Groups, number(i))
			}
		case "CapPrm":
			p.Permitted = hex()
		case "CapEff":
			p.Effective = hex()
		case "CapAmb":
			p.Ambient = hex()
		case "CapBnd":
			p.Bounding = hex()
		case "NoNewPrivs":
			p.NoNewPrivs = number(0) == 1
		}
	}
	if err != nil {
		return Process{}, fmt.Errorf("read the status of process %d: %w", pid, err)
	}
	command, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return Process{}, err
	}
	if text := strings.TrimSuffix(string(command), "\x00"); text != "" {
		p.Command = strings.Split(text, "\x00")
	}
	return p, nil
}
