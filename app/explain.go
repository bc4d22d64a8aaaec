package app

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/model"
)

// explained is what explain knows of one container.
type explained struct {
	model.Found
	Health    string `json:"health,omitempty"`
	LastCheck string `json:"last_check,omitempty"`
}

// explain says what becomes of a URL, or what became of containers: of one in full, of all in a table.
func explain(c *call) error {
	switch {
	case len(c.args) == 1 && c.container == "":
		return explainURL(c, c.args[0])
	case len(c.args) > 0:
		return &config.UsageError{Reason: fmt.Sprintf("wrong use of fnlb explain: %.60q", strings.Join(c.args, " ")), Hint: "fnlb explain URL, or fnlb explain --container NAME"}
	}
	status, data, err := c.ask(http.MethodGet, "/1/lb/status", nil)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return answered(status, data)
	}
	var st model.Status
	if err := json.Unmarshal(data, &st); err != nil {
		return fmt.Errorf("read the balancer's answer: %w", err)
	}
	list := explanations(&st)
	if c.container != "" {
		list = slices.DeleteFunc(list, func(e explained) bool {
			return e.Owner.Name != c.container && (len(c.container) < 4 || e.ID == "" || !strings.HasPrefix(c.container, e.ID) && !strings.HasPrefix(e.ID, c.container))
		})
		if len(list) == 0 {
			return fmt.Errorf("there is no container %.60q with a label that begins with lb. (%s)", c.container, sourceSays(&st))
		}
	}
	if c.json {
		return json.NewEncoder(c.Stdout).Encode(map[string]any{"containers": list})
	}
	if c.container == "" {
		return explainAll(c.Stdout, list, sourceSays(&st))
	}
	for i := range list {
		explainOne(c, &list[i])
	}
	return nil
}

// explanations joins containers with what was found about their servers.
func explanations(st *model.Status) []explained {
	servers := make(map[string]*model.ServerStatus, len(st.Servers))
	for i := range st.Servers {
		s := &st.Servers[i]
		servers[s.Service+"/"+s.Name] = s
	}
	out := []explained{}
	for _, f := range st.Found {
		e := explained{Found: f}
		if s := servers[f.Server]; s != nil && f.Verdict == model.Offered && s.Owner == f.Owner {
			e.Health, e.LastCheck = s.Health.String(), s.LastCheck
		}
		out = append(out, e)
	}
	return out
}

// sourceSays tells whether the engine can be asked, and since a container that is missing is often due to that, why not.
func sourceSays(st *model.Status) string {
	i := slices.IndexFunc(st.Sources, func(s model.SourceStatus) bool { return s.Name == "docker" })
	switch {
	case i < 0:
		return "no Docker engine is followed, see --docker"
	case !st.Sources[i].Up:
		return "the engine is away: " + st.Sources[i].Reason
	}
	return "the engine answers"
}

func (e *explained) state() string {
	if e.Verdict == model.Offered {
		return e.Health
	}
	return strings.ReplaceAll(e.Verdict.String(), "-", " ")
}

func (e *explained) why() string {
	why := e.Reason
	if why == "" && e.Verdict == model.Offered && e.Health != model.Up.String() {
		why = e.LastCheck
	}
	if e.Mend != "" {
		why += ": " + e.Mend
	}
	return why
}

// explainAll prints a table; reasons stand in lines of their own below it, so that it fits 80 columns.
func explainAll(w io.Writer, list []explained, source string) error {
	if len(list) == 0 {
		_, err := fmt.Fprintf(w, "no container has a label that begins with lb. (%s)\n", source)
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CONTAINER\tPORT\tADDRESS\tSTATE")
	for i := range list {
		e := &list[i]
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", e.Owner.Name, strings.TrimPrefix(e.Listen, ":"), e.Address, e.state())
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for i := range list {
		e := &list[i]
		for _, text := range slices.Concat([]string{e.why()}, e.Notes) {
			if text == "" {
				continue
			}
			if _, err := fmt.Fprintf(w, "\n%s: %s\n", e.Owner.Name, text); err != nil {
				return err
			}
		}
	}
	return nil
}

func explainOne(c *call, e *explained) {
	line := func(head, text string) {
		if text != "" {
			c.say(c.Stdout, "%-10s %s\n", head, text)
		}
	}
	line("container", e.Owner.Name+" ("+e.ID+")")
	line("state", e.state())
	line("listens", e.Listen)
	if e.Server != "" {
		line("server", e.Server+" at "+e.Address)
	}
	line("last check", e.LastCheck)
	line("because", e.Reason)
	line("mend", e.Mend)
	for _, n := range e.Notes {
		line("note", n)
	}
}
