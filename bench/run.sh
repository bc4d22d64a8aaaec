#!/usr/bin/env bash
# Measures fnlb on this host: the figures that README quotes. Tables go to the terminal, all figures to bench/results/*.json.
#
#	bench/run.sh                      cpu, reload and start, with HAProxy 2.6 and 3.0: about eight minutes
#	bench/run.sh cpu                  CPU per request and requests/s against bench/hand.cfg
#	bench/run.sh cost                 what single directives cost; about 17 minutes a version
#	bench/run.sh reload               requests lost by 50 node changes and 50 SIGHUPs under load
#	bench/run.sh start                time to the first balanced request, memory with 3 and 1,000 nodes
#	bench/run.sh changes              latency, bulk, row and hold: what changes of nodes cost; about 20 minutes
#	bench/run.sh latency              from the answer to PUT or DELETE to the first or last request at the node
#	bench/run.sh bulk                 1,000 and 10,000 servers in one State, and one change among them
#	bench/run.sh row                  10,000 changes in a row under load: requests lost, reloads, memory
#	bench/run.sh hold                 1,000 reloads asked for while 500 WebSockets and 50 downloads are open
#	bench/run.sh docker               containers: start, updates under load, 300 at rest, a crash loop, POSTs; about 40 minutes, as root
#	bench/run.sh stores               SQLite, PostgreSQL, MariaDB: durable PUTs, two balancers, 10,000 nodes, 200 kills; about 15 minutes
#	bench/run.sh pools                gRPC: AddBackend, and how two random choices spread; about 3 minutes
#	bench/run.sh --rounds 20 cpu      flags go first; --help tells them
#
# For a quiet result nothing else may run on the host. Two cores are needed.
set -euo pipefail
cd "$(dirname "$0")/.."
test/install-tools.sh bench
if ! [ -x .haproxy/2.6/haproxy ] || ! [ -x .haproxy/3.0/haproxy ]; then
  test/install-tools.sh packages
  test/install-tools.sh haproxy
fi
# tested NAME PACKAGE TESTS: tests whose full size is a measurement; their figures go to the terminal and to bench/results.
tested() {
  mkdir -p bench/results
  FNLB_E2E_FULL=1 go test -count 1 -timeout 3h -v -run "$3" "$2" | tee "bench/results/$1.log" | sed -nu 's/.*figure: //p; /^ *--- FAIL/p; /^FAIL/p' | tee "bench/results/$1.txt"
}

./compile.sh
go build -o bin/bench ./bench
args=()
only=
for arg; do
  case $arg in
  changes) args+=(latency bulk row hold) ;;
  docker) only=1; tested docker ./test/containers 'TestStartLatency|TestRollingUpdate|TestSwarmUpdate|TestCrashLoop|TestCrowd|TestPosts' ;;
  stores) only=1; tested stores ./test/stores 'TestFigures|TestKilled' ;;
  pools) only=1; tested pools ./test/pools 'TestFigures' ;;
  *) args+=("$arg") ;;
  esac
done
if [ -n "$only" ] && [ ${#args[@]} = 0 ]; then exit; fi
set -- "${args[@]}"
case " $* " in
*' latency '* | *' bulk '* | *' row '* | *' hold '*) ;;
*' cpu '* | *' cost '* | *' reload '* | *' start '* | *' --help '* | *' -h '*) ;;
*) set -- "$@" cpu reload start ;;
esac
ulimit -n "$(ulimit -Hn)"
exec bin/bench "$@"
