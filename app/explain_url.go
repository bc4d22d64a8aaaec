package app

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/fnlb/fnlb/api/rest"
	"github.com/fnlb/fnlb/discovery"
	"github.com/fnlb/fnlb/model"
	"github.com/fnlb/fnlb/supervisor"
)

// The bounds of what is explained.
const (
	maxURL    = 8 << 10
	maxOthers = 10
)

// target is a URL as HAProxy would see its request.
type target struct {
	tls   bool
	name  string     // as it was written, without brackets and port
	ip    netip.Addr // of name, where it is an address
	port  uint16
	host  string // as routes compare it
	path  string // as it is sent
	query string
}

// Explain says what becomes of a GET of the URL by what is in force. It asks nothing of the ring: which of several servers takes a request is
// HAProxy's to say.
func (r *report) Explain(text string) (model.Explanation, error) {
	t, err := parseTarget(text)
	if err != nil {
		return model.Explanation{}, model.Problem{Kind: model.Invalid, Reason: err.Error()}
	}
	sup, col := r.b.supervisor.Status(), r.b.collector.Status()
	e := explainTarget(t, sup, col)
	if r.b.s.Template != "" {
		e.Notes = append(e.Notes, "the template "+r.b.s.Template+" decides; this is what the built-in one does")
	}
	if e.Fate == model.Unheard && r.b.s.Management.Port == t.port && r.b.s.Management.Port != r.b.s.Listen.Port {
		e.Fate, e.Why, e.Mend = model.Own, "this is the port of fnlb's own management", ""
	}
	return e, nil
}

// parseTarget reads a URL of HTTP. What no client can send is refused with what to write.
func parseTarget(text string) (target, error) {
	switch {
	case len(text) > maxURL:
		return target{}, fmt.Errorf("the URL has %d bytes, at most %d are read", len(text), maxURL)
	case text == "":
		return target{}, fmt.Errorf("the URL is empty; write http://HOST[:PORT]/PATH")
	}
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c > '~' {
			return target{}, fmt.Errorf("%+q is no character of a URL; write it as %%%02X", string(text[i]), c)
		}
	}
	if i := strings.Index(text, "://"); i < 0 || strings.ContainsAny(text[:i], "/?#") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return target{}, fmt.Errorf("the URL cannot be read: %w", errorOf(err))
	case u.Scheme != "http" && u.Scheme != "https":
		return target{}, fmt.Errorf("the scheme %.20q is not served; write http:// or https://", u.Scheme)
	case model.HostOf(u.Host) == "":
		return target{}, fmt.Errorf("the URL has no host; write http://HOST[:PORT]/PATH")
	case u.User != nil:
		return target{}, fmt.Errorf("leave the user out: no route looks at it")
	}
	t := target{tls: u.Scheme == "https", name: u.Hostname(), port: 80, host: model.HostOf(u.Host), query: u.RawQuery}
	if _, err := model.ParsePattern(t.host + "/"); err != nil { // such as an escape, which url.Parse has decoded
		return target{}, fmt.Errorf("its host %+.60q is none", t.host)
	}
	if t.tls {
		t.port = 443
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return target{}, fmt.Errorf("there is no port %.20q", p)
		}
		t.port = uint16(n)
	}
	if ip, err := netip.ParseAddr(t.name); err == nil {
		t.ip = ip.Unmap().WithZone("")
	}
	// As it is sent, and not as url.URL would write it again.
	_, rest, _ := strings.Cut(text, "://")
	rest, _, _ = strings.Cut(rest, "#")
	rest, _, _ = strings.Cut(rest, "?")
	t.path = "/"
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		t.path = rest[i:]
	}
	return t, nil
}

// errorOf leaves the URL out of an error of url.Parse.
func errorOf(err error) error {
	if e, ok := err.(*url.Error); ok { //nolint:errorlint // it is what url.Parse gives
		return e.Err
	}
	return err
}

func (t target) String() string {
	scheme := "http"
	if t.tls {
		scheme = "https"
	}
	host := t.host
	if t.ip.Is6() {
		host = "[" + t.ip.String() + "]"
	}
	out := scheme + "://" + host + ":" + strconv.Itoa(int(t.port)) + t.path
	if t.query != "" {
		out += "?" + t.query
	}
	return out
}

// explaining is an Explanation in the making.
type explaining struct {
	model.Explanation
	t   target
	sup *supervisor.Status
	col discovery.Status
}

// explainTarget is the whole of it, for what is in force and what is wanted.
func explainTarget(t target, sup *supervisor.Status, col discovery.Status) model.Explanation {
	e := explaining{model.Explanation{URL: t.String()}, t, sup, col}
	if sup.Phase != model.Serving {
		e.note("HAProxy is not serving now: %s", sup.Phase)
	}
	if sup.Frozen != nil {
		e.note("all changes are stopped, see fnlb thaw")
	}
	l, ok := e.listener()
	if !ok {
		return e.Explanation
	}
	switch {
	case l.Statistics:
		e.Fate, e.Why = model.Page, "the port is that of HAProxy's statistics page"
	case l.Management && slices.Contains(rest.Paths(), t.path):
		e.Fate, e.Why = model.Own, "the path is one of fnlb's own, which this port hands to it"
	default:
		e.route(l)
	}
	return e.Explanation
}

func (e *explaining) note(format string, args ...any) {
	e.Notes = append(e.Notes, fmt.Sprintf(format, args...))
}

// hears reports whether a connection to the target could arrive at a listener. To which address a name leads is not known here.
func (t target) hears(b model.Bind) bool {
	return b.Port == t.port && (!t.ip.IsValid() || b.Overlaps(model.Bind{IP: t.ip, Port: t.port}))
}

// listener finds the listener, or says why there is none.
func (e *explaining) listener() (model.Listener, bool) {
	var found []model.Listener
	var others []string
	for _, l := range e.sup.Rows.Listeners {
		switch {
		case e.t.hears(l.Bind):
			found = append(found, l)
		case l.Bind.Port == e.t.port || len(others) < maxOthers:
			others = append(others, l.Bind.String())
		}
	}
	if len(found) == 0 {
		e.unheard(others)
		return model.Listener{}, false
	}
	l := found[0]
	e.Listener = l.Bind.String()
	for _, o := range found[1:] {
		e.note("port %d is also listened to at %s; this is about %s", o.Bind.Port, o.Bind, l.Bind)
	}
	if l.TLS != e.t.tls {
		e.Fate, e.Why, e.Mend = model.Unheard, "the port speaks no TLS", "write http://"
		if l.TLS {
			e.Why, e.Mend = "the port speaks TLS and nothing else", "write https://"
		}
		return l, false
	}
	return l, true
}

// unheard says why nobody listens.
func (e *explaining) unheard(others []string) {
	e.Fate, e.Why = model.Unheard, fmt.Sprintf("nobody listens on port %d", e.t.port)
	if e.t.ip.IsValid() {
		e.Why += " of " + e.t.ip.String()
	}
	e.Mend = "nothing is listened to"
	if len(others) > 0 {
		slices.Sort(others)
		e.Mend = "these are listened to: " + strings.Join(others[:min(len(others), maxOthers)], ", ")
	}
	for _, l := range e.col.State.Listeners {
		if !e.t.hears(l.Bind) {
			continue
		}
		e.Why = fmt.Sprintf("%s is wanted, and not in force", l.Bind)
		for _, p := range e.sup.Problems {
			if why, ok := strings.CutPrefix(p.Reason, fmt.Sprintf("listen on %s: ", l.Bind)); ok {
				e.Why, e.Mend = fmt.Sprintf("%s is wanted by %s: %s", l.Bind, p.Owner, why), p.Mend
			}
		}
	}
}

// route finds what takes the request.
func (e *explaining) route(l model.Listener) {
	var here []model.Route
	var rest *model.Route
	for i, r := range e.sup.Rows.Routes {
		switch {
		case r.Bind != l.Bind:
		case r.Match == model.Rest:
			rest = &e.sup.Rows.Routes[i]
		default:
			here = append(here, r)
		}
	}
	hit, ok := model.NewTable(here).Find(e.t.host, e.t.path)
	switch {
	case ok:
		e.takes(hit.Route)
	case rest != nil:
		hit.Route = *rest
		e.takes(*rest)
	default:
		e.Fate, e.Why = model.Unrouted, "no route of this port takes the host and the path"
	}
	e.others(l, hit.Route)
	switch {
	case ok && hit.Redirect:
		e.Fate, e.Location = model.Redirected, e.t.path+"/"
		if e.t.query != "" {
			e.Location += "?" + e.t.query
		}
		e.Why = "the route takes what lies below, and no other takes the path without its slash"
	case ok || rest != nil:
		e.service(hit.Route.Service)
	}
}

func (e *explaining) takes(r model.Route) {
	e.Route, e.Service = r.Pattern.String(), r.Service
	if o, ok := e.ownerOf(r); ok {
		e.Owner = &o
	}
}

func (e *explaining) ownerOf(r model.Route) (model.Owner, bool) {
	for i := range e.col.State.Offers {
		if o := &e.col.State.Offers[i]; slices.Contains(o.Routes, r) {
			return o.Owner, true
		}
	}
	return model.Owner{}, false
}

// others lists the routes that would take the request as well, and those that are wanted and not in force.
func (e *explaining) others(l model.Listener, taken model.Route) {
	inForce := map[model.RouteKey]model.Route{}
	add := func(r model.Route, why string) {
		if len(e.Others) < maxOthers {
			e.Others = append(e.Others, model.Other{Route: r.Pattern.String(), Service: r.Service, Why: why})
		}
	}
	for _, r := range e.sup.Rows.Routes {
		if r.Bind != l.Bind {
			continue
		}
		inForce[r.Key()] = r
		if r.Key() == taken.Key() || !r.Takes(e.t.host, e.t.path) {
			continue
		}
		add(r, yields(r, taken))
	}
	for _, r := range e.col.State.Routes {
		if r.Bind == l.Bind && inForce[r.Key()] != r && r.Takes(e.t.host, e.t.path) {
			add(r, "it is wanted, and not in force: "+e.waits(r.Service))
		}
	}
}

// yields says why a route does not take what another one takes.
func yields(r, taken model.Route) string {
	switch {
	case r.Match == model.Rest:
		return "it takes only what no other route does"
	case r.Host != taken.Host && r.Host == "":
		return "a route of the host comes before one of any"
	case r.Match != taken.Match:
		return "the whole path comes before its beginning"
	}
	return "a longer path comes before a shorter one"
}

// waits says why a route to a service is not in force.
func (e *explaining) waits(service string) string {
	for _, s := range e.sup.Servers {
		if s.Service == service && s.Health == model.Pending {
			return fmt.Sprintf("server %s has not passed its first check: %s", s.Name, cmp.Or(s.LastCheck, "it is under way"))
		}
	}
	return "it is being applied, or refused; see fnlb diff and /1/lb/status"
}

var chosenBy = map[model.Algorithm]string{
	model.PathHash:   "by a hash of the path among these %d servers",
	model.TwoRandom:  "of two of these %d servers, drawn at random, the one with fewer requests",
	model.LeastConn:  "of these %d servers the one with the fewest connections",
	model.RoundRobin: "each of these %d servers in turn",
	model.Source:     "by a hash of the client's address among these %d servers",
}

// service says which servers may get the request.
func (e *explaining) service(name string) {
	for _, s := range e.sup.Servers {
		if s.Service == name {
			e.Servers = append(e.Servers, candidate(s))
		}
	}
	takes := 0
	for _, s := range e.Servers {
		if s.Takes {
			takes++
		}
	}
	i := slices.IndexFunc(e.sup.Rows.Services, func(s model.Service) bool { return s.Name == name })
	if i < 0 {
		e.Fate, e.Why = model.NoServer, "the service is not in force"
		return
	}
	svc := e.sup.Rows.Services[i]
	if svc.BasePath != "" {
		e.Path = svc.BasePath + e.t.path
	}
	switch {
	case takes == 0 && len(e.Servers) == 0:
		e.Fate, e.Why = model.NoServer, "the service has no servers: the answer is 503"
		return
	case takes == 0:
		e.Fate, e.Why = model.NoServer, "no server of the service takes requests: the answer is 503"
		return
	}
	e.Fate, e.Why = model.Served, "the route takes it, and its service has servers"
	e.Chosen = "the only one that takes requests"
	if takes > 1 {
		e.Chosen = fmt.Sprintf(chosenBy[svc.Algorithm], takes)
	}
	if svc.Sticky != (model.Sticky{}) {
		e.note("a client that was here before stays with its server")
	}
}

func candidate(s model.ServerStatus) model.Candidate {
	c := model.Candidate{Name: s.Name, Address: s.Address, Health: s.Health, Takes: s.Health == model.Up && s.Admin == model.Ready && s.Weight.Int() > 0}
	switch {
	case c.Takes:
	case s.Health == model.Up && s.Weight.Int() == 0:
		c.Why = "its weight is 0"
	case s.Health == model.Up:
		c.Why = "it is asked to " + s.Admin.String()
	default:
		c.Why = s.LastCheck
	}
	return c
}
