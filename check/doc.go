// Package check holds the two renderings of one health-check rule: HAProxy's directives, and a probe of our own.
//
// The supervisor probes a new server with Prober until it passes for the first time; only then is the server rendered, and
// from there on HAProxy checks it with what Directives and ServerWords gave. Both must therefore find the same: one regular
// expression is used by both, and one table of answers is given to both in the tests.
//
// The package keeps nothing about servers and decides nothing: rise and fall are counted by HAProxy alone.
package check
