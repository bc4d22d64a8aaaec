// Package sqldb is a store.DB in tables of an SQL database, the same for all of them; a Dialect says where they differ.
//
// Table fnlb_meta has the version of the schema, the random id of the database and its revision, which each transaction that changes
// anything raises by one. Its row is locked by whoever writes, so that revisions become visible in their order, and a reader that knows
// everything up to one revision needs only the rows with a higher one. Table fnlb_records has the records, each with the revision that
// wrote it; a deleted one stays as a row without a value, for those readers, until ten thousand revisions have passed.
package sqldb
