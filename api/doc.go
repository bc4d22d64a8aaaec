// Package api says what the management API needs of the rest of the program; its children are what outsiders reach:
// access (who may), rest (HTTP and JSON) and metrics.
//
//	request --> access --> rest --> Nodes (change what is wanted), Reporter (read what is)
//
// The interfaces belong to this consumer; app adapts what implements them. Nothing here changes HAProxy: a call that writes
// has done its work once the source has taken it.
package api
