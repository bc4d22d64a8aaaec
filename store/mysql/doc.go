// Package mysql opens a MySQL or MariaDB database as a store.DB. These cannot tell of changes, so that the revision is polled.
package mysql
