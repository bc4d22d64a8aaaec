package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/fnlb/fnlb/test/dockertest"
)

// commandLimit bounds one command of an example, exampleLimit the wait until one says what its page tells.
const (
	commandLimit = 3 * time.Minute
	exampleLimit = 90 * time.Second
)

// step is a command of a page, and what stands below it.
type step struct {
	command, want string
	shown         bool // something stands below it
}

// stepsOf finds the commands: lines of a block that begin with "$ ", up to the next; a backslash at the end goes on.
func stepsOf(page string) (steps []step) {
	for i, block := range strings.Split(page, "\n```") {
		if i%2 == 0 {
			continue
		}
		more := false
		for line := range strings.Lines(strings.TrimPrefix(block, "\n")) {
			command, begins := strings.CutPrefix(line, "$ ")
			switch {
			case begins:
				steps = append(steps, step{command: command})
			case len(steps) == 0:
				continue
			case more:
				steps[len(steps)-1].command += line
			default:
				steps[len(steps)-1].want += line
				steps[len(steps)-1].shown = true
			}
			more = (begins || more) && strings.HasSuffix(line, "\\\n")
		}
	}
	return steps
}

// pattern matches what a page tells; … stands for anything.
func (s *step) pattern() *regexp.Regexp {
	text := strings.NewReplacer("\n…", ".*", "…", ".*").Replace(regexp.QuoteMeta(strings.TrimSpace(s.want))) // lines may also be none
	return regexp.MustCompile(`(?si)^` + text + `$`)
}

// asks reports whether a command changes nothing, so that it may be repeated until what was started says what it shall.
func (s *step) asks() bool {
	return s.shown && (strings.HasPrefix(s.command, "curl ") || strings.Contains(s.command, " logs ") || strings.Contains(s.command, " explain"))
}

// TestExamples runs the pages of examples/docker, command by command as they stand. A command ends with 0 and prints what stands below
// it; one that only asks is given the time that containers take. The examples run alone: each publishes ports for the whole engine.
func TestExamples(t *testing.T) {
	e := dockertest.Shared(t)
	e.Image(t, dockertest.FnlbImage)
	if _, err := e.Client.ImageTag(t.Context(), client.ImageTagOptions{Source: e.Image(t, dockertest.WebImage), Target: "fnlb-sample:latest"}); err != nil {
		t.Fatal(err)
	}
	// Where everybody has it; nothing else is in this /run.
	if err := os.Symlink(e.Socket, "/var/run/docker.sock"); err != nil {
		t.Fatal(err)
	}
	tools := shims(t)
	for _, name := range []string{".", "tls", "template", "socket-proxy", "swarm"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join("..", "..", "examples", "docker", name)
			page, err := os.ReadFile(filepath.Join(dir, "README.md"))
			if err != nil {
				t.Fatal(err)
			}
			steps := stepsOf(string(page))
			if len(steps) < 5 {
				t.Fatalf("%d commands: %+v", len(steps), steps)
			}
			x := &example{t: t, dir: dir, tools: tools, before: filesOf(t, dir)}
			t.Cleanup(x.cleanUp)
			for i := range steps {
				x.do(&steps[i])
			}
		})
	}
}

// shims is a folder with a docker that has compose as the Debian package docker-compose brings it: a program of its own.
func shims(t *testing.T) string {
	t.Helper()
	docker, err := exec.LookPath("docker")
	if err != nil {
		t.Fatal(err)
	}
	compose, err := exec.LookPath("docker-compose")
	if err != nil {
		t.Fatalf("%v: `make tools` installs it", err)
	}
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nif [ \"$1\" = compose ]; then\n  shift\n  exec %s \"$@\"\nfi\nexec %s \"$@\"\n", compose, docker)
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(script), 0o755); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	return dir
}

// example is one page that is being run.
type example struct {
	t          *testing.T
	dir, tools string // the page's folder, and one that comes first in its PATH
	before     map[string]string
}

// run runs one command in the page's folder.
func (x *example) run(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", "set -euo pipefail\n"+command)
	cmd.Dir = x.dir
	cmd.Env = append(os.Environ(), "PATH="+x.tools+":"+os.Getenv("PATH"), "DOCKER_CONFIG="+x.tools, "DOCKER_HOST=", "DOCKER_BUILDKIT=0", "COMPOSE_HTTP_TIMEOUT=300", "NO_COLOR=1")
	cmd.WaitDelay = 10 * time.Second
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if !strings.Contains(command, "2>&1") { // compose tells its progress there
		var errs strings.Builder
		cmd.Stderr = &errs
		err := cmd.Run()
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, &errs)
		}
		return strings.ReplaceAll(said.String(), "\r", ""), err
	}
	err := cmd.Run()
	return strings.ReplaceAll(said.String(), "\r", ""), err
}

// do runs a command until it is as the page tells, or once where it changes something.
func (x *example) do(s *step) {
	x.t.Helper()
	begin := time.Now()
	for {
		said, err := x.run(x.t.Context(), s.command)
		good := err == nil && (!s.shown || s.pattern().MatchString(strings.TrimSpace(said)))
		switch {
		case good:
			x.t.Logf("%6.1f s  $ %s", time.Since(begin).Seconds(), strings.TrimSpace(s.command))
			return
		case !s.asks() || time.Since(begin) > exampleLimit:
			state, stateErr := x.run(context.WithoutCancel(x.t.Context()), "docker ps -a; for c in $(docker ps -aq); do docker logs $c 2>&1 | tail -20; done")
			x.t.Fatalf("$ %s%v, and it prints\n%s\nThe page tells\n%s\nThe containers (%v):\n%s", s.command, err, said, s.want, stateErr, state)
		}
		time.Sleep(100 * time.Millisecond) // the command tells no events
	}
}

// cleanUp removes what a page has left: all, when it failed, and containers whose Swarm was left before they had ended. Files are as before.
func (x *example) cleanUp() {
	said, err := x.run(context.WithoutCancel(x.t.Context()), "docker swarm leave --force || true; docker rm -f $(docker ps -aq) || true; docker network prune -f")
	if err != nil {
		x.t.Errorf("clean up: %v %s", err, said)
	}
	after := filesOf(x.t, x.dir)
	for name, content := range x.before {
		if after[name] != content {
			x.t.Errorf("%s was changed", name)
			if err := os.WriteFile(filepath.Join(x.dir, name), []byte(content), 0o644); err != nil { //nolint:gosec // as it was
				x.t.Error(err)
			}
		}
	}
	for name := range after {
		if _, ok := x.before[name]; !ok {
			x.t.Errorf("%s is left", name)
			if err := os.Remove(filepath.Join(x.dir, name)); err != nil {
				x.t.Error(err)
			}
		}
	}
}

// filesOf reads a folder of small files, and the folders below it but other examples.
func filesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, pattern := range []string{"*", "certs/*"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if info, err := os.Stat(name); err != nil || info.IsDir() {
				continue
			}
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			short, err := filepath.Rel(dir, name)
			if err != nil {
				t.Fatal(err)
			}
			files[short] = string(data)
		}
	}
	return files
}
