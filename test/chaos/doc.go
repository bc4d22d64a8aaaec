// Package chaos provokes the faults of a bad night for real, one after another and then at random, while clients that never retry
// send requests, and measures what each one costs: failed requests, and the time until HAProxy's servers, the file and what is
// wanted are the same again.
//
// Its test is seeded and bounded. Within `go test` each fault comes once; `make chaos` goes on for minutes and writes docs/faults.md.
// FNLB_CHAOS_TIME (a duration, for all versions together), FNLB_CHAOS_SEED (a number), FNLB_CHAOS_ONLY (a regular expression for the names
// of faults) and FNLB_CHAOS_REPORT (a file) steer it.
package chaos
