// Package containers tests the source of containers: the built binary with real HAProxys and a real Docker Engine.
package containers
