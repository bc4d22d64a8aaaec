package templates

import "time"

// Globals is what the whole process is, not one State; app sets it from its settings. Paths are absolute.
type Globals struct {
	User, Group      string            // identity of HAProxy's workers; empty when it does not start as root
	PidFile          string            // for users' templates; the built-in one needs none
	SockFile         string            // statistics socket for users' templates; the built-in one needs none
	StateFile        string            // server-state-file that is written before a reload; empty: none
	ManagementSocket string            // Unix socket by which HAProxy reaches the management API
	ManagementPaths  []string          // exact paths that listeners with Management hand to that socket
	PeersSocket      string            // Unix socket by which workers hand over their stick tables, where any may come to have some; empty: they are lost at a reload
	RunDir           string            // run directory, below which maps of routes lie; needed where there are any
	Bundled          string            // folder of a bundle's files below it, with slashes
	Certs            map[string]string // PEM file of each certificate that routes may name
	AccessLog        bool              // HAProxy's httplog goes to file descriptor 3
	HardStop         time.Duration     // limit for workers of an earlier configuration to finish; 0: none
	IPv4Only         bool              // the host has no IPv6: a listener of all addresses binds those of IPv4 alone
}
