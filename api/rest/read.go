package rest

import (
	"net/http"
	"slices"

	"github.com/fnlb/fnlb/model"
)

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

// explain says what becomes of a GET of ?url=URL.
func (h *handler) explain(w http.ResponseWriter, r *http.Request) {
	e, err := h.o.Reporter.Explain(r.URL.Query().Get("url"))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	reply(w, http.StatusOK, e, true)
}
