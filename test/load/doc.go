// Package load is a load client for tests and the bench that counts every request a balancer loses.
//
// It never retries. net/http's Transport cannot be used for that: it sends an idempotent request again by itself when a
// reused connection turns out to be dead, and so hides exactly the failures that a reload may cause. So each worker owns its
// one connection (net.Conn), writes a request with one Write and reads the answer with http.ReadResponse; whatever goes wrong
// after the first byte was handed to the kernel is a Failure, and the next request is another one.
//
// A server may close an idle connection whenever it likes. As real clients do, a worker looks for that right before it uses
// its connection again (one recv with MSG_PEEK): a close seen there harmed nobody, a new connection is made, and it is counted
// in Result.Reconnects. A close that comes later meets a request under way and is a Failure.
//
// Invariants: every request that was begun ends in Result, as an answer or as a Failure; Run returns after all its goroutines.
package load
