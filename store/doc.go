// Package store keeps small records (nodes, pools) in a database that several balancers may share. It imports none of ours.
//
// A Mirror is what the rest of the program sees: the records as they were read last, which answers at once whatever the database does, and
// Update, which changes one record and returns once that is durable. A DB is an open database; store/sqlite, store/postgres and store/mysql
// make one, store/open chooses among them by an Address. Data flows from Update through one transaction into the database, and from there,
// told by Watch, into every Mirror that shares it.
//
// Invariants:
//
//   - Update succeeds only after its change is durable in the database and visible in this Mirror. When the answer to a commit was lost, the
//     database is asked again before anything is said.
//   - Reading never waits: neither for the database nor for a change.
//   - Every call to a database is bounded in time. One that does not answer is given up with its connection.
//   - A record that is gone from the database is gone, unless the database itself is another one than before: then it was emptied, and what
//     is known is written back.
//   - No password and no secret parameter of an address is in any error, log line or String.
package store
