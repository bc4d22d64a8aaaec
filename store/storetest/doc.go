// Package storetest is for tests of store and of what stands on it: the suite that every database passes, a database in memory with faults to
// turn on, real PostgreSQL and MariaDB servers from Debian's packages on their own folders and sockets, and a proxy in front of them that
// cuts, stalls and refuses.
package storetest
