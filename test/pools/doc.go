// Package pools tests pools of backends from outside: the built binaries fnlb and cli, a client generated from the contract, and real HAProxy
// of each version. All of it is in its tests.
package pools
