// Package e2e drives the built binary and a real HAProxy of every supported version from outside, as an operator would.
//
// A Balancer is one running fnlb, a Node one function node. Both end with the test, which fails when something of them is left
// behind.
package e2e
