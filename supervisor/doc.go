// Package supervisor owns HAProxy: it takes States, decides which of their servers may be shown to clients, renders, checks and
// applies, starts HAProxy again when it dies, observes it, and stops it without losing a request.
//
// Invariants:
//   - One goroutine, Run's, owns all state. It waits for nothing but its events: probes, applies, observations and the stop are
//     tasks that report back to it. At most one apply, one observation and one stop run at a time; an apply, the
//     note of a freeze and a look at the files exclude each other, because they write the same files.
//   - Everything that can fail happens before anything live is touched: a text that does not render, that HAProxy refuses or
//     whose ports are taken leaves file and process as they are.
//   - The file on disk is a candidate until a worker has confirmed it; a reload that fails puts the last good text back.
//   - Only admitted servers are rendered. A server is admitted by its first passing probe of ours, at one address; from then on
//     HAProxy decides about its health.
//   - Frozen, nothing is applied; what runs is kept running, with the text in force.
//   - No reload is made while HAProxy does not answer, but for one that has been silent for too long.
//   - A HAProxy that an earlier process left, or that somebody else runs, is adopted: nothing is concluded of it but what its worker says,
//     and what it serves is served until the first State has come.
//   - Reports about a worker that is gone are dropped.
//
// The package does not know templates: it calls the Renderer that it was given, because it must render more than once.
package supervisor
