package rest

import (
	"net/http"
	"time"

	"github.com/fnlb/fnlb/model"
)

// list joins the nodes with what was found about them: online is one that takes requests, all others are offline. ?full=1 tells more.
func (h *handler) list(w http.ResponseWriter, r *http.Request) {
	if full := r.URL.Query().Get("full"); full == "1" || full == "true" {
		h.listFull(w, r)
		return
	}
	servers := h.o.Reporter.Status().Servers
	up := make(map[string]bool, len(servers))
	for i := range servers {
		if servers[i].Health == model.Up {
			up[servers[i].Name] = true
		}
	}
	all := h.o.Nodes.List()
	nodes := make(map[string]string, len(all))
	for i := range all {
		nodes[all[i].Node] = "offline"
		if up[all[i].Server] && all[i].Admin != model.Maint {
			nodes[all[i].Node] = "online"
		}
	}
	reply(w, http.StatusOK, struct {
		Nodes map[string]string `json:"nodes"`
	}{nodes}, false)
}

// node is one node of the full list. Fields may be added.
type node struct {
	Node      string      `json:"node"`
	Weight    int         `json:"weight"`
	State     model.Admin `json:"state"`  // what somebody asked for
	Health    string      `json:"health"` // what was found: of several addresses the best
	Since     *time.Time  `json:"since,omitempty"`
	LastCheck string      `json:"last_check,omitempty"`
	Mend      string      `json:"mend,omitempty"`
	Requests  *uint64     `json:"requests,omitempty"` // since HAProxy's worker began; absent: not known now
	Addresses []address   `json:"addresses"`          // where it is served, or was probed last
}

// address is one address of a node. A name with a star before it may have several.
type address struct {
	Address   string     `json:"address"`
	Health    string     `json:"health"`
	Since     *time.Time `json:"since,omitempty"`
	LastCheck string     `json:"last_check,omitempty"`
	Mend      string     `json:"mend,omitempty"`
	Requests  *uint64    `json:"requests,omitempty"`
}

// healths are the words of the full list, from the best on.
var healths = [...]struct {
	health model.Health
	word   string
}{{model.Up, "online"}, {model.Draining, "draining"}, {model.Down, "offline"}, {model.Pending, "pending"}, {model.Maintenance, "maintenance"}}

// rank gives the place in healths.
func rank(health model.Health) int {
	for i := range healths {
		if healths[i].health == health {
			return i
		}
	}
	return len(healths) - 1
}

func (h *handler) listFull(w http.ResponseWriter, r *http.Request) {
	servers := h.o.Reporter.Status().Servers
	requests := h.o.Traffic.Requests(r.Context())
	of := make(map[string][]*model.ServerStatus, len(servers))
	for i := range servers {
		of[servers[i].Name] = append(of[servers[i].Name], &servers[i])
	}
	all := h.o.Nodes.List()
	nodes := make([]node, len(all))
	for i := range all {
		nodes[i] = join(&all[i], of[all[i].Server], requests)
	}
	reply(w, http.StatusOK, struct {
		Nodes []node `json:"nodes"`
	}{nodes}, true)
}

// join tells of a node what was found about its servers.
func join(row *model.NodeRow, servers []*model.ServerStatus, requests map[model.ServedAt]uint64) node {
	n := node{Node: row.Node, Weight: row.Weight.Int(), State: row.Admin, Health: "pending", Addresses: []address{}}
	best := len(healths)
	for _, s := range servers {
		place := rank(s.Health)
		a := address{Address: s.Address, Health: healths[place].word, Since: moment(s.Since), LastCheck: s.LastCheck, Mend: s.Mend}
		if count, known := requests[model.ServedAt{Service: s.Service, Name: s.Name, Address: s.Address}]; known {
			a.Requests = &count
			if n.Requests == nil {
				n.Requests = new(uint64)
			}
			*n.Requests += count
		}
		if place < best {
			best = place
			n.Health, n.Since, n.LastCheck, n.Mend = a.Health, a.Since, a.LastCheck, a.Mend
		}
		if s.Address != "" {
			n.Addresses = append(n.Addresses, a)
		}
	}
	if row.Admin == model.Maint { // what was found before says nothing any more
		n.Health = "maintenance"
	}
	return n
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
