// Package runtime talks to a running HAProxy through its master socket: it asks, changes and reloads, and believes only what
// HAProxy has confirmed.
//
// Every command goes to a worker named by pid, so that an answer can never come from another one; rows of changes may go over a socket of
// the worker's own, on a connection that has told its pid first. Only a Command, made of plain
// tokens, reaches the socket. Every call is bounded in time and memory, each is one connection, and nothing is kept between
// calls: a Client may be used by many goroutines at once.
package runtime
