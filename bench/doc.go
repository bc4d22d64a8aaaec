// Command bench measures the real fnlb with real HAProxy on this host, for the figures that README quotes; run it by bench/run.sh.
//
//	cpu     CPU per request of HAProxy and requests a second, fnlb's configuration against bench/hand.cfg
//	cost    what single directives of fnlb's configuration cost
//	reload  requests lost by node changes and reloads under load
//	start   from the command to the first balanced request, and the memory of fnlb
//	latency from the answer to PUT or DELETE to the first or last request at the node, and HAProxy's share of it
//	bulk    many servers in one State, and one change among them
//	row     thousands of changes in a row under load: requests lost, reloads, memory
//	hold    thousands of reloads asked for while long connections are open
//
// Both sides of a comparison run at the same time on core 0 and are loaded in turns of one second, in the order AB BA AB …, so
// that changes of the host's speed meet both; nodes (nginx, one process) and load (wrk) have core 1. The turns of five seconds a side
// make a round. A comparison is the median of the rounds' ratios, with the interval that holds it with at least 95 % (package
// stats). A round in which other processes used more than a tenth of a core is repeated (--quiet).
//
// Each command prints a table and writes all its figures as JSON. Ports are free ones, files lie in one temporary folder, and
// every process is ended before the command returns.
package main
