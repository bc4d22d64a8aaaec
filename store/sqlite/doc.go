// Package sqlite opens an SQLite file as a store.DB.
//
// The file is kept in WAL mode with synchronous=FULL: a commit returns after the log is on the disk, so that an answered change survives a
// loss of power, at one fsync a commit; NORMAL would save it and lose the last changes. A file that is damaged or no database is refused and
// never written to. One that was deleted or replaced while it is open is noticed, before and after each commit, since what is written then
// goes into a file without a name.
package sqlite
