// Package haproxytest starts real HAProxy processes of every supported version for tests.
//
// It stands below every package that talks to HAProxy, imports none of ours, and keeps to its own folder, its own ports on
// 127.0.0.1 and the processes it started. A version that is missing is a failure, never a skip.
package haproxytest
