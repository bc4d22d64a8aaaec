package model

import "time"

// Health is what was found about a server.
type Health uint8

// The states of a server's health.
const (
	Pending     Health = iota // not admitted yet: no probe of ours has passed
	Up                        // takes requests
	Down                      // its checks fail
	Maintenance               // taken out on purpose
	Draining                  // its checks pass, and it takes no new requests, on purpose
)

// Healths counts the states of a server's health.
const Healths = int(Draining) + 1

var healths = [...]string{"pending", "up", "down", "maintenance", "draining"}

func (h Health) String() string { return name(healths[:], h) }

// MarshalText gives the state's name.
func (h Health) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads the state's name.
func (h *Health) UnmarshalText(b []byte) error { return unname(healths[:], h, b) }

// ServerStatus joins a server of the State with what HAProxy and our probe found. A name that stands for all of its addresses has one for
// each of them, all of its name.
type ServerStatus struct {
	Service   string    `json:"service"`
	Name      string    `json:"name"`
	Address   string    `json:"address,omitempty"` // IP:port, empty while the name is not resolved
	Owner     Owner     `json:"owner"`
	Health    Health    `json:"health"`
	Since     time.Time `json:"since"`
	LastCheck string    `json:"last_check,omitempty"` // printable, at most 200 bytes
	Mend      string    `json:"mend,omitempty"`       // which flag to change, where the server can never pass
	Weight    Weight    `json:"weight,omitzero"`      // asked for; left out where it is 1
	Admin     Admin     `json:"state,omitzero"`       // asked for; left out where it is ready
}

// ServedAt names a server as ServerStatus does.
type ServedAt struct{ Service, Name, Address string }

// Method is how an apply reached HAProxy.
type Method string

// The methods of an apply.
const (
	Start   Method = "start"
	Adopt   Method = "adopt" // fnlb was started again and goes on with the HAProxy that runs
	Reload  Method = "reload"
	Runtime Method = "runtime" // the worker that runs was changed, without a reload
	Noop    Method = "noop"    // the new State gives the text in force

	// These touch no process; they stand between the applies so that the list tells the whole story.
	Froze  Method = "freeze"
	Thawed Method = "thaw"
	Mended Method = "mend" // a file that somebody changed was written again
)

// Applies reports whether the method is one of HAProxy's.
func (m Method) Applies() bool { return m == Start || m == Reload || m == Runtime || m == Noop }

// Apply is one change of what HAProxy does, or an attempt.
type Apply struct {
	Revision uint64    `json:"revision"`
	At       time.Time `json:"at"`
	Method   Method    `json:"method"`
	Reasons  []string  `json:"reasons"`          // what it changed
	Causes   []string  `json:"causes,omitempty"` // who or what made it necessary: a handful, then "and N more"
	Millis   float64   `json:"ms"`
	Worker   int       `json:"worker,omitempty"` // pid that confirmed it
	Error    string    `json:"error,omitempty"`  // why it was refused; what was in force stays
	Places   []Place   `json:"places,omitempty"` // lines that Error is about
}

// Phase is where the balancer stands in its life.
type Phase string

// The phases.
const (
	Starting Phase = "starting" // HAProxy has not run an accepted configuration yet
	Serving  Phase = "serving"
	Broken   Phase = "broken" // HAProxy died and is being started again
	Stopping Phase = "stopping"
)

// HAProxyStatus describes the running HAProxy.
type HAProxyStatus struct {
	Version    string    `json:"version"`
	Master     int       `json:"master_pid"`
	Worker     int       `json:"worker_pid"`
	OldWorkers int       `json:"old_workers"` // workers of earlier configurations that still finish requests
	MaxConn    int       `json:"maxconn"`
	Started    time.Time `json:"started"`
	Restarts   uint64    `json:"restarts"`
	Mended     uint64    `json:"mended,omitempty"`       // files of ours that somebody changed and that were written again
	Behind     bool      `json:"files_behind,omitempty"` // what runs was changed at run time, and the files do not hold it yet
	Silent     bool      `json:"silent,omitempty"`       // it does not answer; problems say more
	Continued  uint64    `json:"continued,omitempty"`    // how often somebody had stopped a process of it, which was told to go on
}

// Freeze is a stop of all applies that somebody asked for.
type Freeze struct {
	Reason     string    `json:"reason"`
	Since      time.Time `json:"since"`
	By         string    `json:"by"`                    // "admin socket", "API from 10.0.0.1"
	Revision   string    `json:"revision,omitempty"`    // of the text that it pins
	RolledBack bool      `json:"rolled_back,omitempty"` // it came with a rollback
}

// SourceStatus says whether a source can see its world; while it cannot, its last truth stays.
type SourceStatus struct {
	Name   string `json:"name"`
	Up     bool   `json:"up"`
	Reason string `json:"reason,omitempty"`
	Doubts int    `json:"doubts,omitempty"` // services of which it suddenly lists much less, which is not believed yet
}

// Status is everything a person may want to know, composed by app from what the supervisor and the Collector publish. It is
// the body of /1/lb/status. Lists are sorted.
type Status struct {
	Version   string         `json:"version"`
	Phase     Phase          `json:"phase"`
	HAProxy   HAProxyStatus  `json:"haproxy"`
	Wanted    uint64         `json:"revision_wanted"`
	Applied   uint64         `json:"revision_applied"`
	LastApply *Apply         `json:"last_apply,omitempty"`
	Frozen    *Freeze        `json:"frozen,omitempty"` // nothing is applied until somebody thaws it
	Degraded  []string       `json:"degraded"`
	Sources   []SourceStatus `json:"sources"`
	Servers   []ServerStatus `json:"servers"`
	Problems  []Problem      `json:"problems"`
	Found     []Found        `json:"found,omitempty"` // what the sources made of what they looked at
}
