package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/fnlb/fnlb/test/e2e"
)

var client = http.Client{Timeout: e2e.Patience, Transport: &http.Transport{DisableKeepAlives: true}}

// put asks for a node and gives the status of the answer.
func put(addr, node string) (int, error) { return ask(addr, http.MethodPut, node) }

// call changes a node and wants a good answer.
func call(addr, method, node string) error {
	status, err := ask(addr, method, node)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s %s: status %d", method, node, status)
	}
	return err
}

func ask(addr, method, node string) (status int, err error) {
	body, err := json.Marshal(map[string]string{"node": node})
	if err != nil {
		return 0, err
	}
	return send(addr, method, "/1/lb/nodes", string(body))
}

func send(addr, method, path, body string) (status int, err error) {
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}
