// Package config turns flags and environment into one validated Settings value, before anything is touched.
//
// Every flag may be written with one or two dashes, with = or a space before its value, and has a twin FNLB_NAME in the
// environment; a flag beats the environment. A bad value is a UsageError: one line and a hint. A flag whose work is not built
// yet is refused, never ignored. The package does no I/O: what it needs to know of the host comes in as Host.
package config
