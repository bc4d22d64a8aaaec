package app

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/model"
)

// nodesArgs is what may stand behind fnlb nodes, in lines for the help; nodesVerbs are its words, for the shell's completion.
const nodesArgs = "[list | {add | remove | drain | ready | maint} NODE…\n            | weight N NODE… | export | import [FILE]]"

var nodesVerbs = []string{"list", "add", "remove", "drain", "ready", "maint", "weight", "export", "import"}

// nodes lists and changes the nodes of the running balancer.
func nodes(c *call) error {
	verb, args := "list", c.args
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	body := map[string]any{}
	method := http.MethodPut
	switch verb {
	case "list":
		if len(args) == 0 {
			return c.listNodes()
		}
		args = nil
	case "export":
		if len(args) == 0 {
			return c.exportNodes()
		}
		args = nil
	case "import":
		if err := importUse(args); err != nil {
			return err
		}
		return c.importNodes(args)
	case "add":
	case "remove":
		method = http.MethodDelete
	case "drain", "ready", "maint":
		body["state"] = verb
	case "weight":
		if len(args) == 0 {
			break
		}
		n, err := strconv.Atoi(args[0])
		if err != nil || n < 0 || n > model.MaxWeight {
			return &config.UsageError{Reason: fmt.Sprintf("the weight %q is no whole number from 0 to %d", args[0], model.MaxWeight), Hint: "a node's usual weight is 1"}
		}
		body["weight"], args = n, args[1:]
	default:
		args = nil
	}
	if len(args) == 0 {
		return &config.UsageError{Reason: "wrong use of fnlb nodes", Hint: "fnlb nodes " + strings.Join(strings.Fields(nodesArgs), " ")}
	}
	return c.changeNodes(method, body, args)
}

// changeNodes makes the same call for each node. Where only a part of them is wrong, none is changed; only an added node may be new.
func (c *call) changeNodes(method string, body map[string]any, list []string) error {
	names := make([]string, len(list))
	for i, node := range list {
		n, err := model.ParseNode(node)
		if err != nil {
			return &config.UsageError{Reason: err.Error()}
		}
		names[i] = n.String()
	}
	if len(body) > 0 { // a slip of the pen would add a node that nobody has
		if err := c.known(names); err != nil {
			return err
		}
	}
	for _, node := range list {
		body["node"] = node
		status, data, err := c.ask(method, "/1/lb/nodes", body)
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return answered(status, data)
		}
		if c.json {
			if _, err := c.Stdout.Write(data); err != nil {
				return err
			}
		}
	}
	return nil
}

// known is an error when one of the nodes is not there.
func (c *call) known(names []string) error {
	all, _, err := c.askNodes()
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(all))
	for i := range all {
		there[all[i].Node] = true
	}
	for _, n := range names {
		if !there[n] {
			return fmt.Errorf("there is no node %s; fnlb nodes lists them, and fnlb nodes add adds one", n)
		}
	}
	return nil
}

// nodeRow is what is read of a node in the full list.
type nodeRow struct {
	Node      string    `json:"node"`
	Weight    int       `json:"weight"`
	State     string    `json:"state"`
	Health    string    `json:"health"`
	Since     time.Time `json:"since"`
	LastCheck string    `json:"last_check"`
	Requests  *uint64   `json:"requests"`
	Addresses []nodeRow `json:"addresses"`
	Address   string    `json:"address"` // of an address
}

// askNodes gives the full list, and the answer as it came.
func (c *call) askNodes() ([]nodeRow, []byte, error) {
	status, data, err := c.ask(http.MethodGet, "/1/lb/nodes?full=1", nil)
	if err == nil && status != http.StatusOK {
		err = answered(status, data)
	}
	if err != nil {
		return nil, nil, err
	}
	var list struct {
		Nodes []nodeRow `json:"nodes"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, nil, fmt.Errorf("read the balancer's answer: %w", err)
	}
	return list.Nodes, data, nil
}

func (c *call) listNodes() error {
	list, data, err := c.askNodes()
	if err != nil {
		return err
	}
	if !c.json {
		data = []byte(nodeTable(list, time.Now()))
	}
	_, err = c.Stdout.Write(data)
	return err
}

// Widths of the table, which fits 80 columns: one of a node, whose other columns stand in the next line when it is longer, and one of what
// a check found.
const (
	nodeWidth  = 32
	foundWidth = 76
)

// nodeTable puts the list in columns: a line for each node, and below it the addresses where it has several, and what the last check
// found where it takes no requests for that.
func nodeTable(list []nodeRow, now time.Time) string {
	width := len("NODE")
	for i := range list {
		if n := utf8.RuneCountInString(list[i].Node); n <= nodeWidth {
			width = max(width, n)
		}
		for _, a := range list[i].several() {
			width = max(width, min(2+len(a.Address), nodeWidth))
		}
	}
	var b strings.Builder
	line := func(node string, r *nodeRow, weight, state string) {
		if utf8.RuneCountInString(node) > width {
			b.WriteString(node + "\n")
			node = ""
		}
		requests, since := "-", "-"
		if r.Requests != nil {
			requests = strconv.FormatUint(*r.Requests, 10)
		}
		if !r.Since.IsZero() {
			since = age(now.Sub(r.Since))
		}
		fmt.Fprintf(&b, "%-*s  %-11s  %5s  %6s  %10s  %5s\n", width, node, r.Health, state, weight, requests, since)
	}
	fmt.Fprintf(&b, "%-*s  %-11s  %5s  %6s  %10s  %5s\n", width, "NODE", "HEALTH", "STATE", "WEIGHT", "REQUESTS", "SINCE")
	found := func(indent string, r *nodeRow) {
		if (r.Health == "offline" || r.Health == "pending") && r.LastCheck != "" {
			b.WriteString(indent + cut(r.LastCheck, foundWidth-len(indent)) + "\n")
		}
	}
	for i := range list {
		r := &list[i]
		line(r.Node, r, strconv.Itoa(r.Weight), r.State)
		several := r.several()
		if len(several) == 0 {
			found("  ", r)
		}
		for j := range several {
			line("  "+several[j].Address, &several[j], "", "")
			found("    ", &several[j])
		}
	}
	return b.String()
}

// several gives the addresses of a node that may have more than one.
func (r *nodeRow) several() []nodeRow {
	if !strings.HasPrefix(r.Node, "*") {
		return nil
	}
	return r.Addresses
}

// age is a time in its largest unit.
func age(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = max(d, 0); {
	case d < time.Minute:
		return strconv.Itoa(int(d/time.Second)) + "s"
	case d < time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	case d < day:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	}
	return strconv.Itoa(int(d/day)) + "d"
}

// cut shortens a text to n runes.
func cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
