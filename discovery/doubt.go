package discovery

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/fnlb/fnlb/model"
)

// A source that suddenly lists less than half of a service's servers may have lost sight of its world rather than the world its servers: an
// engine that has just started, an API that answers with an empty list. What it does not list any more stays for doubtTime, unless a
// second listing agrees before. Small services are not doubted, and neither is what somebody asked for.
const (
	doubtTime  = 10 * time.Second
	doubtApart = time.Second // a second listing that comes sooner is the same look at the same world
	doubtMost  = time.Minute // in all, when each listing is another one
	doubtLeast = 4           // servers of a service
)

// doubt is a listing that is not believed yet.
type doubt struct {
	services []loss
	first    time.Time // when the first such listing came
	since    time.Time // when this one came
	puts     int       // of the slot, when it was last looked at
}

// loss is one service that a listing takes more than half of.
type loss struct {
	service    string
	lists, had int
	names      string // of the servers that are listed, to compare listings
}

// losses finds the services of which the newest listing has less than half of at least doubtLeast servers, by name. Servers that went
// because somebody asked for it were not lost. The usual case, that nothing is, costs one count.
func losses(trusted, newest model.Snapshot) []loss {
	had, lists := tally(trusted), tally(newest)
	less := func(service string) bool { return had[service] >= doubtLeast && 2*lists[service] < had[service] }
	any := false
	for service := range had {
		any = any || less(service)
	}
	if !any {
		return nil
	}
	listed := map[string][]string{}
	is := map[model.ServerKey]bool{}
	for i := range newest.Offers {
		for _, s := range newest.Offers[i].Servers {
			is[s.Key()] = true
			listed[s.Service] = append(listed[s.Service], s.Name)
		}
	}
	asked := askedFor(newest)
	for i := range trusted.Offers {
		o := &trusted.Offers[i]
		for _, s := range o.Servers {
			if asked[o.Owner] && !is[s.Key()] {
				had[s.Service]--
			}
		}
	}
	var out []loss
	for service := range had {
		if less(service) {
			names := listed[service]
			slices.Sort(names)
			out = append(out, loss{service, lists[service], had[service], strings.Join(names, " ")})
		}
	}
	slices.SortFunc(out, func(a, b loss) int { return strings.Compare(a.service, b.service) })
	return out
}

// agree reports whether two listings have the same of a service. How many there were does not count: that grows with what is new.
func agree(a, b loss) bool { return a.service == b.service && a.names == b.names }

// tally counts the servers of each service.
func tally(s model.Snapshot) map[string]int {
	n := map[string]int{}
	for i := range s.Offers {
		for j := range s.Offers[i].Servers {
			n[s.Offers[i].Servers[j].Service]++
		}
	}
	return n
}

func askedFor(s model.Snapshot) map[model.Owner]bool {
	asked := make(map[model.Owner]bool, len(s.Asked))
	for _, a := range s.Asked {
		asked[a.Owner] = true
	}
	return asked
}

// keeping is the newest listing with what it does not list of the doubted services: offers of owners that are gone, and those of
// owners that list fewer servers.
func keeping(trusted, newest model.Snapshot, doubted []loss) model.Snapshot {
	service := map[string]bool{}
	for _, l := range doubted {
		service[l.service] = true
	}
	at := make(map[model.Owner]int, len(newest.Offers))
	for i := range newest.Offers {
		at[newest.Offers[i].Owner] = i
	}
	asked := askedFor(newest)
	out := newest
	out.Offers = slices.Clone(newest.Offers)
	for i := range trusted.Offers {
		o := &trusted.Offers[i]
		j, there := at[o.Owner]
		if asked[o.Owner] || !slices.ContainsFunc(o.Servers, func(s model.Server) bool {
			return service[s.Service] && !(there && slices.ContainsFunc(newest.Offers[j].Servers, func(n model.Server) bool { return n.Key() == s.Key() }))
		}) {
			continue
		}
		if there {
			out.Offers[j] = *o
		} else {
			out.Offers = append(out.Offers, *o)
		}
	}
	return out
}

// believe gives what is to be merged of a slot, and what is to be told, when a doubt begins or ends. It is called for each merge, by
// Run's goroutine, with the Collector's lock held.
func (s *slot) believe(now time.Time) (snapshot model.Snapshot, tell func(*slog.Logger)) {
	d := s.doubt
	switch {
	case !s.merges: // the first is the truth: there is nothing that it could have lost
		s.merges = s.heard
		return s.newest, nil
	case d == nil && !s.unmerged:
		return s.merged, nil
	}
	found := losses(s.merged, s.newest)
	name := s.source.Name()
	over := func(why string) (model.Snapshot, func(*slog.Logger)) {
		s.doubt = nil
		return s.newest, func(log *slog.Logger) {
			log.Info("what the source lists is believed again", "source", name, "reason", why)
		}
	}
	switch {
	case len(found) == 0 && d == nil:
		return s.newest, nil
	case len(found) == 0:
		return over("it lists them, or most of them, again")
	case d != nil && now.Sub(d.first) >= doubtMost:
		return over("its listings have been as short for " + doubtMost.String())
	case d == nil || !slices.EqualFunc(d.services, found, agree):
		if d = (&doubt{services: found, first: now, since: now, puts: s.puts}); s.doubt != nil {
			d.first = s.doubt.first
		}
		s.doubt = d
		return keeping(s.merged, s.newest, found), func(log *slog.Logger) {
			for _, p := range d.problems(name) {
				log.Warn("a source lists much less, which is not believed yet", "source", name, "service", p.Owner.Name, "reason", p.Reason)
			}
		}
	case s.puts != d.puts && now.Sub(d.since) >= doubtApart:
		return over("a second listing agrees")
	case now.Sub(d.since) >= doubtTime:
		return over("nothing has contradicted it for " + doubtTime.String())
	}
	d.puts = s.puts
	return keeping(s.merged, s.newest, found), nil
}

// doubtEnds is when the first doubt is over, whatever comes or not; zero: nothing is doubted. c.mu is held.
func (c *Collector) doubtEnds() (at time.Time) {
	for i := range c.slots {
		if d := c.slots[i].doubt; d != nil {
			end := d.since.Add(doubtTime)
			if most := d.first.Add(doubtMost); most.Before(end) {
				end = most
			}
			if at.IsZero() || end.Before(at) {
				at = end
			}
		}
	}
	return at
}

// problems of the doubt, one for each service.
func (d *doubt) problems(source string) []model.Problem {
	var out []model.Problem
	for _, l := range d.services {
		out = append(out, model.Problem{
			Kind: model.Unavailable, Owner: model.Owner{Source: source, Name: l.service},
			Reason: fmt.Sprintf("%s lists %d of %d servers of %s: waiting %s for a second listing", source, l.lists, l.had, l.service, doubtTime),
			Mend:   "look whether the source sees its world; the servers stay until then",
		})
	}
	return out
}
