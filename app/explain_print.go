package app

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"text/tabwriter"

	"github.com/fnlb/fnlb/config"
	"github.com/fnlb/fnlb/model"
)

// explainURL asks the running balancer what becomes of a URL. It ends with 1 when nothing would serve it.
func explainURL(c *call, text string) error {
	if _, err := parseTarget(text); err != nil {
		return &config.UsageError{Reason: err.Error(), Hint: "fnlb explain http://HOST[:PORT]/PATH"}
	}
	status, data, err := c.ask(http.MethodGet, "/1/lb/explain?url="+url.QueryEscape(text), nil)
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
	var e model.Explanation
	if err := json.Unmarshal(data, &e); err != nil {
		return fmt.Errorf("read the balancer's answer: %w", err)
	}
	if err := printExplanation(c, &e); err != nil {
		return err
	}
	if !slices.Contains([]model.Fate{model.Served, model.Redirected, model.Own, model.Page}, e.Fate) {
		return errSilent
	}
	return nil
}

// printExplanation prints it for a person.
func printExplanation(c *call, e *model.Explanation) error {
	line := func(head, text string) {
		if text != "" {
			c.say(c.Stdout, "%-10s %s\n", head, text)
		}
	}
	line("URL", e.URL)
	line("fate", string(e.Fate)+": "+e.Why)
	line("mend", e.Mend)
	line("listener", e.Listener)
	route := e.Route
	if e.Owner != nil {
		route += "   by " + e.Owner.String()
	}
	line("route", route)
	line("leads to", e.Location)
	line("service", e.Service)
	line("path", e.Path)
	line("server", e.Chosen)
	if len(e.Servers) > 0 {
		c.say(c.Stdout, "\n")
		table := tabwriter.NewWriter(c.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "SERVER\tADDRESS\tHEALTH\tTAKES\tWHY")
		for _, s := range e.Servers {
			takes := "no"
			if s.Takes {
				takes = "yes"
			}
			if s.Why != "" {
				takes += "\t" + s.Why
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", s.Name, s.Address, s.Health, takes)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	for i, o := range e.Others {
		if i == 0 {
			c.say(c.Stdout, "\n")
		}
		line("not", fmt.Sprintf("%s to %s: %s", o.Route, o.Service, o.Why))
	}
	for i, n := range e.Notes {
		if i == 0 {
			c.say(c.Stdout, "\n")
		}
		line("note", n)
	}
	return nil
}
