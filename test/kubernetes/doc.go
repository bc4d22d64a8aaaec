// Package kubernetes tests the built binary with every HAProxy against a real API server (test/kubetest). Pods are objects whose status
// the tests move, and each is a server of the test on a loopback address of its own.
package kubernetes
