package rest

import (
	"context"
	"net/http"
	"time"

	"github.com/fnlb/fnlb/model"
)

// freeze stops all applies: {"reason":"TEXT"}, or no body.
func (h *handler) freeze(w http.ResponseWriter, r *http.Request) {
	body, ok := readBody(w, r)
	if !ok {
		return
	}
	reason, err := readReason(body)
	if err != nil {
		refuse(w, r, http.StatusBadRequest, err.Error())
		return
	}
	h.pull(w, r, func(ctx context.Context) (string, error) { return h.o.Brake.Freeze(ctx, reason) })
}

// thaw ends the freeze; a body means nothing.
func (h *handler) thaw(w http.ResponseWriter, r *http.Request) { h.pull(w, r, h.o.Brake.Thaw) }

// rollback goes back to the last good configuration; a body means nothing.
func (h *handler) rollback(w http.ResponseWriter, r *http.Request) { h.pull(w, r, h.o.Brake.Rollback) }

// pullTime bounds the wait for a reload, so that the answer is out before writeTime is over.
const pullTime = 25 * time.Second

func (h *handler) pull(w http.ResponseWriter, r *http.Request, do func(context.Context) (string, error)) {
	ctx, cancel := context.WithTimeout(r.Context(), pullTime)
	defer cancel()
	msg, err := do(model.WithAsker(ctx, asker(r)))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	reply(w, http.StatusOK, message{msg}, false)
}

// frozen tells whether applies are stopped, by whom and why.
func (h *handler) frozen(w http.ResponseWriter, _ *http.Request) {
	s := h.o.Reporter.Status()
	reply(w, http.StatusOK, struct {
		Frozen bool `json:"frozen"`
		*model.Freeze
	}{s.Frozen != nil, s.Frozen}, false)
}
