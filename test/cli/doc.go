// Package cli drives the commands of fnlb by scripts that read as documentation: testdata/*.txtar needs no HAProxy,
// testdata/haproxy/*.txtar runs with every supported version.
package cli
