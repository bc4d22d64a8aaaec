// Package conf knows HAProxy's configuration text: how it is read, quoted and compared, and what a version can do.
//
// It works on any text that HAProxy accepts, ours or a user's, and keeps nothing: every function is pure. It imports none of
// ours, so that what is written here is about HAProxy alone.
package conf
