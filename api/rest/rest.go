package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/fnlb/fnlb/api"
	"github.com/fnlb/fnlb/api/access"
	"github.com/fnlb/fnlb/model"
)

// maxBody is the longest body that is read, in bytes.
const maxBody = 64 << 10

const prefix = "/1/lb/"

// Options are what the API needs.
type Options struct {
	Nodes    api.Nodes
	Brake    api.Brake
	Reporter api.Reporter
	Traffic  api.Traffic
	Metrics  http.Handler   // answers /1/lb/metrics
	Panics   *atomic.Uint64 // counts the handlers' panics; several handlers may share it
	Own      bool           // a listener of our own: /healthz, /readyz and /metrics answer too
	Log      *slog.Logger
}

// Paths gives the paths that the API knows, sorted: on a shared port HAProxy sends these to us and all others to the nodes.
func Paths() []string {
	paths := make([]string, 0, len(calls))
	for _, c := range calls {
		paths = append(paths, prefix+c.name)
	}
	slices.Sort(paths)
	return paths
}

// call is one path and what its methods do.
type call struct {
	name    string
	short   bool // has a short form
	methods map[string]func(*handler, http.ResponseWriter, *http.Request)
}

var calls = [...]call{
	{"nodes", false, methods{http.MethodGet: (*handler).list, http.MethodPut: (*handler).set, http.MethodDelete: (*handler).remove}},
	{"status", false, methods{http.MethodGet: (*handler).status}},
	{"freeze", false, methods{http.MethodGet: (*handler).frozen, http.MethodPut: (*handler).freeze, http.MethodDelete: (*handler).thaw}},
	{"rollback", false, methods{http.MethodPost: (*handler).rollback}},
	{"changes", false, methods{http.MethodGet: (*handler).changes}},
	{"explain", false, methods{http.MethodGet: (*handler).explain}},
	{"config", false, methods{http.MethodGet: (*handler).config}},
	{"healthz", true, methods{http.MethodGet: (*handler).healthz}},
	{"readyz", true, methods{http.MethodGet: (*handler).readyz}},
	{"metrics", true, methods{http.MethodGet: (*handler).metrics}},
}

type methods = map[string]func(*handler, http.ResponseWriter, *http.Request)

type handler struct {
	o     Options
	paths map[string]*call
}

// New makes the handler of the API.
func New(o Options) http.Handler {
	h := &handler{o: o, paths: map[string]*call{}}
	for i := range calls {
		c := &calls[i]
		h.paths[prefix+c.name] = c
		if o.Own && c.short {
			h.paths["/"+c.name] = c
		}
	}
	return h
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := &startWriter{ResponseWriter: w}
	defer h.recover(started, r)
	w = started
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	c, ok := h.paths[access.Path(r)]
	if !ok {
		refuse(w, r, http.StatusNotFound, "unknown command")
		return
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // the server leaves the body away
	}
	if do, ok := c.methods[method]; ok {
		do(h, w, r)
		return
	}
	w.Header().Set("Allow", c.allow())
	if method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	refuse(w, r, http.StatusMethodNotAllowed, fmt.Sprintf("the method %s is not for this path; it takes %s", short(r.Method), c.allow()))
}

func (c *call) allow() string {
	allow := []string{http.MethodOptions}
	for m := range c.methods {
		allow = append(allow, m)
		if m == http.MethodGet {
			allow = append(allow, http.MethodHead)
		}
	}
	slices.Sort(allow)
	return strings.Join(allow, ", ")
}

// recover answers 500 for a handler that panicked. What has begun already cannot be told otherwise than by cutting it.
func (h *handler) recover(w *startWriter, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler { //nolint:errorlint // net/http compares it the same way
		panic(p)
	}
	h.o.Panics.Add(1)
	h.o.Log.Error("a management call panicked", "method", r.Method, "path", short(access.Path(r)), "panic", p, "stack", string(debug.Stack()))
	if w.started {
		panic(http.ErrAbortHandler)
	}
	refuse(w, r, http.StatusInternalServerError, "internal error; the balancer's log has more")
}

// startWriter knows whether an answer has begun.
type startWriter struct {
	http.ResponseWriter
	started bool
}

func (w *startWriter) WriteHeader(status int) {
	w.started = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *startWriter) Write(b []byte) (int, error) {
	w.started = true
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *startWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// set adds a node, or changes it: {"node":"HOST:PORT"}, and with it "weight" or "state".
func (h *handler) set(w http.ResponseWriter, r *http.Request) {
	body, ok := readBody(w, r)
	if !ok {
		return
	}
	node, wish, err := readWish(body)
	if err != nil {
		refuse(w, r, http.StatusBadRequest, err.Error())
		return
	}
	done := "node added"
	if !wish.Empty() {
		done = "node changed"
	}
	h.write(w, r, node, done, func(ctx context.Context) error { return h.o.Nodes.Set(ctx, node, wish) })
}

func (h *handler) remove(w http.ResponseWriter, r *http.Request) {
	body, ok := readBody(w, r)
	if !ok {
		return
	}
	node, err := readNode(body)
	if err != nil {
		refuse(w, r, http.StatusBadRequest, err.Error())
		return
	}
	h.write(w, r, node, "node deleted", func(ctx context.Context) error { return h.o.Nodes.Delete(ctx, node) })
}

func (h *handler) write(w http.ResponseWriter, r *http.Request, node, done string, do func(context.Context) error) {
	if err := do(model.WithAsker(r.Context(), asker(r))); err != nil {
		h.fail(w, r, err)
		return
	}
	h.o.Log.Debug("node call", "done", done, "node", node, "by", r.RemoteAddr)
	reply(w, http.StatusOK, message{done}, false)
}

// readBody reads a body of at most maxBody bytes, or answers why it does not.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return body, true
	case errors.As(err, &large):
		refuse(w, r, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is longer than %d bytes", maxBody))
	default:
		refuse(w, r, http.StatusRequestTimeout, "the body did not arrive whole, or not in time")
	}
	return nil, false
}

// asker is who makes a call, as people read it. The peer decides, never a header.
func asker(r *http.Request) string {
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return "API from " + at.Addr().Unmap().String()
	}
	return "admin socket" // a Unix socket's peer has no address
}

// fail answers an error of the source.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	var p model.Problem
	if !errors.As(err, &p) {
		h.o.Log.Error("a management call went wrong", "method", r.Method, "path", access.Path(r), "error", err)
		refuse(w, r, http.StatusInternalServerError, "internal error; the balancer's log has more")
		return
	}
	status := http.StatusInternalServerError
	switch p.Kind {
	case model.Invalid:
		status = http.StatusBadRequest
	case model.NotFound:
		status = http.StatusNotFound
	case model.Conflict:
		status = http.StatusConflict
	case model.Refused:
		status = http.StatusUnprocessableEntity
	case model.Unavailable:
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	}
	refuse(w, r, status, p.Error())
}

type message struct {
	Msg string `json:"msg"`
}

// refuse answers {"msg": why}. A body that nobody will read is not waited for.
func refuse(w http.ResponseWriter, r *http.Request, status int, why string) {
	if r.ContentLength != 0 {
		w.Header().Set("Connection", "close")
	}
	reply(w, status, message{why}, false)
}

// reply writes v as JSON and a newline. A value that JSON has no form for becomes a 500, not half an answer.
func reply(w http.ResponseWriter, status int, v any, pretty bool) {
	var body bytes.Buffer
	e := json.NewEncoder(&body)
	e.SetEscapeHTML(false)
	if pretty {
		e.SetIndent("", "  ")
	}
	if err := e.Encode(v); err != nil {
		panic(fmt.Errorf("encode an answer: %w", err)) // a fault of ours, never of a request: counted and logged as such
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // an error means that the client has gone
}
