package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/fnlb/fnlb/config"
)

// clientTime bounds one call to the running balancer, brakeTime one that waits for a reload.
const (
	clientTime = 10 * time.Second
	brakeTime  = 30 * time.Second
)

// ask calls the management API of the running balancer by its admin socket, which serves whatever the template says.
func (c *call) ask(method, path string, body any) (int, []byte, error) {
	return c.askFor(clientTime, method, path, body)
}

func (c *call) askFor(limit time.Duration, method, path string, body any) (int, []byte, error) {
	socket := dirsOf(&c.settings).adminSocket()
	client := http.Client{Timeout: limit, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		payload = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "http://localhost"+path, payload)
	if err != nil {
		return 0, nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("no balancer answers on %s: %w; is it running with this --run-dir?", socket, errors.Unwrap(err))
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return 0, nil, fmt.Errorf("read the balancer's answer: %w", err)
	}
	return resp.StatusCode, data, nil
}

// answered is the error behind an answer that is none of success.
func answered(status int, data []byte) error {
	var m struct {
		Msg string `json:"msg"`
	}
	if err := json.Unmarshal(data, &m); err != nil || m.Msg == "" {
		return fmt.Errorf("the balancer answered with status %d", status)
	}
	return errors.New(m.Msg)
}

// healthcheck is Docker's: exit code 0 or 1, and the reason on standard output.
func healthcheck(c *call) error {
	status, data, err := c.ask(http.MethodGet, "/1/lb/readyz", nil)
	if err != nil {
		return err
	}
	if _, err := c.Stdout.Write(data); err != nil {
		return err
	}
	if status != http.StatusOK {
		return errSilent
	}
	return nil
}

// version prints what was built.
func version(c *call) error {
	if c.json {
		return json.NewEncoder(c.Stdout).Encode(map[string]string{
			"version": config.Version, "commit": config.Commit, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
		})
	}
	_, err := fmt.Fprintf(c.Stdout, "fnlb %s %s %s/%s\n", config.FullVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
