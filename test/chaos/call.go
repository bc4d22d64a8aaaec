package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/fnlb/fnlb/test/e2e"
)

var client = http.Client{Timeout: e2e.Patience, Transport: &http.Transport{DisableKeepAlives: true}}

// put asks for a node and gives the status of the answer.
func put(addr, node string) (int, error) { return ask(&client, addr, http.MethodPut, node) }

// call changes a node and wants a good answer.
func call(by *http.Client, addr, method, node string) error {
	status, err := ask(by, addr, method, node)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s %s: status %d", method, node, status)
	}
	return err
}

func ask(by *http.Client, addr, method, node string) (status int, err error) {
	body, err := json.Marshal(map[string]string{"node": node})
	if err != nil {
		return 0, err
	}
	return send(by, addr, method, "/1/lb/nodes", string(body))
}

func send(by *http.Client, addr, method, path, body string) (status int, err error) {
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	resp, err := by.Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body) // so that a connection that is kept can be used again
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}
