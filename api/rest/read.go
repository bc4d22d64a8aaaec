package rest

import (
	"net/http"
	"slices"
	"strings"

	"github.com/fnlb/fnlb/model"
)

// list joins the nodes with what was found about them; one that was not checked yet is offline.
func (h *handler) list(w http.ResponseWriter, _ *http.Request) {
	servers := h.o.Reporter.Status().Servers
	up := make(map[string]bool, len(servers))
	for i := range servers {
		if servers[i].Health == model.Up {
			up[servers[i].Name] = true
		}
	}
	all := h.o.Nodes.List()
	nodes := make(map[string]string, len(all))
	for _, n := range all {
		nodes[n] = "offline"
		if up[serverName(n)] {
			nodes[n] = "online"
		}
	}
	reply(w, http.StatusOK, struct {
		Nodes map[string]string `json:"nodes"`
	}{nodes}, false)
}

// serverName is the name of n's server. Only an IPv6 address has another name than its canonical form (model.Node.ServerName),
// and with thousands of nodes it counts that the others are not parsed.
func serverName(n string) string {
	if !strings.HasPrefix(n, "[") {
		return n
	}
	node, err := model.ParseNode(n)
	if err != nil {
		return n // not canonical, so nothing of ours
	}
	return node.ServerName()
}

func (h *handler) status(w http.ResponseWriter, _ *http.Request) {
	s := h.o.Reporter.Status()
	s.Degraded, s.Sources, s.Servers, s.Problems = filled(s.Degraded), filled(s.Sources), filled(s.Servers), filled(s.Problems)
	reply(w, http.StatusOK, s, true)
}

// changes gives the newest first.
func (h *handler) changes(w http.ResponseWriter, _ *http.Request) {
	applies := slices.Clone(h.o.Reporter.Changes())
	slices.Reverse(applies)
	reply(w, http.StatusOK, struct {
		Changes []model.Apply `json:"changes"`
	}{filled(applies)}, true)
}

func (h *handler) config(w http.ResponseWriter, r *http.Request) {
	text := h.o.Reporter.Config()
	if text == nil {
		w.Header().Set("Retry-After", "1")
		refuse(w, r, http.StatusServiceUnavailable, "no configuration is in force yet")
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(text) // an error means that the client has gone
}

// healthz is 200 as long as our process answers and the parts that make the Status do.
func (h *handler) healthz(w http.ResponseWriter, _ *http.Request) {
	h.o.Reporter.Status()
	reply(w, http.StatusOK, struct {
		Healthy bool `json:"healthy"`
	}{true}, false)
}

// readyz is 200 while HAProxy runs an accepted configuration and nobody has asked us to stop. What is degraded stands in the
// body; ?strict=1 makes it a 503.
func (h *handler) readyz(w http.ResponseWriter, r *http.Request) {
	s := h.o.Reporter.Status()
	answer := struct {
		Ready    bool     `json:"ready"`
		Degraded []string `json:"degraded"`
		Msg      string   `json:"msg,omitempty"`
	}{true, filled(s.Degraded), ""}
	switch s.Phase {
	case model.Serving:
	case model.Stopping:
		answer.Msg = "the balancer is stopping"
	case model.Broken:
		answer.Msg = "HAProxy has died and is being started again"
	default:
		answer.Msg = "HAProxy runs no accepted configuration yet"
	}
	if strict := r.URL.Query().Get("strict"); answer.Msg == "" && len(s.Degraded) > 0 && (strict == "1" || strict == "true") {
		answer.Msg = "degraded, and strict=1 asks for more"
	}
	status := http.StatusOK
	if answer.Msg != "" {
		answer.Ready, status = false, http.StatusServiceUnavailable
	}
	reply(w, status, answer, false)
}

func (h *handler) metrics(w http.ResponseWriter, r *http.Request) { h.o.Metrics.ServeHTTP(w, r) }

// filled makes an absent list an empty one, which is [] in JSON and not null.
func filled[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
