package docker

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fnlb/fnlb/model"
)

// mostLines is how many servers are told one by one; who starts more at once counts them elsewhere.
const mostLines = 50

// say tells what has changed in the words that docker-loadbalancer's users look for.
func (s *Source) say(next model.Snapshot) {
	before := map[model.Owner]model.Rows{}
	for i := range s.put.Offers {
		before[s.put.Offers[i].Owner] = s.put.Offers[i].Rows
	}
	var lines []string
	ports := map[model.Bind]bool{}
	now := map[model.Owner]bool{}
	for i := range next.Offers {
		o := &next.Offers[i]
		now[o.Owner] = true
		if len(o.Servers) == 0 {
			continue
		}
		srv := &o.Servers[0]
		if old, ok := before[o.Owner]; ok && len(old.Servers) == 1 && old.Servers[0] == *srv && slices.Equal(old.Routes, o.Routes) {
			continue
		}
		if bind := o.Listeners[0].Bind; !ports[bind] {
			ports[bind] = true
			lines = append(lines, fmt.Sprintf("Publish port %s %s", strings.TrimPrefix(bind.String(), ":"), s.speaks(o)))
		}
		lines = append(lines, fmt.Sprintf("Backend %s at %s port %d", srv.Name, srv.IP, srv.Port))
	}
	for i := range s.put.Offers {
		o := &s.put.Offers[i]
		if !now[o.Owner] && len(o.Servers) == 1 {
			lines = append(lines, fmt.Sprintf("Backend %s left", o.Servers[0].Name))
		}
	}
	if len(lines) > 0 {
		s.o.Log.Info("Backends changed", "containers", len(next.Found))
		for _, l := range lines[:min(len(lines), mostLines)] {
			s.o.Log.Info(l)
		}
		if more := len(lines) - mostLines; more > 0 {
			s.o.Log.Info("Backends: more changed", "lines_left_out", more)
		}
	}
	s.saySkipped(next)
}

// speaks is HTTP, or SSL with the file that the label names.
func (s *Source) speaks(o *model.Offer) string {
	if o.Routes[0].Cert == "" {
		return "HTTP"
	}
	for _, c := range s.containers {
		if c.name == o.Owner.Name {
			return "SSL " + c.labels["lb.ssl"]
		}
	}
	return "SSL"
}

// saySkipped tells once why a container takes no part, and what of its labels means nothing.
func (s *Source) saySkipped(next model.Snapshot) {
	still := map[string]bool{}
	for i := range next.Found {
		f := &next.Found[i]
		text := strings.Join(f.Notes, "; ")
		if f.Verdict == model.LeftOut {
			text = f.Reason + " " + text
		}
		if text == "" {
			continue
		}
		still[f.Owner.Name] = true
		if s.skipped[f.Owner.Name] == text {
			continue
		}
		s.skipped[f.Owner.Name] = text
		var attrs []any
		if len(f.Notes) > 0 {
			attrs = append(attrs, "notes", strings.Join(f.Notes, "; "))
		}
		if f.Verdict == model.LeftOut {
			s.o.Log.Warn("Container "+f.Owner.Name+" skipped", append([]any{"reason", f.Reason, "mend", f.Mend}, attrs...)...)
		} else {
			s.o.Log.Warn("Container "+f.Owner.Name, attrs...)
		}
	}
	for owner := range s.skipped {
		if !still[owner] {
			delete(s.skipped, owner)
		}
	}
}
