// Package app wires the parts into the program: it is the only one that sees all of the settings and imports all packages.
//
// Main dispatches the commands. Run, the balancer itself, goes through three steps: everything that can fail and touches
// nothing live (settings, template, certificate, HAProxy's abilities); the run directory with its locks and sockets; then the
// sources, the Collector, the supervisor and the management API side by side, until a signal or a fault ends them, last
// started first ended.
package app
