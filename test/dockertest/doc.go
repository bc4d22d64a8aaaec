// Package dockertest gives tests a real Docker Engine: Debian's dockerd, in namespaces that end with the test binary.
//
// Main runs a package's tests in network, mount and process namespaces of their own, and the engine beside them. So the tests reach every
// container by its address and every published port, bridges and packet filter are real, and neither another package's engine nor
// the host's can meet this one: the bridges, mounts and processes are gone with the namespaces, even after SIGKILL. There is no way
// out of them but Build's, which hands requests for packages on to a proxy outside.
//
// It needs root. Where it cannot run its tests fail and say why; they are never skipped.
package dockertest
