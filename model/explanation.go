package model

// Fate is what becomes of a request, in a word.
type Fate string

// The fates.
const (
	Served     Fate = "served"
	Redirected Fate = "redirected"
	NoServer   Fate = "no-server"   // 503: its service has no server that takes requests
	Unrouted   Fate = "no-route"    // 404: no route takes it
	Unheard    Fate = "no-listener" // nobody listens there, or not what speaks so
	Own        Fate = "management"  // fnlb itself answers
	Page       Fate = "statistics"  // HAProxy's statistics page
)

// Explanation says what becomes of a GET of a URL, and why of nothing else. It is the body of /1/lb/explain.
type Explanation struct {
	URL      string      `json:"url"` // as it was understood
	Fate     Fate        `json:"fate"`
	Why      string      `json:"why"`
	Mend     string      `json:"mend,omitempty"`
	Listener string      `json:"listener,omitempty"`
	Route    string      `json:"route,omitempty"` // its pattern
	Owner    *Owner      `json:"owner,omitempty"` // who asked for the route
	Service  string      `json:"service,omitempty"`
	Location string      `json:"location,omitempty"` // of a redirect
	Path     string      `json:"path,omitempty"`     // as a server sees it, where that is another one
	Chosen   string      `json:"chosen,omitempty"`   // how the server is chosen
	Servers  []Candidate `json:"servers,omitempty"`
	Others   []Other     `json:"others,omitempty"` // other routes that would take it
	Notes    []string    `json:"notes,omitempty"`
}

// Candidate is a server of the service.
type Candidate struct {
	Name    string `json:"name"`
	Address string `json:"address,omitempty"`
	Health  Health `json:"health"`
	Takes   bool   `json:"takes"` // requests such as this one may go to it
	Why     string `json:"why,omitempty"`
}

// Other is a route that would take a request if another did not.
type Other struct {
	Route   string `json:"route"`
	Service string `json:"service"`
	Why     string `json:"why"`
}

// Takes reports whether a pattern by itself fits a request; host and path are as for Table.Find.
func (p Pattern) Takes(host, path string) bool {
	if p.Host != "" && p.Host != host {
		return false
	}
	switch p.Match {
	case Rest:
		return true
	case Exact:
		return path == p.Path
	case Prefix:
		below := p.Path
		if below != "/" {
			below += "/"
		}
		return len(path) >= len(below) && path[:len(below)] == below || path == p.Path && !p.Slash
	}
	return false
}
