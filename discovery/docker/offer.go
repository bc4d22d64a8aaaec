package docker

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fnlb/fnlb/model"
)

// name of the source, in Status and in owners.
const name = "docker"

// What users of docker-loadbalancer rely on.
const (
	stickySize   = 200 << 10
	stickyExpire = 520 * time.Minute
	maxConn      = 3000
)

// facts are what is known of one container, parsed to types.
type facts struct {
	id, name    string
	created     time.Time
	started     string // when it was started last, as the engine writes it; with the id it tells one run from the next
	labels      map[string]string
	state       string // running, paused, exited, …
	health      string // of its HEALTHCHECK: starting, healthy, unhealthy; empty: it has none
	hostNetwork bool
	shares      string // id of the container whose network it has; empty: it has its own
	networks    []endpoint
	exposed     []uint16 // TCP, ascending
	stopSignal  string
}

// runs reports whether it has its address.
func (f *facts) runs() bool { return f.state == "running" || f.state == "paused" }

// candidate is a container that takes part.
type candidate struct {
	*facts
	wish

	bind   model.Bind
	server model.Server
	named  string         // the certificate, as routes name it
	stale  *model.Problem // why the certificate's newest content is not used
	found  *model.Found
}

// Certificates gives names to the PEM files that labels name.
type Certificates interface {
	// Use gives the name for a Route, empty where the file cannot be used, and what is wrong with the file.
	Use(file string) (name string, problem *model.Problem)
	// Changed reports whether Use may say otherwise now than it did last, of any file.
	Changed() bool
}

// judge says what becomes of one container. The candidate is nil for one that does not take part; found is nil for one without
// labels of ours.
func (s *Source) judge(c *tracked) (take *candidate, found *model.Found) {
	f := &c.facts
	if c.trouble != "" && f.started == "" {
		return nil, &model.Found{
			Owner: model.Owner{Source: name, Name: f.name}, ID: f.id[:min(12, len(f.id))], Verdict: model.Waiting, Reason: c.trouble,
			Mend: "see whether docker inspect " + f.name + " answers",
		}
	}
	if !asks(f.labels) {
		return nil, nil
	}
	found = &model.Found{Owner: model.Owner{Source: name, Name: f.name}, ID: f.id[:min(12, len(f.id))], Verdict: model.LeftOut}
	w, notes, problem := read(f.labels)
	found.Notes = notes
	switch {
	case problem != nil:
	case !w.enabled:
		found.Verdict, found.Reason = model.Ignored, "it has no label lb.enable=Y"
		if _, there := f.labels["lb.enable"]; there {
			found.Reason = "its label lb.enable says no"
		}
		return nil, found
	case f.id == s.at.id:
		problem = &model.Problem{Reason: "it is the balancer itself", Mend: "take its labels off"}
	case !s.o.Publish(w.publish):
		problem = &model.Problem{Reason: fmt.Sprintf("port %d may not be published", w.publish), Mend: "choose another lb.publish, or allow it with --publish-allow"}
	}
	if problem == nil {
		if why := waits(c); why != "" {
			found.Verdict, found.Reason = model.Waiting, why
			return nil, found
		}
		take, problem = s.candidate(f, &w, found)
	}
	if problem != nil {
		found.Reason, found.Mend = problem.Reason, problem.Mend
		if problem.Kind == model.Unavailable {
			found.Verdict = model.Waiting
		}
		return nil, found
	}
	found.Verdict = model.Offered
	return take, found
}

// waits says what a container has to wait for before it may take requests; empty: nothing.
func waits(c *tracked) string {
	switch {
	case !c.runs():
		return "it is " + c.state
	case c.leaving != "":
		return "it was told to stop (" + c.leaving + ")"
	case c.health == "starting":
		return "its HEALTHCHECK has not passed yet"
	case c.health == "unhealthy":
		return "its HEALTHCHECK fails"
	}
	return ""
}

// candidate makes the rows of a container that wants to take part and can.
func (s *Source) candidate(f *facts, w *wish, found *model.Found) (*candidate, *model.Problem) {
	of := f
	if f.shares != "" {
		other, ok := s.containers[f.shares]
		if !ok {
			return nil, &model.Problem{Kind: model.Unavailable, Reason: "the container whose network it shares is not known", Mend: "start that one"}
		}
		if !other.runs() { // its address may be another's by now
			return nil, &model.Problem{Kind: model.Unavailable, Reason: "container " + other.name + ", whose network it shares, does not run", Mend: "start that one, and then this one again"}
		}
		of = &other.facts
	}
	target, problem := targetPort(f, w)
	if problem != nil {
		return nil, problem
	}
	ip, note, problem := choose(of, w.network, s.at, s.networks)
	if problem != nil {
		return nil, problem
	}
	if note != "" {
		found.Notes = append(found.Notes, note)
	}
	c := &candidate{facts: f, wish: *w, bind: model.Bind{IP: w.address, Port: w.publish}, found: found}
	if w.cert != "" {
		name, problem := s.o.Certificates.Use(w.cert)
		if name == "" {
			return nil, problem
		}
		c.named, c.stale = name, problem
	}
	if !model.ValidName(f.name) {
		return nil, &model.Problem{Kind: model.Invalid, Reason: "its name cannot be a server's", Mend: "docker rename it to letters, digits and _ . -"}
	}
	admin := model.Ready
	if f.state == "paused" {
		admin = model.Maint
		found.Notes = append(found.Notes, "it is paused")
	}
	service := serviceName(c.bind)
	c.server = model.Server{
		Service: service, Name: f.name, IP: ip, Port: target, Weight: w.weight, Admin: admin,
		Instance: f.id[:min(12, len(f.id))] + " " + f.started, DrainFor: w.drain,
	}
	found.Listen, found.Server, found.Address = c.bind.String(), service+"/"+f.name, netip.AddrPortFrom(ip, target).String()
	return c, nil
}

// listenerName is the frontend's name in docker-loadbalancer.
func listenerName(b model.Bind) string {
	ip := ""
	if b.IP.IsValid() {
		ip = b.IP.String()
	}
	return fmt.Sprintf("port_%s_%d", ip, b.Port)
}

func serviceName(b model.Bind) string { return listenerName(b) + "_backends" }

// offers makes the offers of those that take part, sorted by owner. What one port can have but once, the check, is the oldest
// container's.
func (s *Source) offers(all []*candidate) []model.Offer {
	slices.SortFunc(all, func(a, b *candidate) int {
		return cmp.Or(a.created.Compare(b.created), strings.Compare(a.name, b.name))
	})
	first := map[model.Bind]*candidate{}
	out := make([]model.Offer, 0, len(all))
	for _, c := range all {
		oldest := first[c.bind]
		if oldest == nil {
			oldest = c
			first[c.bind] = c
		}
		if c.check != oldest.check || c.path != oldest.path {
			c.found.Notes = append(c.found.Notes, fmt.Sprintf("port %d is checked as %s asks, which is older: lb.check=%s is not used", c.publish, oldest.name, c.checkText()))
		}
		out = append(out, model.Offer{
			Owner: model.Owner{Source: name, Name: c.name}, Since: c.created,
			Rows: s.rows(c, oldest),
		})
	}
	out = append(out, s.keepPorts(first, out)...)
	slices.SortFunc(out, func(a, b model.Offer) int { return strings.Compare(a.Owner.Name, b.Owner.Name) })
	return out
}

func (c *candidate) checkText() string {
	if c.check == model.CheckHTTP {
		return c.path
	}
	return c.check.String()
}

// rows are what one container asks for: a port, and itself behind it.
func (s *Source) rows(c, oldest *candidate) model.Rows {
	check := s.o.Check
	check.Kind, check.Asks = oldest.check, nil
	if check.Kind == model.CheckHTTP {
		check.Asks = []model.Ask{{Path: oldest.path}}
	}
	if check.Kind == model.CheckOff {
		check = model.Check{Kind: model.CheckOff}
	}
	return model.Rows{
		Listeners: []model.Listener{{
			Bind: c.bind, Name: listenerName(c.bind), TLS: c.named != "", MaxConn: maxConn, ClientTimeout: time.Minute, TrustedProxies: s.o.TrustedProxies,
		}},
		Routes: []model.Route{{Bind: c.bind, Service: serviceName(c.bind), Cert: c.named}},
		Services: []model.Service{{
			Name: serviceName(c.bind), Check: check, Compress: true, OriginalTo: true,
			Sticky:   model.Sticky{Size: stickySize, Expire: stickyExpire},
			Timeouts: model.Timeouts{Connect: 10 * time.Second, Server: time.Minute, Queue: time.Minute},
		}},
		Servers: []model.Server{c.server},
	}
}

// portStays is how long a port stays whose last container has gone: its clients are told 503 until a new one comes, rather than
// that nobody is there, and that one needs no reload.
const portStays = 10 * time.Minute

// kept is a port that somebody published.
type kept struct {
	rows  model.Rows // without servers
	since time.Time
	used  bool      // a container is behind it
	last  time.Time // when that was found last
}

// ended reports whether nobody has published the port for long.
func (k *kept) ended(now time.Time) bool { return !k.used && now.Sub(k.last) > portStays }

// portEnds reports whether a port is to be given up.
func (s *Source) portEnds() bool {
	now := s.o.Now()
	for _, k := range s.ports {
		if k.ended(now) {
			return true
		}
	}
	return false
}

// recallPorts goes on keeping the ports that an earlier process had.
func (s *Source) recallPorts() {
	if s.o.Earlier == nil {
		return
	}
	now := s.o.Now()
	for i := range s.o.Earlier.Offers {
		o := &s.o.Earlier.Offers[i]
		if len(o.Listeners) != 1 || !s.o.Publish(o.Listeners[0].Bind.Port) {
			continue
		}
		bind := o.Listeners[0].Bind
		if k := s.ports[bind]; k == nil || o.Since.Before(k.since) {
			rows := o.Rows
			rows.Servers = nil
			s.ports[bind] = &kept{rows: rows, since: o.Since, last: now}
		}
	}
}

// keepPorts notes the ports that are published, and offers those that lately were.
func (s *Source) keepPorts(first map[model.Bind]*candidate, offers []model.Offer) []model.Offer {
	now := s.o.Now()
	for i := range offers {
		bind := offers[i].Listeners[0].Bind
		if oldest := first[bind]; oldest.name == offers[i].Owner.Name {
			rows := offers[i].Rows
			rows.Servers = nil
			s.ports[bind] = &kept{rows: rows, since: offers[i].Since, used: true, last: now}
		}
	}
	var out []model.Offer
	for bind, k := range s.ports {
		if first[bind] != nil {
			continue
		}
		if k.used { // until now
			k.used, k.last = false, now
		}
		switch {
		case k.ended(now):
			delete(s.ports, bind)
		default: // what stays by itself yields to what somebody asks for
			out = append(out, model.Offer{Owner: model.Owner{Source: name, Name: "port " + bind.String()}, Since: k.since, Yields: true, Rows: k.rows})
		}
	}
	return out
}
