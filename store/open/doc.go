// Package open opens the database that an address names. It is the only one that knows all of them.
package open
