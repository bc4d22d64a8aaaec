package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// asWeb, when it is set, makes the test binary the sample server itself, so that signals can be tried on a process.
const asWeb = "FNLB_TEST_AS_SAMPLE_WEB"

func TestMain(m *testing.M) {
	if os.Getenv(asWeb) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

var banner = regexp.MustCompile(`^node (\S+) listens on (127\.0\.0\.1:[1-9][0-9]*)\n$`)

// start runs the server as a process of its own and returns it with its node name and address.
func start(t *testing.T, args ...string) (cmd *exec.Cmd, node, address string) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), os.Args[0], append([]string{"--listen", "127.0.0.1", "--port", "0"}, args...)...)
	cmd.Env = append(os.Environ(), asWeb+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("read the first line: %v", err)
	}
	m := banner.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("first line %q does not match %s", line, banner)
	}
	return cmd, m[1], m[2]
}

func get(t *testing.T, method, url string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	return do(t, req)
}

func do(t *testing.T, req *http.Request) (*http.Response, string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, ExpectContinueTimeout: time.Minute}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req) // follows no redirect
	if err != nil {
		t.Error(err)
		return &http.Response{}, ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return resp, string(body)
}

func TestAnswers(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	read, write := io.Pipe()
	status := make(chan int, 1)
	go func() {
		status <- run(ctx, []string{"-listen=127.0.0.1", "-port=0", "--node", "n1", "--version", "1.2.3"}, write, io.Discard)
		write.Close()
	}()
	line, err := bufio.NewReader(read).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address := banner.FindStringSubmatch(line)[2]
	for _, c := range []struct{ method, path, kind, body string }{
		{"GET", "/", "text/plain; charset=utf-8", "Hello web from node n1"},
		{"GET", "/any/other?q=1", "text/plain; charset=utf-8", "Hello web from node n1"},
		{"GET", "//double//slash", "text/plain; charset=utf-8", "Hello web from node n1"},
		{"POST", "/r/app", "text/plain; charset=utf-8", "Hello web from node n1"},
		{"HEAD", "/", "text/plain; charset=utf-8", ""},
		{"GET", "/healthz", "text/plain; charset=utf-8", "ok"},
		{"GET", "/version", "application/json", `{"version":"1.2.3"}`},
	} {
		resp, body := get(t, c.method, "http://"+address+c.path)
		if resp.StatusCode != http.StatusOK || body != c.body || resp.Header.Get("Content-Type") != c.kind {
			t.Errorf("%s %s: %d %q %q, want 200 %q %q", c.method, c.path, resp.StatusCode, resp.Header.Get("Content-Type"), body, c.kind, c.body)
		}
	}
	cancel()
	if got := <-status; got != 0 {
		t.Errorf("exit status %d after a stop, want 0", got)
	}
}

func TestDefaultNodeIsARandomUUID(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	a, err := parse(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	b, err := parse(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if !form.MatchString(a.node) || a.node == b.node {
		t.Errorf("nodes %q and %q, want two different UUIDs", a.node, b.node)
	}
	if a.port != 8082 || a.version != "0.0.235" {
		t.Errorf("defaults: port %d, version %q", a.port, a.version)
	}
}

func TestSignalFinishesTheRequestInFlight(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			cmd, node, address := start(t, "--delay", "300ms")
			// Any answer shows that the server is up; this one has no delay.
			if _, body := get(t, "GET", "http://"+address+"/healthz"); body != "ok" {
				t.Fatalf("healthz: %q", body)
			}
			// The server asks for the body from inside the handler: then the request is in flight.
			handled := make(chan struct{})
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { close(handled) }})
			req, err := http.NewRequestWithContext(ctx, "POST", "http://"+address+"/slow", strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Expect", "100-continue")
			answered := make(chan string, 1)
			go func() {
				_, body := do(t, req)
				answered <- body
			}()
			select {
			case <-handled:
			case body := <-answered:
				t.Fatalf("answered %q before the signal", body)
			}
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if got, want := <-answered, "Hello web from node "+node; got != want {
				t.Errorf("answer %q, want %q", got, want)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("after %s: %v, want exit status 0", signal, err)
			}
		})
	}
}

func TestWrongUse(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
		says string
	}{
		{[]string{"--help"}, 0, "Usage"},
		{[]string{"--port", "70000"}, 2, "--port 70000: not in 0 to 65535"},
		{[]string{"--port", "x"}, 2, "invalid value"},
		{[]string{"--delay", "-1s"}, 2, "below zero"},
		{[]string{"stray"}, 2, `unexpected argument "stray"`},
		{[]string{"--listen", "not an address", "--port", "0"}, 1, "listen"},
	} {
		t.Run(fmt.Sprint(c.args), func(t *testing.T) {
			var stderr bytes.Buffer
			if got := run(t.Context(), c.args, io.Discard, &stderr); got != c.want || !strings.Contains(stderr.String(), c.says) {
				t.Errorf("exit %d, %q; want %d and %q", got, stderr.String(), c.want, c.says)
			}
		})
	}
}
