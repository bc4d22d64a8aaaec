// Package discovery says what a source of backends is, and collects what all sources say into one State.
//
// It stands between the sources (its children, and Static) and the supervisor:
//
//	Source --Snapshot--> Collector --State (revision)--> supervisor
//
// Invariants:
//   - A Snapshot is the whole truth of its source; the newest wins. While a source is down its last truth stays.
//   - No State leaves before every source has sent its first Snapshot, or the start-up barrier has passed.
//   - A State leaves when there was quiet; one that takes servers away leaves at once. Equal States leave once.
//   - A Snapshot that suddenly lists much less of a service is not believed at once (doubt.go); what it adds is.
//   - What a source says can be kept on disk (Kept) for the next process that adopts our HAProxy; keeping holds up nobody.
//   - One goroutine, that of Run, merges and sends; a State is never changed after it was sent.
package discovery
