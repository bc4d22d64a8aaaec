package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/haproxy/conf"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor/plan"
)

// difference is what fnlb diff tells, and its JSON.
type difference struct {
	File      string   `json:"file"`      // the configuration in force
	Different bool     `json:"different"` // from what these flags give
	Method    string   `json:"method"`    // how that would be applied: none, runtime, reload or start
	Reasons   []string `json:"reasons"`
	Diff      string   `json:"diff"` // unified, without passwords
}

// trouble ends a command with exit code 2, as diff(1) does when it cannot compare: 1 says that there is a difference.
type trouble struct{ error }

func (t trouble) Unwrap() error { return t.error }

// diffText compares the configuration in force with what these flags give. The exit code is that of diff(1).
func diffText(c *call) error {
	d, err := c.difference()
	if err != nil {
		return trouble{err}
	}
	if c.json {
		err = json.NewEncoder(c.Stdout).Encode(d)
	} else {
		_, err = fmt.Fprint(c.Stdout, d.Diff, d.summary())
	}
	if err != nil {
		return trouble{err}
	}
	if d.Different {
		return errSilent
	}
	return nil
}

func (d difference) summary() string {
	switch d.Method {
	case "none":
		return "nothing would change in " + d.File + "\n"
	case "start":
		return "there is no " + d.File + " yet; this would be the first start\n"
	}
	how := "this would be a reload: "
	if d.Method == "runtime" {
		how = "this would be changed at run time, without a reload: "
	}
	return how + strings.Join(d.Reasons, "; ") + "\n"
}

func (c *call) difference() (difference, error) {
	d := difference{File: c.settings.HAProxyConfig, Method: "none", Reasons: []string{}}
	servers := c.serversToCompare() // the files follow what runs, and are there when it answers
	inForce, err := os.ReadFile(d.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d, fmt.Errorf("read the configuration in force: %w; see --haproxy-config", err)
	}
	fresh := err != nil
	next, err := c.bundleOf(c.abilities(), servers)
	if err != nil {
		return d, err
	}
	c.sayNotes(next)
	switch {
	case fresh:
		d.Method = "start"
	case bytes.Equal(inForce, next.Main):
		return d, nil
	default:
		was, err := plan.Read(conf.Bundle{Main: inForce, Files: filesOf(&c.settings).Named(inForce, next.Files)})
		if err != nil {
			return d, fmt.Errorf("read %s: %w", d.File, err)
		}
		now, err := plan.Read(next)
		if err != nil {
			return d, err
		}
		p := plan.Make(was, now, nil)
		d.Method = "reload"
		if len(p.Reload) == 0 {
			d.Method = "runtime"
		}
		d.Reasons = append(d.Reasons, p.Reasons()...)
	}
	d.Different = true
	_, unified, _ := bytes.Cut(diff.Diff(d.File, conf.Mask(inForce), "what these flags give", conf.Mask(next.Main)), []byte{'\n'}) // less the command
	if d.Diff = string(unified); d.Diff == "" {
		d.Diff = "only passwords differ, which are not shown\n"
	}
	return d, nil
}

// filesWait is how long the files may lag behind what a balancer has changed at run time.
const filesWait = 3 * time.Second

// serversToCompare are those of the balancer that runs in this run directory, so that the difference is about flags and template,
// else those of --nodes.
func (c *call) serversToCompare() []model.Server {
	var st model.Status
	var err error
	for end := time.Now().Add(filesWait); ; time.Sleep(filesWait / 50) {
		st = model.Status{}
		status, data, errAsk := c.ask(http.MethodGet, "/1/lb/status", nil)
		if err = errAsk; err == nil && status != http.StatusOK {
			err = answered(status, data)
		}
		if err == nil {
			err = json.Unmarshal(data, &st)
		}
		if err != nil || !st.HAProxy.Behind || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		c.say(c.Stderr, "fnlb: compared with the nodes of --nodes: %v\n", err)
		return c.serversOfFlags()
	}
	var servers []model.Server
	for _, s := range st.Servers {
		at, err := netip.ParseAddrPort(s.Address)
		if err != nil || s.Health == model.Pending || s.Admin == model.Maint || s.Service != config.PoolService {
			continue // not in the text either
		}
		srv := model.Server{Service: s.Service, Name: s.Name, Weight: s.Weight, Admin: s.Admin}
		if n, err := model.ParseNode(s.Owner.Name); err == nil { // else it is no node's
			srv.Host = n.Host
		}
		servers = append(servers, srv.At(at))
	}
	return servers
}
