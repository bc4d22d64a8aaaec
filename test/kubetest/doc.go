// Package kubetest runs a real kube-apiserver with a real etcd for tests: on free ports of loopback, with certificates of its own, RBAC
// on, and tokens. There is no kubelet and no controller: what these would do with a pod's status the test does (a patch of its
// sub-resource status), and what a pod serves is a server of the test.
//
// test/install-tools.sh kubernetes builds both into bin/tools.
package kubetest
