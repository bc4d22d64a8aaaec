// Package stores tests balancers that share a database: the built binary, real HAProxy of each version, SQLite files, and real PostgreSQL and
// MariaDB servers on folders of their own. All of it is in its tests.
package stores
