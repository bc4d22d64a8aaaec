// Package process knows HAProxy as a process: what a binary can do, whether it accepts a text, how it is started, watched and
// stopped or adopted from an earlier process of ours, how many files it may open, and who has the ports that it wants.
//
// Invariants: a process is waited on exactly once; a pid is signalled only while its process has not been reaped, one that is no child
// only by a pidfd after its command line was read; two masters on one socket never serve; SIGKILL goes
// only to what ignored SIGTERM; HAProxy gets an empty environment, a process group of its own and a file for its messages, so
// that it outlives us and nothing of ours can block it.
package process
