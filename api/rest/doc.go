// Package rest is the management API over HTTP: the calls below /1/lb/ (compat: Fn Load Balancer), and the loop that serves
// them to clients of which some are slow, many or hostile.
//
// Paths are taken as they were sent and must match exactly; nothing is cleaned, decoded or redirected, so that the API and
// HAProxy's rules agree on what is ours. Bodies are JSON, whatever their Content-Type says, and are read strictly: what has
// two readings is refused. Every answer but the configuration and the metrics is JSON and ends in a newline; every refusal is
// {"msg": what is wrong}.
//
// HTTP status of a model.Problem: Invalid 400, NotFound 404, Conflict 409, Refused 422 (well formed, but not allowed as a
// node; 403 would say that the client may not ask), Unavailable 503 with Retry-After.
//
// Who may ask is access's matter, and is decided before.
package rest
