package app

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// freeze stops all applies of the running balancer.
func freeze(c *call) error {
	return c.brake(http.MethodPut, "/1/lb/freeze", map[string]string{"reason": strings.Join(c.args, " ")})
}

// thaw ends a freeze.
func thaw(c *call) error { return c.brake(http.MethodDelete, "/1/lb/freeze", nil) }

// rollback goes back to the last good configuration and freezes it.
func rollback(c *call) error { return c.brake(http.MethodPost, "/1/lb/rollback", nil) }

// brake calls and prints what was done.
func (c *call) brake(method, path string, body any) error {
	status, data, err := c.askFor(brakeTime, method, path, body)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return answered(status, data)
	}
	if c.json {
		_, err := c.Stdout.Write(data)
		return err
	}
	var m struct {
		Msg string `json:"msg"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("read the balancer's answer: %w", err)
	}
	_, err = fmt.Fprintln(c.Stdout, m.Msg)
	return err
}
