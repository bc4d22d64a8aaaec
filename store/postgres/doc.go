// Package postgres opens a PostgreSQL database as a store.DB. Changes are told by LISTEN and NOTIFY, on a connection of its own; since
// poolers in between may swallow them, the revision is looked at now and then as well.
package postgres
