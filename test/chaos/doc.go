// Package chaos provokes the faults of a bad night for real, one after another and then at random, while clients that never retry
// send requests, and measures what each one costs: failed requests, and the time until HAProxy's servers, the file and what is
// wanted are the same again.
//
// Its test is seeded and bounded. A seed deals the faults out over the versions of HAProxy, each version has a balancer of its own and gets its
// share in an order of the seed's; a fault that a balancer has from its start on, such as little memory, makes one for itself. Within `go
// test` each fault comes once, on one version or another, while those run side by side; after 20 s nothing more is begun. `make chaos`
// goes on with the next seeds for minutes, one version after the other, and writes docs/faults.md.
//
// FNLB_CHAOS_TIME (a duration, for all versions together), FNLB_CHAOS_SEED (a number, the first seed), FNLB_CHAOS_ONLY (a regular expression for
// the names of faults; each version then gets them all) and FNLB_CHAOS_REPORT (a file) steer it.
package chaos
